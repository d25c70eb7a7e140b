"""What a process holds: memory, tensors, threads and file descriptors, which long runs must leave flat."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path
from typing import Any

import attrs
import torch

PAGE = os.sysconf("SC_PAGE_SIZE")


@attrs.frozen
class Usage:
    """One process at one moment."""

    mib: float
    "Resident memory."
    tensors: int
    threads: int
    descriptors: int

    def grown(self, since: Usage) -> Usage:
        """Return by how much it has grown."""
        return Usage(*(now - then for now, then in zip(attrs.astuple(self), attrs.astuple(since), strict=True)))


TOLERANCE = Usage(mib=16.0, tensors=300, threads=0, descriptors=0)
"""How much a rank may grow from the start to the middle of a search, and from the middle to its end.

The library keeps up to 256 tensors of one number each. One tensor for each fault would be a thousand.
"""


def of_rank(group: Any) -> Usage:
    """Return what this process holds."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # ranks hand nothing back by themselves
    return Usage(
        mib=int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20,
        tensors=sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects()),
        threads=len(os.listdir("/proc/self/task")),
        descriptors=len(os.listdir("/proc/self/fd")),
    )
