"""Numbers that stand for values, by which processes find out that they are about to do different things.

A fingerprint has a few named parts, each a 64-bit number, so that a difference can be named.
"""

from __future__ import annotations

import dataclasses
import enum
import re
import sys
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import attrs
import torch
from torch import Tensor

from guidance_core.algebra.checksum import checksum, parts_of
from guidance_core.errors import brief
from guidance_core.parameters.values import TensorValue, plain_number

PARTS = (
    "methods or their parameters",
    "sigmas",
    "settings of the run",
    "versions",
    "step",
    "branches",
    "strengths or corrections",
    "sample",
    "which run it is, counted from the group's first",
    "executor",
)
"What each part of a fingerprint stands for, as messages name it."


def digest(parts: Iterable[Any]) -> int:
    """Return a signed 64-bit number that equal values share, on every machine.

    It is made from what is known on the host: tensors on another device count by shape and dtype alone, so that nothing
    waits for them, and objects of unknown kinds by their class.
    """
    return digest_of_text("\x1f".join(map(_WRITER.text, parts)))


def mark_of(*values: Any) -> str:
    """Return a short mark that equal values share, to stand beside a text that may not show in what they differ."""
    return f"(#{digest(values) & 0xFFFFFFFF:08x})"


def in_words(value: object, longest: int = 200) -> str:
    """Write a value that somebody gave as every process does: without addresses in memory."""
    return brief(value, longest, written=lambda given: _ADDRESS.sub("", repr(given)))


_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")


def digest_of_text(text: str) -> int:
    """Return a signed 64-bit number that stands for a text."""
    return int.from_bytes(blake2b(text.encode(errors="backslashreplace"), digest_size=8).digest(), "big", signed=True)


_PLAIN = (bool, int, float, str, bytes, complex, range, slice, torch.dtype, torch.device, torch.Size)


class Writer:
    """Writes values so that equal ones read the same in every process."""

    def text(self, value: Any) -> str:
        """Write a value."""
        if value is None or isinstance(value, _PLAIN):
            return repr(plain_number(value))
        if isinstance(value, TensorValue):
            return self.text(value.tensor)
        if isinstance(value, Tensor):
            return self.kind_of(value) + self.bits_of(value)
        if isinstance(value, Mapping):
            return "{" + ",".join(sorted(f"{self.text(key)}:{self.text(inner)}" for key, inner in value.items())) + "}"
        if isinstance(value, tuple | list):
            return "[" + ",".join(map(self.text, value)) + "]"
        if isinstance(value, frozenset | set):
            return "{" + ",".join(sorted(map(self.text, value))) + "}"
        if isinstance(value, enum.Enum):
            return f"{name_of(type(value))}.{value.name}"
        numpy: Any = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.generic | numpy.ndarray):
            return self._of_numpy(value)
        fields = self.fields_of(value)
        return self.other(value) if fields is None else name_of(type(value)) + self.text(fields)

    def fields_of(self, value: Any) -> list[tuple[str, Any]] | None:
        """Return the fields of an attrs or data class by which its instances are compared; None for others."""
        if attrs.has(type(value)):
            return [(field.name, getattr(value, field.name)) for field in attrs.fields(type(value)) if field.eq]
        if dataclasses.is_dataclass(type(value)):
            return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value) if field.compare]
        return None

    def kind_of(self, tensor: Tensor) -> str:
        """Write what is known of a tensor without looking at it."""
        shape = "nested" if tensor.is_nested else tuple(tensor.shape)
        return f"tensor {shape} {tensor.dtype} "

    def bits_of(self, tensor: Tensor) -> str:
        """Write what stands for a tensor's bits; nothing for one on a device, which would have to be waited for."""
        if tensor.device.type != "cpu":
            return ""
        return ",".join(str(checksum(part).item()) for part in parts_of(tensor) if part.device.type == "cpu")

    def other(self, value: Any) -> str:
        """Write a value of an unknown kind, which may print an address that differs between processes."""
        return name_of(type(value))

    def _of_numpy(self, value: Any) -> str:
        if value.ndim == 0 and value.dtype.kind in "biufcSU":
            return self.text(value.item())
        if value.dtype.kind == "O":
            return f"array {value.shape} {self.text(value.tolist())}"
        numpy: Any = sys.modules["numpy"]
        bits = blake2b(numpy.ascontiguousarray(value).reshape(-1).view(numpy.uint8), digest_size=8).hexdigest()
        return f"array {value.shape} {value.dtype.str} {bits}"


_WRITER = Writer()


def name_of(kind: type) -> str:
    """Return where a class is defined; the script that was started is the same module in processes that it spawned."""
    module = "__main__" if kind.__module__ == "__mp_main__" else kind.__module__
    return f"{module}.{kind.__qualname__}"
