"""Statistics of large predictions in float32 or another space, in which they are never held: blocks are read instead.

They have the bits of the same statistics of whole tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from guidance_core.algebra.arithmetic import accumulation_dtype, is_blocked, to_space
from guidance_core.algebra.reductions import (
    LEAF,
    DistanceOf,
    NormOf,
    ProductOf,
    Read,
    Reduction,
    StdOf,
    blocks_of,
    is_by_leaves,
    is_tracked,
    reduced,
    room,
)
from guidance_core.algebra.spaces import IDENTITY, Affine
from guidance_core.algebra.statistics import Distance, Inner, Norm, Statistic, Std

_REDUCTIONS: Mapping[type[Statistic], type[Reduction]] = {
    Distance: DistanceOf,
    Inner: ProductOf,
    Norm: NormOf,
    Std: StdOf,
}
"By statistic of ours: how several are formed in one read."


def by_leaves(statistic: Statistic, predictions: Sequence[Tensor], sample: Tensor, conversion: Affine) -> Tensor | None:
    """Return a statistic per sample, `[B, 1, ...]`, of large predictions in another space; None of any other.

    Args:
        statistic: what to form.
        predictions: `[B, ...]` of one shape, in the host's space; one may stand there twice.
        sample: the noisy sample, of the same shape.
        conversion: from the host's space.
    """
    return all_by_leaves([(statistic, predictions)], sample, conversion)[0]


def all_by_leaves(
    wanted: Sequence[tuple[Statistic, Sequence[Tensor]]], sample: Tensor, conversion: Affine
) -> list[Tensor | None]:
    """Return what `by_leaves` returns for each statistic and its predictions, which are read once for all."""
    found: list[Tensor | None] = [None] * len(wanted)
    like = next((given[0] for _, given in wanted if given), sample)
    if conversion.by_element or not is_blocked(like) or not is_by_leaves(like):
        return found
    if like[0].numel() <= LEAF or is_tracked(sample):
        return found  # of what is tracked, gradients would need the blocks, which share their memory
    fitting = [(place, *each) for place, each in enumerate(wanted) if _is_unheld(*each, like)]
    together = [each for each in fitting if type(each[1]) in _REDUCTIONS]
    values = _together([each[1:] for each in together], sample, conversion) if together else []
    for (place, *_), value in zip(together, values, strict=True):
        found[place] = value
    for place, statistic, given in fitting:
        if type(statistic) not in _REDUCTIONS:
            found[place] = _alone(statistic, given, sample, conversion)
    return found


def _together(wanted: Sequence[tuple[Statistic, Sequence[Tensor]]], sample: Tensor, conversion: Affine) -> list[Tensor]:
    """Return statistics that have a reduction, in one read for each sample."""
    distinct = list({id(each): each for _, given in wanted for each in given}.values())
    numbers = {id(each): number for number, each in enumerate(distinct)}
    places = [tuple(numbers[id(each)] for each in given) for _, given in wanted]
    like, count = distinct[0], distinct[0].shape[0]
    flat = [[each.reshape(-1)] if count == 1 else each.reshape(count, -1).unbind() for each in distinct]
    owned = conversion is not IDENTITY or like.dtype is not accumulation_dtype(like)
    by_sample = []
    for number in range(count):
        noisy = None if conversion is IDENTITY else sample[number].reshape(-1)
        blocks = [_blocks(each[number], noisy, conversion) for each in flat]
        reductions = [_REDUCTIONS[type(statistic)]() for statistic, _ in wanted]
        by_sample.append(reduced(blocks, list(zip(reductions, places, strict=True)), owned=owned))
    ones = (1,) * (like.ndim - 1)
    if count == 1:
        return [value.view(1, *ones) for value in by_sample[0]]
    return [torch.stack(values).view(-1, *ones) for values in zip(*by_sample, strict=True)]


def _alone(statistic: Statistic, given: Sequence[Tensor], sample: Tensor, conversion: Affine) -> Tensor | None:
    """Return a statistic of a third party, which reads rows for itself."""
    like, rows = given[0], []
    for number in range(like.shape[0]):
        noisy = None if conversion is IDENTITY else sample[number].reshape(-1)
        reads = {id(each): _reader(each[number].reshape(-1), noisy, conversion) for each in given}
        row = statistic.of_long_rows([reads[id(each)] for each in given], like[0].numel())
        if row is None:
            return None
        rows.append(row)
    return torch.stack(rows).view(-1, *(1,) * (like.ndim - 1))


def _is_unheld(statistic: Statistic, given: Sequence[Tensor], like: Tensor) -> bool:
    """Whether a statistic is one of whole samples, of predictions that are like one that is large."""
    return (
        statistic.is_of_samples
        and len(given) == statistic.takes
        and all(each.dtype is like.dtype and each.shape == like.shape and not is_tracked(each) for each in given)
    )


def _blocks(row: Tensor, noisy: Tensor | None, conversion: Affine) -> Iterable[Tensor]:
    """Read one sample's prediction in a space a block at a time, without ever holding it whole."""
    working = accumulation_dtype(row)
    if noisy is not None:
        return _converted(blocks_of(row), blocks_of(noisy), conversion, working)
    return blocks_of(row) if row.dtype is working else _loaded(blocks_of(row), working)


def _loaded(blocks: Sequence[Tensor], working: torch.dtype) -> Iterator[Tensor]:
    """Yield blocks in a dtype, each in the memory of the one before it."""
    buffer = torch.empty_like(blocks[0], dtype=working)
    for block in blocks:
        yield room(buffer, block.shape).copy_(block)


def _converted(
    blocks: Sequence[Tensor], noisy: Sequence[Tensor], conversion: Affine, working: torch.dtype
) -> Iterator[Tensor]:
    """Yield blocks in a space, likewise."""
    for total, part in zip(_loaded(blocks, working), noisy, strict=True):
        yield to_space(total, part if part.dtype is working else part.to(working), conversion)


def _reader(row: Tensor, noisy: Tensor | None, conversion: Affine) -> Read:
    """Read one sample's prediction in a space, from any element to any."""
    working = accumulation_dtype(row)

    def read(start: int, stop: int) -> Tensor:
        part = row[start:stop].to(working)
        if noisy is None:
            return part
        return to_space(part, noisy[start:stop].to(working), conversion, owned=row.dtype is not working)

    return read
