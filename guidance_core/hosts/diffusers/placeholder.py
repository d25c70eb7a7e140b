"""A tensor that stands for a prediction which is not made yet, and raises when anything reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from guidance_core.errors import DenoiserError

_DEFERRED = frozenset(
    getattr(owner, name)
    for owner, names in (
        (Tensor, ("__getitem__", "__neg__", "float", "to", "type", "neg", "squeeze", "unsqueeze")),
        (Tensor, ("add", "__add__", "__radd__", "sub", "__sub__", "__rsub__", "mul", "__mul__", "__rmul__")),
        (torch, ("add", "neg", "mul", "sub")),
    )
    for name in names
    if hasattr(owner, name)
)
"Operations that look at no value and no shape, and change nothing in place."


class Placeholder(Tensor):
    """What a pipeline gets from its first call of two; the second call fills it.

    Until then every operation on it raises `DenoiserError`, but those that can wait if it `defers`. Afterwards it is
    the tensor that it was filled with.
    """

    _filled: Tensor | None
    _why: str
    _defers: bool
    _awaits: Placeholder | None
    "The one that it is made of, if any."
    _later: Callable[[], Any] | None

    @classmethod
    def pending(cls, why: str, *, defers: bool = False) -> Placeholder:
        """Return one that is not filled yet.

        Args:
            why: what the error says.
            defers: whether slices, sums and multiples of it are placeholders too, made when they are read.
        """
        made = torch.empty(0, device="cpu").as_subclass(cls)
        made.__dict__.update(_filled=None, _why=why, _defers=defers, _awaits=None, _later=None)
        return made

    def fill(self, prediction: Tensor) -> None:
        """Have it be a prediction from now on."""
        self.__dict__["_filled"] = prediction

    @property
    def is_pending(self) -> bool:
        """Whether reading it raises."""
        awaited = self.__dict__["_awaits"]
        return awaited.is_pending if awaited is not None else self.__dict__["_filled"] is None

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation on what the placeholders among its arguments were filled with."""
        named = kwargs or {}
        waiting = next((each for each in (*args, *named.values()) if isinstance(each, cls) and each.is_pending), None)
        if waiting is not None and waiting.__dict__["_defers"] and func in _DEFERRED:
            made = cls.pending(waiting.__dict__["_why"], defers=True)
            made.__dict__["_awaits"] = waiting
            made.__dict__["_later"] = lambda: cls.__torch_function__(func, types, args, kwargs)
            return made
        given = [_read(value) for value in args]
        return func(*given, **{name: _read(value) for name, value in named.items()})

    def __repr__(self) -> str:  # type: ignore[override]
        return "Placeholder(not made yet)" if self.is_pending else repr(_read(self))


def _read(value: Any) -> Any:
    if isinstance(value, Placeholder):
        state = value.__dict__
        if value.is_pending:
            raise DenoiserError(state["_why"])
        if state["_filled"] is None:
            state["_filled"] = state["_later"]()
        return state["_filled"]
    if type(value) in (list, tuple):
        return type(value)(_read(each) for each in value)
    return value
