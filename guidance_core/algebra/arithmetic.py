"""The one expression a step is made of, evaluated without waste: `a·sample + b·(Σ wᵢ·pᵢ + Σ sⱼ·(p₁ − qⱼ))`.

Terms are accumulated in float32 (float64 where a prediction is float64), in the order given, the sample last, and
rounded once. To move away from predictions, their differences from the first are formed: where all are equal, the
result is the first exactly, and where they are close, nothing is lost to cancellation. The same elementary operations
are applied to every element wherever it lies, so a result depends on the values alone: not on batch mates, strides, the
number of threads, or whether it was computed block by block.

On CPUs large tensors are worked on in blocks that stay in cache, which also keeps temporaries small.
"""

from __future__ import annotations

from collections.abc import Sequence
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
Shape: TypeAlias = tuple[int, int, int]


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
        is_plain = dtype is given and given in _LERPS and space is IDENTITY and len(terms) == 1
        if is_plain and _is_lerp_by_sample(away, working) and away[0][0].dtype is given:
            return _lerp_by_sample(first, *away[0])
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
    total = base = first if given is working else first.to(working)
    if away:
        total = _moved_away(total, away)
    if type(weight) is not float or weight != 1.0:
        total = total * weight
    for prediction, weight in terms[1:] if len(terms) > 1 else ():
        if prediction.dtype is not working:
            prediction = base if prediction is first else prediction.to(working)
        if type(weight) is not float:
            assert isinstance(weight, Tensor)
            total = torch.addcmul(total, prediction, weight if weight.dtype is working else weight.to(working))
        elif total is base:  # which a further term may be once more
            total = total.add(prediction, alpha=weight)
        else:
            total.add_(prediction, alpha=weight)
    if space is not IDENTITY:
        if sample is not None and sample.dtype is torch.float64 and working is not torch.float64:
            sample = sample.to(working)  # as block by block
        total = to_space(total, sample, space, owned=total is not first)
    return total if dtype is working else total.to(dtype)


def _moved_away(base: Tensor, away: Sequence[Term]) -> Tensor:
    """Return `c + Σ sⱼ·(c − qⱼ)`. The small differences are added up first, so that `c` is rounded once.

    Of predictions in half precision the first is added at once: one operation less, and the last places of float32 do
    not show.
    """
    dtype, (prediction, first) = base.dtype, away[0]
    if _is_lerp_by_sample(away, dtype):
        return torch.lerp(prediction.to(dtype), base, 1.0 + first)
    if _begins_with_lerp(away, dtype):
        total = torch.lerp(prediction if prediction.dtype is dtype else prediction.to(dtype), base, 1.0 + first)
        for prediction, strength in away[1:]:
            assert type(strength) is float
            total.add_(base - prediction.to(dtype), alpha=strength)
        return total
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


def _begins_with_lerp(away: Sequence[Term], working: torch.dtype) -> bool:
    """Whether the first difference is added at once: alone, or in half precision with numbers after it."""
    prediction, first = away[0]
    if not _is_lerp(first):
        return False
    return len(away) == 1 or (prediction.dtype != working and all(type(each) is float for _, each in away))


def _is_lerp_by_sample(away: Sequence[Term], working: torch.dtype) -> bool:
    """Whether to form `c + s·(c − q)` like this with a strength for each sample, of predictions in half precision.

    The digits that the rounding of `1 + s` costs do not show there.
    """
    if len(away) != 1:
        return False
    prediction, strength = away[0]
    return isinstance(strength, Tensor) and strength.shape[1:].numel() == 1 and prediction.dtype is not working


def _lerp_by_sample(first: Tensor, prediction: Tensor, strength: Weight) -> Tensor:
    """Return `c + s·(c − q)` in one pass over the data on a CPU, with the bits of the same in float32, rounded once."""
    result = torch.empty_like(first, memory_format=torch.contiguous_format)
    weights: list[float] = (
        (1.0 + torch.as_tensor(strength)).expand(first.shape[0], *(1,) * (first.ndim - 1)).flatten().tolist()
    )
    for row, base, other, weight in zip(result, first, prediction, weights, strict=True):
        torch.lerp(other, base, weight, out=row)
    return result


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
    distinct = {id(p): p for p, _ in (*terms, *away)}
    blocks = {key: _blocks(p.reshape(shape), shape) for key, p in distinct.items()}
    views, others = (
        [(blocks[id(p)], _factors(weight, p, shape, working)) for p, weight in each] for each in (terms, away)
    )
    if by_sample := _is_lerp_by_sample(away, working):
        others = [(others[0][0], _factors(1.0 + away[0][1], away[0][0], shape, working))]
    samples = _blocks(sample.reshape(shape), shape) if sample is not None and space is not IDENTITY else None
    memory = [torch.empty(_largest(shape), dtype=working, device=result.device) for _ in range(3 if others else 2)]
    buffers: list[Tensor] = []
    for number, target in enumerate(_blocks(result.view(shape), shape)):
        if not buffers or buffers[0].shape != target.shape:
            buffers = [each[: target.numel()].view(target.shape) for each in memory]
        total, buffer, *more = buffers
        if result.dtype == working:
            total = target
        base = None
        if others:
            base = _loaded(views[0][0][number], more[0])
            if by_sample:
                other = _loaded(others[0][0][number], buffer)
                if total is not target:
                    total, buffer = buffer, total  # in place: one buffer less that has to stay in cache
                torch.lerp(other, base, others[0][1][number], out=total)
            else:
                _move_away(total, base, [(parts[number], factors[number]) for parts, factors in others], buffer)
        else:
            _multiply(views[0][0][number], views[0][1][number], total)
        for (parts, factors), (given, _) in zip(views[1:], terms[1:], strict=True):
            # Where the first is added once more, it has been loaded.
            part = parts[number] if base is None or given is not terms[0][0] else base
            factor = factors[number]
            if isinstance(factor, Tensor):
                total.addcmul_(_loaded(part, buffer), factor)
            else:
                total.add_(_loaded(part, buffer), alpha=factor)
        if samples is not None:
            _to_space_in_place(total, _loaded(samples[number], buffer), space)
        if total is not target:
            target.copy_(total)


def _move_away(total: Tensor, base: Tensor, away: Sequence[Term], buffer: Tensor) -> None:
    """Do what `_moved_away` does, operation for operation, in the memory of `total`."""
    first, is_mean = away[0][1], _is_mean(away)
    one = 1.0 if isinstance(first, Tensor) or is_mean else first
    if _begins_with_lerp(away, base.dtype):
        torch.lerp(_loaded(away[0][0], buffer), base, 1.0 + one, out=total)
        for prediction, strength in away[1:]:
            assert type(strength) is float
            total.add_(torch.sub(base, _loaded(prediction, buffer), out=buffer), alpha=strength)
        return
    for number, (prediction, strength) in enumerate(away):
        difference = buffer if number else total  # the sum grows where it will lie: memory in cache is what counts
        if is_mean:
            difference.copy_(prediction).mul_(-0.5).add_(base, alpha=0.5)
        else:
            torch.sub(base, _loaded(prediction, difference), out=difference)
        if isinstance(strength, Tensor) or (is_mean and number == 0):
            difference.mul_(strength)
        if number:
            total.add_(difference, alpha=(1.0 if isinstance(strength, Tensor) else strength) / one)
    torch.add(base, total, alpha=2.0 if is_mean else one, out=total)


def _to_space_in_place(total: Tensor, sample: Tensor, space: Affine) -> None:
    """Do what `to_space` does, operation for operation, in the memory of `total`."""
    if space.a == 1.0:
        torch.add(sample, total, alpha=space.b, out=total)
    else:
        to_space(total, sample, space)


def _multiply(prediction: Tensor, weight: Weight, out: Tensor) -> None:
    if type(weight) is float and weight == 1.0:
        out.copy_(prediction)
    elif prediction.dtype == out.dtype:
        torch.mul(prediction, weight, out=out)
    else:
        out.copy_(prediction).mul_(weight)


def _loaded(given: Tensor, buffer: Tensor) -> Tensor:
    return given if given.dtype == buffer.dtype else buffer.copy_(given)


def _three_dims(terms: Sequence[Term]) -> Shape:
    """Return the shape `[batch, rows, rest]` to walk through: blocks are made of whole rows."""
    shape = terms[0][0].shape
    weights = [weight for _, weight in terms if isinstance(weight, Tensor)]
    if all(weight.numel() == 1 for weight in weights):
        return 1, shape.numel(), 1
    if len(shape) == 1 or all(weight[:1].numel() == 1 for weight in weights):
        return shape[0], shape[1:].numel(), 1
    return shape[0], shape[1], shape[2:].numel()


def _factors(weight: Weight, prediction: Tensor, shape: Shape, working: torch.dtype) -> Sequence[Weight]:
    """Return a weight for each block."""
    if not isinstance(weight, Tensor):
        return [weight] * _count(shape)
    weight = weight.to(working)
    if weight.numel() == 1:
        return [weight.reshape(())] * _count(shape)
    if weight[:1].numel() == 1:
        weight = weight.reshape(-1, 1, 1)
    else:
        if weight.shape[2:].numel() > 1:
            weight = weight.expand(*weight.shape[:2], *prediction.shape[2:])
        weight = weight.reshape(weight.shape[0], weight.shape[1], -1)
    return _blocks(weight.expand(*shape[:2], -1), shape)


def _blocks(tensor: Tensor, shape: Shape) -> Sequence[Tensor]:
    """Take `[batch, rows, ...]` apart into blocks of at most `BLOCK` elements of `shape`, or of one longer row.

    A block is made of rows of one sample, or of several whole samples.
    """
    samples, height = _block(shape)
    if samples:
        return _cut(tensor, 0, samples)
    return [block for each in tensor.unbind() for block in _cut(each, 0, height)]


def _cut(tensor: Tensor, dim: int, size: int) -> Sequence[Tensor]:
    whole = tensor.shape[dim]  # `Tensor.split` takes five times as long
    return [tensor.narrow(dim, start, min(size, whole - start)) for start in range(0, whole, size)]


def _block(shape: Shape) -> tuple[int, int]:
    """Return how many samples make a block, or 0 and how many rows of one."""
    _, rows, rest = shape
    return (BLOCK // (rows * rest), 0) if rows * rest <= BLOCK else (0, max(1, BLOCK // rest))


def _count(shape: Shape) -> int:
    batch, rows, _ = shape
    samples, height = _block(shape)
    return -(-batch // samples) if samples else batch * -(-rows // height)


def _largest(shape: Shape) -> int:
    batch, rows, rest = shape
    return max(min(batch * rows * rest, BLOCK), rest)
