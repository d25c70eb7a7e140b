"""Memory that a step works with and that somebody overwrites afterwards: the denoiser, the host, or the run itself.

What a step returns, and what plugins keep in the run, must not lie there.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor

from guidance_core.algebra.memory import storage_of
from guidance_core.errors import PluginError

_NUMBERS_AND_TEXTS = (bool, int, float, complex, str, bytes, type(None))
_CLOSED = (type, FunctionType, MethodType, BuiltinFunctionType, ModuleType, torch.nn.Module)
"Nothing of a step is looked for in these."


class Lent:
    """The memory of some tensors, which is overwritten after a step."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._storages = {storage_of(tensor) for tensor in tensors} - {0}
        self.met_objects = False
        "Whether `apart` met something other than numbers, texts, tensors, dicts, lists and tuples."

    def apart(self, value: Any, whose: str) -> Any:
        """Return a value with copies of those tensors in it that lie in lent memory.

        It looks into dicts, lists, tuples, deques, and the attributes of objects, and copies an object with such a
        tensor. Nobody can look into anything else, such as what a function refers to.

        Raises:
            PluginError: an object with such a tensor cannot be copied.
        """
        return self._apart(value, whose, {})

    def _apart(self, value: Any, whose: str, known: dict[int, Any]) -> Any:
        if isinstance(value, Tensor):
            return value.clone() if storage_of(value) in self._storages else value
        if isinstance(value, _NUMBERS_AND_TEXTS):
            return value
        if id(value) in known:
            return known[id(value)]
        known[id(value)] = value
        self.met_objects |= not isinstance(value, dict) and type(value) not in (list, tuple)
        inside = dict(_inside(value))
        made = {key: self._apart(each, whose, known) for key, each in inside.items()}
        if any(made[key] is not each for key, each in inside.items()):
            try:
                value = _with(value, made)
            except Exception as error:
                raise PluginError(
                    f"{whose} keeps a prediction, the sample or the result in a {type(value).__name__} that cannot be "
                    f"copied ({type(error).__name__}: {error}); keep copies of tensors there, made with .clone()."
                ) from error
            known[id(value)] = value
        return value


def _inside(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield what a container or an object holds, each with its key, place or name."""
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, (list, tuple, deque)):
        yield from enumerate(value)
    elif not isinstance(value, _CLOSED):
        yield from getattr(value, "__dict__", {}).items()
        for cls in type(value).__mro__:
            slots = cls.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                    yield name, getattr(value, name)


def _with(value: Any, made: dict[Any, Any]) -> Any:
    """Return a copy of a container or an object that holds these in place of what it held."""
    if isinstance(value, tuple):
        return value._make(made.values()) if hasattr(value, "_make") else type(value)(made.values())
    own = copy.copy(value)
    if isinstance(value, (dict, list, deque)):
        for key, each in made.items():
            own[key] = each
    else:
        for name, each in made.items():
            if each is not getattr(value, name):
                object.__setattr__(own, name, each)
    return own
