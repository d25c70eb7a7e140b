"""A tensor that stands for a prediction which is not made yet, and raises when anything reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from guidance_core.errors import DenoiserError


class Placeholder(Tensor):
    """What a pipeline gets from its first call of two; the second call fills it.

    Until then every operation on it raises `DenoiserError`. Afterwards it is the tensor that it was filled with.
    """

    _filled: Tensor | None
    _why: str

    @classmethod
    def pending(cls, why: str) -> Placeholder:
        """Return one that is not filled yet.

        Args:
            why: what the error says.
        """
        made = torch.empty(0, device="cpu").as_subclass(cls)
        made.__dict__.update(_filled=None, _why=why)
        return made

    def fill(self, prediction: Tensor) -> None:
        """Have it be a prediction from now on."""
        self.__dict__["_filled"] = prediction

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation on what the placeholders among its arguments were filled with."""
        given = [_read(value) for value in args]
        return func(*given, **{name: _read(value) for name, value in (kwargs or {}).items()})

    def __repr__(self) -> str:  # type: ignore[override]
        filled = self.__dict__["_filled"]
        return "Placeholder(not made yet)" if filled is None else repr(filled)


def _read(value: Any) -> Any:
    if isinstance(value, Placeholder):
        filled = value.__dict__["_filled"]
        if filled is None:
            raise DenoiserError(value.__dict__["_why"])
        return filled
    if type(value) in (list, tuple):
        return type(value)(_read(each) for each in value)
    return value
