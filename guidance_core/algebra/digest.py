"""Fingerprints of plans, by which processes find out that they are about to do different things.

A fingerprint has a few named parts, each a 64-bit number, so that a difference can be named. It is
made from what is known on the host: tensors on another device count by shape and dtype alone, so that
nothing waits for them.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import attrs
import torch
from torch import Tensor

from guidance_core.parameters.values import TensorValue

PARTS = (
    "methods or their parameters",
    "sigmas",
    "settings of the run",
    "what they were given",
    "step",
    "branches",
    "strengths or corrections",
    "sample",
    "which run it is, counted from the group's first",
    "executor",
)
"What each part of a fingerprint stands for, as messages name it."


def digest(parts: Iterable[Any]) -> int:
    """Return a signed 64-bit number that equal values share, on every machine."""
    text = "\x1f".join(_text(part) for part in parts)
    return int.from_bytes(blake2b(text.encode(errors="backslashreplace"), digest_size=8).digest(), "big", signed=True)


_PLAIN = (bool, int, float, str, bytes, complex, range, slice, torch.dtype, torch.device, torch.Size)


def _text(value: Any) -> str:
    """Write a value so that equal ones read the same in every process."""
    if value is None or isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, TensorValue):
        return _text(value.tensor)
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)} {value.dtype} {_bits(value)}"
    if isinstance(value, Mapping):
        return "{" + ",".join(sorted(f"{_text(key)}:{_text(inner)}" for key, inner in value.items())) + "}"
    if isinstance(value, tuple | list):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, frozenset | set):
        return "{" + ",".join(sorted(map(_text, value))) + "}"
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, enum.Enum):
        return f"{kind}.{value.name}"
    if attrs.has(type(value)):
        fields = ((field.name, getattr(value, field.name)) for field in attrs.fields(type(value)) if field.eq)
        return kind + _text(list(fields))
    return kind  # anything else may print an address, which differs between processes


def _bits(tensor: Tensor) -> str:
    """Return a digest of a CPU tensor's bits; nothing for one on a device, which would have to be waited for."""
    if tensor.device.type != "cpu":
        return ""
    held = tensor.detach().contiguous()
    bits = ctypes.string_at(held.data_ptr(), held.numel() * held.element_size()) if held.numel() else b""
    return blake2b(bits, digest_size=8).hexdigest()
