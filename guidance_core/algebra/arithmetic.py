"""The one expression a step is made of, evaluated without waste: `a·sample + b·(Σ wᵢ·pᵢ + Σ sⱼ·(p₁ − qⱼ))`.

Terms are accumulated in float32 (float64 where a prediction is float64), in the order given, the sample last, and
rounded once. To move away from predictions, their differences from the first are formed: where all are equal, the
result is the first exactly, and where they are close, nothing is lost to cancellation. The same elementary operations
are applied to every element wherever it lies, so a result depends on the values alone: not on batch mates, strides, the
number of threads, or whether it was computed block by block.

On CPUs large tensors are worked on in blocks that stay in cache, which also keeps temporaries small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from guidance_core.algebra.spaces import IDENTITY, Affine

BLOCK = 131072
"Elements worked on at a time: the float32 temporaries of a block stay in cache."

_LERPS = frozenset({torch.bfloat16, torch.float16, torch.float32, torch.float64})
"What `torch.lerp` takes, computing in float32 at least."

Weight: TypeAlias = float | Tensor
"A number, or a tensor with as many dimensions as the prediction, each its size or 1."

Term: TypeAlias = tuple[Tensor, Weight]
Span: TypeAlias = tuple[slice, slice]


def accumulation_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype that sums of such tensors are accumulated in: float32, or float64 for float64."""
    return torch.float64 if tensor.dtype is torch.float64 else torch.float32


def evaluate(
    terms: Sequence[Term],
    sample: Tensor | None = None,
    space: Affine = IDENTITY,
    *,
    away: Sequence[Term] = (),
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Return `a·sample + b·(Σ wᵢ·pᵢ + Σ sⱼ·(p₁ − qⱼ))`, rounded once to `dtype`.

    Args:
        terms: predictions `[B, ...]` of one shape, with their weights.
        sample: the noisy sample, of the same shape; needed where `a` is not 0.
        space: `a` and `b`.
        away: predictions to move away from, with their strengths, a tensor or the largest first; the first term has the
            weight 1.0 then.
        dtype: of the result; the accumulation dtype of the first prediction if not given.
        out: contiguous buffer of the accumulation dtype to write a large result into.

    Returns:
        The result; where nothing is to be computed, the prediction itself.
    """
    first, weight = terms[0]
    given = first.dtype
    working = torch.float64 if given is torch.float64 else torch.float32
    dtype = dtype or working
    if space.by_element:  # rare, and not blocked
        total = evaluate(terms, away=away) * space.b
        moved: Tensor = total if sample is None else total + space.a * sample.to(working)
        return moved.to(dtype)
    if away and dtype is given and out is None and space is IDENTITY and _is_one_lerp(terms, away):
        # In half precision too it computes in float32 and rounds once: the same bits, in one pass over the data.
        return torch.lerp(away[0][0], first, 1.0 + away[0][1])
    if first.numel() > BLOCK and first.is_cpu and not _is_tracked((*terms, *away), sample):
        is_one = len(terms) == 1 and not away and type(weight) is float and weight == 1.0
        if is_one and space is IDENTITY and given is dtype:
            return first
        result = (
            out
            if out is not None and out.dtype == dtype
            else torch.empty(first.shape, dtype=dtype, device=first.device)
        )
        _by_blocks(result, terms, away, sample, space, working)
        return result
    total = first if given is working else first.to(working)
    if away:
        total = _moved_away(total, away)
    if type(weight) is not float or weight != 1.0:
        total = total * weight
    for prediction, weight in terms[1:] if len(terms) > 1 else ():
        if prediction.dtype is not working:
            prediction = prediction.to(working)
        if type(weight) is not float:
            total = total + prediction * weight
        elif total is first:
            total = total.add(prediction, alpha=weight)
        else:
            total.add_(prediction, alpha=weight)
    if space is not IDENTITY:
        if sample is not None and sample.dtype is torch.float64 and working is not torch.float64:
            sample = sample.to(working)  # as block by block
        total = to_space(total, sample, space, owned=total is not first)
    return total if dtype is working else total.to(dtype)


def _moved_away(base: Tensor, away: Sequence[Term]) -> Tensor:
    """Return `c + Σ sⱼ·(c − qⱼ)`. The small differences are added up first, so that `c` is rounded once."""
    dtype, (prediction, first) = base.dtype, away[0]
    if len(away) == 1 and _is_lerp(first):
        return torch.lerp(prediction if prediction.dtype is dtype else prediction.to(dtype), base, 1.0 + first)
    is_mean = _is_mean(away)
    one = first if type(first) is float and not is_mean else 1.0
    delta = None
    for prediction, strength in away:
        if prediction.dtype is not dtype:
            prediction = prediction.to(dtype)
        difference = (prediction * -0.5).add_(base, alpha=0.5) if is_mean else base - prediction
        if type(strength) is not float:
            difference = difference * strength
            delta = difference if delta is None else delta.add(difference, alpha=1.0 / one)
        elif delta is None:
            delta = difference.mul_(strength) if is_mean else difference
        else:
            delta.add_(difference, alpha=strength / one)
    assert delta is not None
    return base.add(delta, alpha=2.0 if is_mean else one)


def _is_mean(away: Sequence[Term]) -> bool:
    """Whether the sum is a mean of predictions, which must not overflow where their differences would."""
    first = away[0][1]
    if type(first) is not float or first >= 0.0:
        return False  # as nearly always
    return all(type(strength) is float and -1.0 < strength < 0.0 for _, strength in away)


def _is_lerp(strength: Weight) -> bool:
    """Whether to form `c + s·(c − q)` as `lerp(q, c, 1 + s)`, one operation in place of two.

    Nearer to 0 the rounding of `1 + s` would cost digits of `s`.
    """
    return type(strength) is float and not -1.0 < strength < 1.0


def _is_one_lerp(terms: Sequence[Term], away: Sequence[Term]) -> bool:
    """Whether the sum is `c + s·(c − q)` of two predictions of one dtype."""
    (first, weight), (prediction, strength) = terms[0], away[0]
    return (
        len(terms) == 1
        and len(away) == 1
        and type(weight) is float
        and weight == 1.0
        and _is_lerp(strength)
        and prediction.dtype is first.dtype
        and first.dtype in _LERPS
    )


def is_blocked(tensor: Tensor) -> bool:
    """Whether a tensor of this size and device is worked on block by block."""
    return tensor.numel() > BLOCK and tensor.is_cpu


def _is_tracked(terms: Sequence[Term], sample: Tensor | None) -> bool:
    """Whether gradients flow through the sum, so that it cannot be written into memory at hand."""
    if not torch.is_grad_enabled():
        return False
    given = [sample, *(each for term in terms for each in term)]
    return any(isinstance(each, Tensor) and each.requires_grad for each in given)


def to_space(total: Tensor, sample: Tensor | None, space: Affine, *, owned: bool = True) -> Tensor:
    """Return `a·sample + b·total`; `total` may be overwritten if it is `owned`."""
    if space is IDENTITY or sample is None:
        return total
    if space.a == 1.0:
        return sample.add(total, alpha=space.b)
    if space.a == -space.b:
        return (total.sub_(sample) if owned else total - sample).mul_(space.b)
    scaled = total.mul_(space.b) if owned else total * space.b
    return scaled.add_(sample, alpha=space.a)


def _by_blocks(
    result: Tensor,
    terms: Sequence[Term],
    away: Sequence[Term],
    sample: Tensor | None,
    space: Affine,
    working: torch.dtype,
) -> None:
    """Do what `evaluate` does, operation for operation, in blocks."""
    shape = _three_dims((*terms, *away))
    views, others = (
        [(prediction.reshape(shape), _view(weight, prediction, shape, working)) for prediction, weight in each]
        for each in (terms, away)
    )
    samples = sample.reshape(shape) if sample is not None and space is not IDENTITY else None
    results = result.view(shape)
    count = 4 if others else 2
    buffers = [torch.empty(_largest(shape), dtype=working, device=result.device) for _ in range(count)]
    for span in _spans(shape):
        target = results[span]
        total, buffer, *more = (each[: target.numel()].view(target.shape) for each in buffers)
        if result.dtype == working:
            total = target
        if others:
            base, delta = _loaded(views[0][0][span], more[0]), more[1]
            _move_away(total, base, [(q[span], _part(s, span)) for q, s in others], delta, buffer)
        for number, (prediction, weight) in enumerate(views):
            part, factor = prediction[span], _part(weight, span)
            if number == 0 and others:
                continue
            if number == 0:
                _multiply(part, factor, total)
            elif isinstance(factor, Tensor):
                _multiply(part, factor, buffer)
                total.add_(buffer)
            else:
                total.add_(_loaded(part, buffer), alpha=factor)
        if samples is not None:
            _to_space_in_place(total, _loaded(samples[span], buffer), space)
        if total is not target:
            target.copy_(total)


def _move_away(total: Tensor, base: Tensor, away: Sequence[Term], delta: Tensor, buffer: Tensor) -> None:
    """Do what `_moved_away` does, operation for operation, in the memory of `total`."""
    first, is_mean = away[0][1], _is_mean(away)
    one = 1.0 if isinstance(first, Tensor) or is_mean else first
    for number, (prediction, strength) in enumerate(away):
        if len(away) == 1 and _is_lerp(strength):
            torch.lerp(_loaded(prediction, buffer), base, 1.0 + one, out=total)
            return
        difference = delta if number == 0 else buffer
        if is_mean:
            difference.copy_(prediction).mul_(-0.5).add_(base, alpha=0.5)
        else:
            torch.sub(base, _loaded(prediction, buffer), out=difference)
        if isinstance(strength, Tensor) or (is_mean and number == 0):
            difference.mul_(strength)
        if number:
            delta.add_(difference, alpha=(1.0 if isinstance(strength, Tensor) else strength) / one)
    torch.add(base, delta, alpha=2.0 if is_mean else one, out=total)


def _to_space_in_place(total: Tensor, sample: Tensor, space: Affine) -> None:
    """Do what `to_space` does, operation for operation, in the memory of `total`."""
    if space.a == 1.0:
        torch.add(sample, total, alpha=space.b, out=total)
    else:
        to_space(total, sample, space)


def _multiply(prediction: Tensor, weight: Weight, out: Tensor) -> None:
    if prediction.dtype == out.dtype:
        torch.mul(prediction, weight, out=out)
    else:
        out.copy_(prediction).mul_(weight)


def _loaded(given: Tensor, buffer: Tensor) -> Tensor:
    return given if given.dtype == buffer.dtype else buffer.copy_(given)


def _three_dims(terms: Sequence[Term]) -> tuple[int, int, int]:
    """Return the shape `[batch, rows, rest]` to walk through: blocks are made of whole rows."""
    shape = terms[0][0].shape
    inner = any(isinstance(weight, Tensor) and weight[:1].numel() > 1 for _, weight in terms)
    if not inner or len(shape) == 1:
        return shape[0], shape[1:].numel(), 1
    return shape[0], shape[1], shape[2:].numel()


def _view(weight: Weight, prediction: Tensor, shape: tuple[int, int, int], working: torch.dtype) -> Weight:
    if not isinstance(weight, Tensor):
        return weight
    weight = weight.to(working)
    if weight[:1].numel() == 1:
        return weight.reshape(-1, 1, 1)
    if weight.shape[2:].numel() > 1:
        weight = weight.expand(*weight.shape[:2], *prediction.shape[2:])
    return weight.reshape(weight.shape[0], weight.shape[1], -1)


def _part(weight: Weight, span: Span) -> Weight:
    if not isinstance(weight, Tensor):
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
