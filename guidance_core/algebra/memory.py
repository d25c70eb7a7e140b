"""Where tensors lie in memory, and whether anything was written there.

A model may return memory that its next forward overwrites: the static buffers of an engine, or tensors given as `out=`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import gcd
from typing import Any, TypeAlias

import torch
from torch import Tensor

PATIENCE = 10_000
"Places tried before two interleaved tensors count as overlapping; those cut from one whole need some ten."

Stride: TypeAlias = tuple[int, int, int]
"How far apart two neighbours lie, in bytes, and the least and the largest number of such moves."


def overlap(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have an element in common; False for those whose memory cannot be seen."""
    if one.device != other.device or not one.numel() or not other.numel():
        return False
    here, there = address_of(one), address_of(other)
    if not here or not there:
        return False
    least: dict[int, int] = {0: 0}  # by stride in bytes; one byte of an element is 1 from the next
    most: dict[int, int] = {0: 0}
    for tensor, bounds, sign in ((one, least, -1), (other, most, 1)):
        bytes_each = tensor.element_size()
        bounds[1] = sign * (bytes_each - 1)
        for stride, size in zip(tensor.stride(), tensor.shape, strict=True):
            bounds[stride * bytes_each] = bounds.get(stride * bytes_each, 0) + sign * (size - 1)
    lengths = sorted((least.keys() | most.keys()) - {0}, reverse=True)
    strides = [(stride, least.get(stride, 0), most.get(stride, 0)) for stride in lengths]
    return _reaches(here - there, strides, [PATIENCE])


def _reaches(distance: int, strides: Sequence[Stride], left: list[int]) -> bool:
    """Whether moves along these strides can lead as far as `distance`."""
    if not strides:
        return distance == 0
    (stride, least, most), *smaller = strides
    if distance % gcd(*(each for each, _, _ in strides)):
        return False
    low = sum(each * bound for each, bound, _ in smaller)
    high = sum(each * bound for each, _, bound in smaller)
    first, last = -((high - distance) // stride), (distance - low) // stride
    for count in range(max(first, least), min(last, most) + 1):
        left[0] -= 1
        if left[0] < 0 or _reaches(distance - count * stride, smaller, left):
            return True
    return False


def address_of(tensor: Tensor) -> int:
    """Return where a tensor's first element lies; 0 where that cannot be seen."""
    try:
        return tensor.data_ptr() if _has_memory(tensor) else 0
    except RuntimeError:  # under torch.func
        return 0


def storage_of(tensor: Tensor) -> int:
    """Return where the memory begins that a tensor shares with its views; 0 where that cannot be seen."""
    try:
        return tensor.untyped_storage().data_ptr() if _has_memory(tensor) else 0
    except (RuntimeError, NotImplementedError):
        return 0


def _has_memory(tensor: Tensor) -> bool:
    """Whether a tensor is not one that only stands for others, such as torch's FakeTensor or a DTensor."""
    return tensor.layout is torch.strided and type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__


def fills_its_storage(tensor: Tensor) -> bool:
    """Whether every write that torch counts for a tensor changes the tensor itself."""
    return storage_of(tensor) != 0 and tensor.untyped_storage().nbytes() == tensor.nbytes


def tensors_in(prediction: Any) -> Iterator[Tensor]:
    """Yield the tensors of a prediction, whatever its structure."""
    if isinstance(prediction, Tensor):
        yield prediction
    elif isinstance(prediction, (tuple, list)):
        for each in prediction:
            yield from tensors_in(each)
    elif isinstance(prediction, Mapping):
        yield from tensors_in(tuple(prediction.values()))


def copy_of(prediction: Any) -> Any:
    """Return a prediction with tensors of its own."""
    if isinstance(prediction, Tensor):
        return prediction.clone()
    if isinstance(prediction, Mapping):
        return {name: copy_of(each) for name, each in prediction.items()}
    if isinstance(prediction, (tuple, list)):
        return tuple(map(copy_of, prediction))
    return prediction
