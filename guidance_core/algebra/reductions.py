"""Sums, norms and deviations of rows, the same for one row whatever lies beside it.

The result for one row depends on that row alone, bit for bit: not on its batch mates, its place in
the batch, or the number of threads. Torch's own reductions do not promise that for long rows, so a
long row is reduced leaf by leaf along a tree that depends on its length only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from guidance_core.algebra.arithmetic import BLOCK

LEAF = 16384  # below the size from which torch splits one sum over threads
SHORT = 4096  # rows up to this length take a single call: quick to dispatch, slow per element


def stds(rows: Tensor) -> Tensor:
    """Return the standard deviation (of the population) of each of the rows `[R, N]`."""
    if rows.shape[1] <= SHORT or not is_by_leaves(rows):
        return _stds(rows, (1,)).squeeze(1)
    found = torch.stack([std_of(_reader(row), row.numel()) for row in rows.detach()])
    return _with_gradient_of(_stds(rows, (1,)).squeeze(1), found) if is_tracked(rows) else found


def norms(rows: Tensor) -> Tensor:
    """Return the Euclidean norm of each of the rows `[R, N]`."""
    if rows.shape[1] <= LEAF or not is_by_leaves(rows):
        return _norms(rows)
    return torch.stack([norm_of(_reader(row), row.numel()) for row in rows])


def sums(rows: Tensor) -> Tensor:
    """Return the sum of each of the rows `[R, N]`."""
    n = rows.shape[1]
    whole = n // LEAF
    if whole == 0 or not is_by_leaves(rows):
        return rows.sum(dim=1)
    total = rows[:, : whole * LEAF].reshape(-1, whole, LEAF).sum(dim=2).sum(dim=1)
    return total + rows[:, whole * LEAF :].sum(dim=1)


def products(x: Tensor, y: Tensor) -> Tensor:
    """Return the sum of the products of each of the rows `[R, N]` of two tensors, the bits of `sums(x * y)`."""
    n = x.shape[1]
    whole = n - n % LEAF
    if whole == 0 or not is_by_leaves(x) or is_tracked(x) or is_tracked(y) or x.dtype != y.dtype:
        return sums(x * y)
    return torch.stack([product_of((_reader(one), _reader(other)), n) for one, other in zip(x, y, strict=True)])


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


def product_of(reads: tuple[Read, Read], n: int) -> Tensor:
    """Return the sum of the products of `n` elements of two rows, each read as 1-D tensors; one may be both."""
    # Block by block in one buffer: fresh memory for all products costs more than forming them.
    leaves = [products.sum(dim=1) for products in _leaves(_joined(reads, torch.mul), n)]
    rest = leaves.pop() if n % LEAF else 0.0
    return (torch.cat(leaves).unsqueeze(0).sum(dim=1) + rest).squeeze(0)


def distance_of(reads: tuple[Read, Read], n: int) -> Tensor:
    """Return the Euclidean distance of two rows of `n` elements, each read as 1-D tensors."""
    return norm_of(_joined(reads, torch.sub), n)


def _joined(reads: tuple[Read, Read], join: Callable[..., Tensor]) -> Read:
    """Read what becomes of two rows, in one buffer."""
    buffer: Tensor | None = None

    def read(start: int, stop: int) -> Tensor:
        nonlocal buffer
        one = reads[0](start, stop)
        other = one if reads[1] is reads[0] else reads[1](start, stop)
        if buffer is None:
            buffer = torch.empty(max(BLOCK, LEAF), dtype=one.dtype, device=one.device)
        return join(one, other, out=buffer[: stop - start])

    return read


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
