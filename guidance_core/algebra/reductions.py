"""Sums, norms and deviations of rows, the same for one row whatever lies beside it.

The result for one row depends on that row alone, bit for bit: not on its batch mates, its place in
the batch, or the number of threads. Torch's own reductions do not promise that for long rows, so a
long row is reduced leaf by leaf along a tree that depends on its length only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

LEAF = 16384  # below the size from which torch splits one sum over threads
READ = 8 * LEAF  # elements read at a time, small enough to stay in cache
SHORT = 4096  # rows up to this length take a single call: quick to dispatch, slow per element


def stds(rows: Tensor) -> Tensor:
    """Return the standard deviation (of the population) of each of the rows `[R, N]`."""
    if rows.shape[1] <= SHORT or not is_by_leaves(rows):
        return _stds(rows, (1,)).squeeze(1)
    found = torch.stack([reduced([blocks_of(row)], [(StdOf(), (0,))])[0] for row in rows.detach()])
    return _with_gradient_of(_stds(rows, (1,)).squeeze(1), found) if is_tracked(rows) else found


def norms(rows: Tensor) -> Tensor:
    """Return the Euclidean norm of each of the rows `[R, N]`."""
    if rows.shape[1] <= LEAF or not is_by_leaves(rows):
        return _norms(rows)
    return torch.stack([reduced([blocks_of(row)], [(NormOf(), (0,))])[0] for row in rows])


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
    if x.shape[1] < LEAF or not is_by_leaves(x) or is_tracked(x) or is_tracked(y) or x.dtype != y.dtype:
        return sums(x * y)
    pairs = ((blocks_of(one), blocks_of(other)) for one, other in zip(x, y, strict=True))
    return torch.stack([reduced(rows, [(ProductOf(), (0, 1))])[0] for rows in pairs])


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


class Reduction:
    """A statistic of rows that are read a block at a time: what is kept of the leaves so far."""

    takes: ClassVar[int] = 1
    "Number of rows it is formed from; of two, what becomes of them is written into scratch memory."

    def add(self, leaves: Sequence[Tensor], scratch: Tensor) -> None:
        """Take in the next leaves `[leaves, elements]` of each row; others may read them afterwards."""
        raise NotImplementedError

    def value(self, n: int) -> Tensor:
        """Return the statistic of all `n` elements."""
        raise NotImplementedError


class NormOf(Reduction):
    """The Euclidean norm of a row."""

    def __init__(self) -> None:
        self._norms: list[Tensor] = []

    def add(self, leaves: Sequence[Tensor], scratch: Tensor) -> None:
        """Keep the norm of each leaf."""
        self._norms.append(_norms(leaves[0]))

    def value(self, n: int) -> Tensor:
        """Return the norm of the norms."""
        whole: Tensor = torch.linalg.vector_norm(torch.cat(self._norms))
        return whole


class DistanceOf(NormOf):
    """The Euclidean distance of two rows."""

    takes: ClassVar[int] = 2

    def add(self, leaves: Sequence[Tensor], scratch: Tensor) -> None:
        """Keep the distance of each two leaves."""
        self._norms.append(_norms(torch.sub(*leaves, out=scratch)))


class ProductOf(Reduction):
    """The sum of the products of two rows; one may be both."""

    takes: ClassVar[int] = 2

    def __init__(self) -> None:
        self._sums: list[Tensor] = []

    def add(self, leaves: Sequence[Tensor], scratch: Tensor) -> None:
        """Keep the sum of each leaf; fresh memory for all products would cost more than forming them."""
        self._sums.append(torch.mul(*leaves, out=scratch).sum(dim=1))

    def value(self, n: int) -> Tensor:
        """Return the sum of the sums, that of a shorter leaf last."""
        *sums, last = self._sums
        if not n % LEAF:
            return torch.cat(self._sums).sum()
        return torch.cat(sums).sum() + last.squeeze(0)


class StdOf(Reduction):
    """The standard deviation of a row (of the population).

    One pass: elements are counted from the first one, so that a constant row gives exactly 0; each leaf
    is centred on its own mean, and the leaves are joined by Chan's formula
    `M₂ = Σ M₂ⱼ + Σ nⱼ(mⱼ − m)²` (Chan, Golub & LeVeque 1979).
    """

    def __init__(self) -> None:
        self._sums: list[Tensor] = []
        self._squares: list[Tensor] = []
        self._sizes: list[int] = []
        self._origin: Tensor | None = None

    def add(self, leaves: Sequence[Tensor], scratch: Tensor) -> None:
        """Keep size, sum and norm of each leaf."""
        (given,) = leaves
        if self._origin is None:
            self._origin = given[0, 0].clone()
        shifted = given - self._origin
        total = shifted.sum(dim=1)
        shifted.sub_((total / given.shape[1]).unsqueeze(1))
        self._sums.append(total)
        self._squares.append(_norms(shifted))
        self._sizes += [given.shape[1]] * given.shape[0]

    def value(self, n: int) -> Tensor:
        """Join the leaves."""
        total = torch.cat(self._sums)
        size = torch.tensor(self._sizes, dtype=total.dtype, device=total.device)
        apart = (total / size).sub_(total.sum() / n)
        second = torch.cat(self._squares).square_().sum() + apart.square_().mul_(size).sum()
        return second.div_(n).sqrt_()


def reduced(
    rows: Sequence[Iterable[Tensor]], wanted: Sequence[tuple[Reduction, tuple[int, ...]]], *, owned: bool = False
) -> list[Tensor]:
    """Return statistics of rows of one length, each of which is read once.

    Args:
        rows: the blocks of each, as of `blocks_of`; the memory of one may be that of the next.
        wanted: what to form, and the numbers of the rows it is formed from.
        owned: whether blocks may be overwritten. The last to read one does, so that less has to stay in cache.
    """
    memory: Tensor | None = None
    last = {number: place for place, (_, of) in enumerate(wanted) for number in of}
    free = [owned and last[of[0]] == place for place, (_, of) in enumerate(wanted)]
    needs = any(reduction.takes > 1 and not can for (reduction, _), can in zip(wanted, free, strict=True))
    n = 0
    for blocks in zip(*rows, strict=True):
        n += blocks[0].numel()
        if memory is None:
            memory = torch.empty_like(blocks[0]) if needs else blocks[0]
        for (reduction, of), can in zip(wanted, free, strict=True):
            leaves = [blocks[number] for number in of]
            reduction.add(leaves, leaves[0] if can else room(memory, leaves[0].shape))
    return [reduction.value(n) for reduction, _ in wanted]


def blocks_of(row: Tensor) -> list[Tensor]:
    """Return the elements of a row as blocks `[leaves, LEAF]`, and the rest as one shorter leaf."""
    n = row.numel()
    many, whole = n - n % READ, n - n % LEAF
    blocks = list((row if many == n else row[:many]).view(-1, READ // LEAF, LEAF).unbind())
    if many < whole:
        blocks.append(row[many:whole].view(-1, LEAF))
    if whole < n:
        blocks.append(row[whole:].view(1, -1))
    return blocks


def room(memory: Tensor, shape: torch.Size) -> Tensor:
    """Return memory for a block of a shape, of that of the first and largest."""
    return memory if memory.shape == shape else memory.view(-1)[: shape.numel()].view(shape)


def std_of(read: Read, n: int) -> Tensor:
    """Return the standard deviation of `n` elements that `read(start, stop)` gives as 1-D tensors."""
    return reduced([_read_blocks(read, n)], [(StdOf(), (0,))])[0]


def norm_of(read: Read, n: int) -> Tensor:
    """Return the Euclidean norm of `n` elements that `read(start, stop)` gives as 1-D tensors."""
    return reduced([_read_blocks(read, n)], [(NormOf(), (0,))])[0]


def product_of(reads: tuple[Read, Read], n: int) -> Tensor:
    """Return the sum of the products of `n` elements of two rows, each read as 1-D tensors; one may be both."""
    return _of_two(ProductOf(), reads, n)


def distance_of(reads: tuple[Read, Read], n: int) -> Tensor:
    """Return the Euclidean distance of two rows of `n` elements, each read as 1-D tensors."""
    return _of_two(DistanceOf(), reads, n)


def _of_two(reduction: Reduction, reads: tuple[Read, Read], n: int) -> Tensor:
    distinct = reads[:1] if reads[0] is reads[1] else reads
    return reduced([_read_blocks(read, n) for read in distinct], [(reduction, (0, len(distinct) - 1))])[0]


def _read_blocks(read: Read, n: int) -> Iterator[Tensor]:
    whole = n - n % LEAF
    for start in range(0, whole, READ):
        yield read(start, min(start + READ, whole)).view(-1, LEAF)
    if whole < n:
        yield read(whole, n).view(1, -1)


def _stds(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    # Quicker to dispatch than torch.std, and the same arithmetic.
    stds: Tensor = torch.std_mean(x, dims, False, True)[0]
    return stds


def _norms(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms
