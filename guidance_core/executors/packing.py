"""Many tensors in one buffer, so that one collective moves all of them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import attrs
import torch
from torch import Tensor

ALIGNMENT = 16
"Bytes; every tensor starts at a multiple, so that its bytes can be viewed as its dtype."


@attrs.frozen
class Slot:
    """The place of one tensor in a buffer of bytes."""

    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def stop(self) -> int:
        """First byte past the tensor."""
        return self.start + prod(self.shape) * self.dtype.itemsize

    def view(self, buffer: Tensor) -> Tensor:
        """Return the tensor that lies at this place of a one-dimensional `uint8` buffer."""
        return buffer[self.start : self.stop].view(self.dtype).view(self.shape)


def slots_of(tensors: Sequence[tuple[tuple[int, ...], torch.dtype]], start: int = 0) -> tuple[list[Slot], int]:
    """Return a place for every (shape, dtype), one behind the other, and the byte after the last.

    The first begins at byte `start`, a multiple of `ALIGNMENT`.
    """
    slots = []
    for shape, dtype in tensors:
        slot = Slot(start, tuple(shape), dtype)
        slots.append(slot)
        start = -(-slot.stop // ALIGNMENT) * ALIGNMENT
    return slots, start
