"""Outputs whose tensors are pieces of longer ones, held by several ranks, and statistics over all pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
from torch import Tensor

from guidance_core.algebra.statistics import Statistic, kept_parts
from guidance_core.errors import PluginError


class Split:
    """Which outputs are split, where, and how the ranks that hold the pieces exchange parts of statistics."""

    def __init__(self, dims: Mapping[str, int], valid: Mapping[str, int], rank: int, size: int) -> None:
        self.dims = dims
        "By output: the dimension along which it is split. An output that is not named is whole on every rank."
        self.valid = valid
        "By output: how many elements along that dimension count, over all pieces; the rest is padding."
        self.rank = rank
        "Number of this rank's piece."
        self.size = size
        "Number of pieces."

    def exchange(self, parts: Tensor) -> Tensor:
        """Return what every rank contributes, `[pieces, ...]` in the order of the pieces."""
        raise NotImplementedError

    def of(self, output: str) -> Piece | None:
        """Return this rank's piece of an output; None if it is whole."""
        return Piece(self, output, self.dims[output]) if output in self.dims else None


@attrs.frozen(eq=False)
class Piece:
    """One rank's piece of an output."""

    split: Split
    output: str
    dim: int

    def covers(self, statistic: Statistic, ndim: int) -> bool:
        """Whether one statistic covers several pieces."""
        return self.dim % ndim in statistic.covered(ndim)

    def measure(self, statistic: Statistic, tensors: Sequence[Tensor], who: str) -> Tensor:
        """Return a statistic of all pieces, given this rank's tensors, which lie as the output.

        Every rank that holds a piece must ask for it.

        Raises:
            PluginError: it cannot be computed from pieces.
        """
        ndim = tensors[0].ndim
        if not self.covers(statistic, ndim):
            return statistic(*tensors)
        if not statistic.joins:
            raise PluginError(
                f"{who} wants {statistic} of output {self.output!r}, which is split over {self.split.size} ranks: it "
                "cannot be computed from pieces."
            )
        dim = self.dim % ndim
        length = tensors[0].shape[dim]
        start = self.split.rank * length
        counted = self.split.valid.get(self.output, self.split.size * length)
        if statistic.first is not None and dim == ndim - 2:
            counted = min(counted, statistic.first)
            statistic = attrs.evolve(statistic, first=None)
        own = [each.narrow(dim, 0, min(max(counted - start, 0), length)) for each in tensors]
        parts = statistic.parts(*own)
        return kept_parts(statistic, tuple(tensors), self.split.exchange(parts))

    def whole_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of all pieces together, of a tensor of which this rank's is one."""
        dim = self.dim % len(shape)
        return tuple(size * self.split.size if each == dim else size for each, size in enumerate(shape))

    def own(self, whole: Tensor) -> Tensor:
        """Return this rank's piece of a whole tensor."""
        length = whole.shape[self.dim] // self.split.size
        return whole.narrow(self.dim % whole.ndim, self.split.rank * length, length)
