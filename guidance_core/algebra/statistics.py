"""Statistics of a prediction, per sample unless asked otherwise.

The result for one row depends on that row alone, bit for bit: not on its batch mates, its place in
the batch, or the number of threads. Torch's own reductions do not promise that for long rows, so a
long row is reduced leaf by leaf along a tree that depends on its length only.

`over` names what one statistic covers:

    sample        all but the batch dimension (default)
    channel       each channel of each sample, channels first: `[B, C, ...]` over the dots
    channel_last  each channel of each sample, channels last: `[B, ..., C]` over the dots
    token         each token: the last dimension
    tensor        everything, batch included; results then depend on batch mates
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from guidance_core.algebra.arithmetic import BLOCK
from guidance_core.errors import ConfigurationError, suggest

RANGES = ("sample", "channel", "channel_last", "token", "tensor")
LEAF = 16384  # below the size from which torch splits one sum over threads
_INNER = tuple(tuple(range(1, ndim)) for ndim in range(65))
"By number of dimensions: all but the batch."
SHORT = 4096  # rows up to this length take a single call: quick to dispatch, slow per element


def check_over(over: object) -> None:
    """Raise `ConfigurationError` unless `over` names a range."""
    if over not in RANGES:
        hint = suggest(over, RANGES) if isinstance(over, str) else ""
        raise ConfigurationError(f"over must be one of {', '.join(RANGES)}; got {over!r}.{hint}")


def std(x: Tensor, over: str = "sample") -> Tensor:
    """Return the standard deviation (of the population) of `x` `[B, ...]`, dimensions kept."""
    if over == "sample" and x.numel() <= SHORT and (within := _INNER[x.ndim]):
        short: Tensor = torch.std_mean(x.contiguous(), within, False, True)[0]  # as in _stds, one call less
        return short
    rows, shape = _rows(x, over)
    if rows.shape[1] <= SHORT or not is_by_leaves(x):
        return _stds(rows, (1,)).view(shape)
    stds = torch.stack([std_of(_reader(row), row.numel()) for row in rows.detach()]).view(shape)
    return _with_gradient_of(_stds(rows, (1,)).view(shape), stds) if is_tracked(x) else stds


def norm(x: Tensor, over: str = "sample") -> Tensor:
    """Return the Euclidean norm of `x` `[B, ...]`, dimensions kept."""
    rows, shape = _rows(x, over)
    if rows.shape[1] <= LEAF or not is_by_leaves(x):
        return _norms(rows).view(shape)
    return torch.stack([norm_of(_reader(row), row.numel()) for row in rows]).view(shape)


def inner(x: Tensor, y: Tensor, over: str = "sample") -> Tensor:
    """Return the inner product `Σ xᵢ·yᵢ` of two tensors `[B, ...]` of one shape, dimensions kept."""
    rows, shape = _rows(x * y, over)
    n = rows.shape[1]
    whole = n // LEAF
    if whole == 0 or not is_by_leaves(x):
        return rows.sum(dim=1).view(shape)
    total = rows[:, : whole * LEAF].reshape(-1, whole, LEAF).sum(dim=2).sum(dim=1)
    return (total + rows[:, whole * LEAF :].sum(dim=1)).view(shape)


def ratio(numerator: Tensor, denominator: Tensor, share: float | Tensor = 1.0) -> Tensor:
    """Return `share·numerator/denominator + 1 − share` of two statistics, and 1 where the denominator is 0.

    With a `share` below 1 the ratio is applied in part: 0 leaves everything as it is.
    """
    if type(share) is not float:
        quotient = (numerator / denominator) * share + (1 - share)
    elif share == 1.0:
        quotient = numerator / denominator
    else:
        rest = _rest(share, numerator)
        quotient = rest.addcdiv(numerator, denominator, value=share)
    return quotient.nan_to_num_(1.0, 1.0)


def _rest(share: float, beside: Tensor) -> Tensor:
    """Return `1 − share` as a scalar tensor; kept as `arithmetic.scalar` keeps its own, by device."""
    if type(beside) is not Tensor:
        return torch.tensor(1.0 - share, dtype=beside.dtype, device=beside.device)
    kept = _kept_rest(share, beside.dtype, beside.device)
    if type(kept) is not Tensor:  # a mode is on all the same
        _kept_rest.cache_clear()
    return kept


@functools.lru_cache(maxsize=256)
def _kept_rest(share: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # it outlives the mode it is made in
        return torch.tensor(1.0 - share, dtype=dtype, device=device)


def is_by_leaves(x: Tensor) -> bool:
    """Whether long rows are reduced leaf by leaf; on GPUs one call does."""
    return x.device.type == "cpu"


def is_tracked(x: Tensor) -> bool:
    """Whether gradients flow through `x`."""
    return x.requires_grad and torch.is_grad_enabled()


def _with_gradient_of(other: Tensor, value: Tensor) -> Tensor:
    """Return `value` with the gradient of the same statistic computed in one call, which is 0 where the spread is."""
    return value + (other - other.detach())


Read = Callable[[int, int], Tensor]


def std_of(read: Read, n: int) -> Tensor:
    """Return the standard deviation of `n` elements that `read(start, stop)` gives as 1-D tensors.

    One pass: elements are counted from the first one, so that a constant row gives exactly 0; each leaf
    is centred on its own mean, and the leaves are joined by Chan's formula
    `M₂ = Σ M₂ⱼ + Σ nⱼ(mⱼ − m)²` (Chan, Golub & LeVeque 1979).
    """
    sums, squares, sizes = [], [], []
    origin: Tensor | None = None
    for leaves in _leaves(read, n):
        if origin is None:
            origin = leaves[0, 0].clone()
        shifted = leaves - origin
        total = shifted.sum(dim=1)
        shifted.sub_((total / leaves.shape[1]).unsqueeze(1))
        sums.append(total)
        squares.append(_norms(shifted))
        sizes += [leaves.shape[1]] * leaves.shape[0]
    total, size = torch.cat(sums), torch.tensor(sizes, dtype=sums[0].dtype, device=sums[0].device)
    apart = (total / size).sub_(total.sum() / n)
    second = torch.cat(squares).square_().sum() + apart.square_().mul_(size).sum()
    return second.div_(n).sqrt_()


def norm_of(read: Read, n: int) -> Tensor:
    """Return the Euclidean norm of `n` elements that `read(start, stop)` gives as 1-D tensors."""
    return _norms(torch.cat([_norms(leaves) for leaves in _leaves(read, n)]).unsqueeze(0)).squeeze(0)


def _stds(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    # Quicker to dispatch than torch.std, and the same arithmetic.
    stds: Tensor = torch.std_mean(x, dims, False, True)[0]
    return stds


def _norms(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms


def _reader(row: Tensor) -> Read:
    return lambda start, stop: row[start:stop]


def _leaves(read: Read, n: int) -> Iterator[Tensor]:
    """Yield the elements as `[leaves, LEAF]`, a block at a time, and the rest as one shorter leaf."""
    whole = n - n % LEAF
    for start in range(0, whole, BLOCK):
        yield read(start, min(start + BLOCK, whole)).view(-1, LEAF)
    if whole < n:
        yield read(whole, n).view(1, -1)


def kept_shape(shape: tuple[int, ...], over: str) -> tuple[int, ...]:
    """Return the shape of a statistic of tensors of `shape`."""
    if over == "tensor":
        return (1,) * len(shape)
    if over == "sample" or len(shape) == 1:
        return (shape[0], *(1,) * (len(shape) - 1))
    if over == "token":
        return (*shape[:-1], 1)
    if over == "channel_last":
        return (shape[0], *(1,) * (len(shape) - 2), shape[-1])
    return (*shape[:2], *(1,) * (len(shape) - 2))


def _rows(x: Tensor, over: str) -> tuple[Tensor, tuple[int, ...]]:
    """Return `x` as contiguous rows `[R, N]`, one per statistic, and the shape of the statistics."""
    check_over(over)
    shape = kept_shape(tuple(x.shape), over)
    if over == "tensor":
        return x.reshape(1, -1).contiguous(), shape
    if over == "sample" or x.ndim == 1:
        return x.reshape(x.shape[0], -1).contiguous(), shape
    if over == "token":
        return x.reshape(-1, x.shape[-1]).contiguous(), shape
    if over == "channel_last":
        return x.movedim(-1, 1).reshape(x.shape[0] * x.shape[-1], -1).contiguous(), shape
    return x.reshape(x.shape[0] * x.shape[1], -1).contiguous(), shape
