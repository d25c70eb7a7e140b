"""Statistics of large predictions in float32 or another space, in which they are never held: blocks are read instead.

They have the bits of the same statistics of whole tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from guidance_core.algebra.arithmetic import BLOCK, accumulation_dtype, is_blocked, to_space
from guidance_core.algebra.reductions import LEAF, Read, is_by_leaves, is_tracked
from guidance_core.algebra.spaces import IDENTITY, Affine
from guidance_core.algebra.statistics import Statistic


def by_leaves(statistic: Statistic, predictions: Sequence[Tensor], sample: Tensor, conversion: Affine) -> Tensor | None:
    """Return a statistic per sample, `[B, 1, ...]`, of large predictions in another space; None of any other.

    Args:
        statistic: what to form.
        predictions: `[B, ...]` of one shape, in the host's space; one may stand there twice.
        sample: the noisy sample, of the same shape.
        conversion: from the host's space.
    """
    like = predictions[0]
    if not statistic.is_of_samples or conversion.by_element or not is_blocked(like) or not is_by_leaves(like):
        return None
    if (n := like[0].numel()) <= LEAF or any(map(is_tracked, (*predictions, sample))):
        return None  # of what is tracked, gradients would need the blocks, which share their memory
    if any(each.dtype is not like.dtype for each in predictions):
        return None
    known = []
    for number in range(like.shape[0]):
        reads = {id(each): _reader(each[number], sample[number], conversion) for each in predictions}
        row = statistic.of_long_rows([reads[id(each)] for each in predictions], n)
        if row is None:
            return None
        known.append(row)
    return torch.stack(known).view(-1, *(1,) * (like.ndim - 1))


def _reader(prediction: Tensor, sample: Tensor, conversion: Affine) -> Read:
    """Read one sample's prediction in a space a block at a time, without ever holding it whole."""
    row, noisy = prediction.reshape(-1), sample.reshape(-1)
    working = accumulation_dtype(row)
    if conversion is IDENTITY and row.dtype is working:
        return lambda start, stop: row[start:stop]
    buffer = torch.empty(BLOCK, dtype=working, device=row.device)
    loaded = buffer if conversion is IDENTITY else torch.empty_like(buffer)

    def read(start: int, stop: int) -> Tensor:
        total = buffer[: stop - start].copy_(row[start:stop])
        if conversion is IDENTITY:
            return total
        part = noisy[start:stop]
        if part.dtype != working:
            part = loaded[: stop - start].copy_(part)
        return to_space(total, part, conversion)

    return read
