"""The one expression a step is made of, evaluated without waste: `a·sample + b·Σ wᵢ·pᵢ`.

Terms are accumulated in float32 (float64 where a prediction is float64), in the order given, and
rounded once. Every elementary operation is rounded on its own: no fused multiply-add, whose use
would depend on an element's place in memory. So a result depends on the values alone, not on batch
mates, strides, the number of threads, or whether it was computed block by block.

On CPUs large tensors are worked on in blocks that stay in cache, which also keeps temporaries small.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from guidance_core.spaces import IDENTITY, Affine

BLOCK = 131072
"Elements worked on at a time: the float32 temporaries of a block stay in cache."

ONE = 1.0
"The weight of a term that is taken as it is, compared by identity."

Weight: TypeAlias = float | Tensor
"`ONE`, a scalar tensor, or a tensor with as many dimensions as the prediction, each its size or 1."

Term: TypeAlias = tuple[Tensor, Weight]
Span: TypeAlias = tuple[slice, slice]


@functools.lru_cache(maxsize=4096)
def scalar(number: float) -> Weight:
    """Return a number as a weight: a scalar tensor, which torch takes faster, and 1 as it is."""
    return ONE if number == 1.0 else torch.tensor(number, dtype=torch.float64)


def accumulation_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype that sums of such tensors are accumulated in: float32, or float64 for float64."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def evaluate(
    terms: Sequence[Term],
    sample: Tensor | None = None,
    space: Affine = IDENTITY,
    *,
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Return `a·sample + b·Σ wᵢ·pᵢ`, rounded once to `dtype`.

    Args:
        terms: predictions `[B, ...]` of one shape, with their weights.
        sample: the noisy sample, of the same shape; needed where `a` is not 0.
        space: `a` and `b`.
        dtype: of the result; the accumulation dtype of the first prediction if not given.
        out: contiguous buffer of the accumulation dtype to write a large result into.

    Returns:
        The result; where nothing is to be computed, the prediction itself.
    """
    first, weight = terms[0]
    working = accumulation_dtype(first)
    dtype = dtype or working
    if len(terms) == 1 and weight is ONE and space.is_identity and first.dtype == dtype:
        return first
    if is_blocked(first) and not _is_tracked(terms):
        result = out if out is not None and out.dtype == dtype else torch.empty(first.shape, dtype=dtype)
        _by_blocks(result, terms, sample, space, working)
        return result
    total = _sum(terms, working)
    total = to_space(total, sample, space, in_place=total is not first)
    return total if dtype == working else total.to(dtype)


def is_blocked(tensor: Tensor) -> bool:
    """Whether a tensor of this size and device is worked on block by block."""
    return tensor.is_cpu and tensor.numel() > BLOCK


def _is_tracked(terms: Sequence[Term]) -> bool:
    return torch.is_grad_enabled() and any(prediction.requires_grad for prediction, _ in terms)


def _sum(terms: Sequence[Term], working: torch.dtype) -> Tensor:
    """Return the sum of the terms; the first prediction itself where there is nothing to compute."""
    total: Tensor | None = None
    for prediction, weight in terms:
        if prediction.dtype == working:
            term = prediction if weight is ONE else prediction * weight
        else:
            term = prediction.to(working)
            if weight is not ONE:
                term.mul_(weight)
        if total is None:
            total = term
        elif total is terms[0][0]:
            total = total + term
        else:
            total.add_(term)
    assert total is not None
    return total


def to_space(total: Tensor, sample: Tensor | None, space: Affine, *, in_place: bool = True) -> Tensor:
    """Return `a·sample + b·total`; `total` may be overwritten if `in_place`."""
    if space.is_identity:
        return total
    if space.a == 0.0 or sample is None:
        return total.mul_(space.b_tensor) if in_place else total * space.b_tensor
    if sample.dtype != total.dtype:
        sample = sample.to(total.dtype)
    if space.a == -space.b:
        return (total.sub_(sample) if in_place else total - sample).mul_(space.b_tensor)
    scaled = total.mul_(space.b_tensor) if in_place else total * space.b_tensor
    return scaled.add_(sample if space.a == 1.0 else sample * space.a_tensor)


def _by_blocks(
    result: Tensor,
    terms: Sequence[Term],
    sample: Tensor | None,
    space: Affine,
    working: torch.dtype,
) -> None:
    shape = _three_dims(terms)
    views = [(prediction.reshape(shape), _view(weight, prediction, shape, working)) for prediction, weight in terms]
    samples = sample.reshape(shape) if sample is not None and space.a != 0.0 else None
    results = result.view(shape)
    total_buffer, term_buffer = (torch.empty(_largest(shape), dtype=working) for _ in range(2))
    for span in _spans(shape):
        target = results[span]
        total = target if result.dtype == working else total_buffer[: target.numel()].view(target.shape)
        term = term_buffer[: target.numel()].view(target.shape)
        for number, (prediction, weight) in enumerate(views):
            _multiply(prediction[span], _part(weight, span), term if number else total)
            if number:
                total.add_(term)
        to_space(total, _loaded(samples[span], term) if samples is not None else None, space)
        if total is not target:
            target.copy_(total)


def _multiply(prediction: Tensor, weight: Weight, out: Tensor) -> None:
    if prediction.dtype == out.dtype and weight is not ONE:
        torch.mul(prediction, weight, out=out)
    else:
        out.copy_(prediction)
        if weight is not ONE:
            out.mul_(weight)


def _loaded(sample: Tensor, buffer: Tensor) -> Tensor:
    return sample if sample.dtype == buffer.dtype else buffer.copy_(sample)


def _three_dims(terms: Sequence[Term]) -> tuple[int, int, int]:
    """Return the shape `[batch, rows, rest]` to walk through: blocks are made of whole rows."""
    shape = terms[0][0].shape
    inner = any(isinstance(weight, Tensor) and weight.ndim > 0 and weight[:1].numel() > 1 for _, weight in terms)
    if not inner or len(shape) == 1:
        return shape[0], shape[1:].numel(), 1
    return shape[0], shape[1], shape[2:].numel()


def _view(weight: Weight, prediction: Tensor, shape: tuple[int, int, int], working: torch.dtype) -> Weight:
    if not isinstance(weight, Tensor) or weight.ndim == 0:
        return weight
    weight = weight.to(working)
    if weight[:1].numel() == 1:
        return weight.reshape(-1, 1, 1)
    if weight.shape[2:].numel() > 1:
        weight = weight.expand(*weight.shape[:2], *prediction.shape[2:])
    return weight.reshape(weight.shape[0], weight.shape[1], -1)


def _part(weight: Weight, span: Span) -> Weight:
    if not isinstance(weight, Tensor) or weight.ndim == 0:
        return weight
    batch, rows = span
    return weight[batch if weight.shape[0] > 1 else slice(None), rows if weight.shape[1] > 1 else slice(None)]


def _spans(shape: tuple[int, int, int]) -> Iterator[Span]:
    """Yield blocks of at most `BLOCK` elements: rows of one sample, or several whole samples."""
    batch, rows, rest = shape
    if rows * rest <= BLOCK:
        samples = BLOCK // (rows * rest)
        for first in range(0, batch, samples):
            yield slice(first, min(first + samples, batch)), slice(None)
        return
    height = max(1, BLOCK // rest)
    for number in range(batch):
        for first in range(0, rows, height):
            yield slice(number, number + 1), slice(first, min(first + height, rows))


def _largest(shape: tuple[int, int, int]) -> int:
    batch, rows, rest = shape
    return max(min(batch * rows * rest, BLOCK), rest)
