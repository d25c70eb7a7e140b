"""Which rank runs what: whole branches, or rows of the batch.

Every rank computes the same placement from the plan alone; nothing is negotiated.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import ceil

import attrs

from guidance_core.methods.requests import Branch


@attrs.frozen
class Unit:
    """What a rank does in one forward: a branch, all rows of the batch or some."""

    branch: int
    "Index of the branch in the plan."
    rows: tuple[int, int] | None = None
    "First and past-the-last row; None for all."

    @property
    def part(self) -> slice | None:
        """The rows as a slice of the batch."""
        return None if self.rows is None else slice(*self.rows)


@attrs.frozen
class Placement:
    """The units of every rank."""

    units: tuple[tuple[Unit, ...], ...]
    "By rank, each rank's in the order of the plan."
    costs: tuple[float, ...]
    "The branches' costs."
    rows: int = 1
    "Rows of the batch, where units are rows."

    @property
    def busy(self) -> tuple[int, ...]:
        """The ranks that have something to run."""
        return tuple(rank for rank, units in enumerate(self.units) if units)

    @property
    def most(self) -> int:
        """Units of the rank that has most."""
        return max(map(len, self.units), default=0)

    @property
    def speedup(self) -> float:
        """Time of all units one after another over that of the busiest rank."""
        loads = [sum(self._cost(unit) for unit in units) for units in self.units]
        return sum(loads) / max(loads) if any(loads) else 1.0

    def at(self, positions: Sequence[int]) -> Placement:
        """Return the placement that gives each rank the units of its position."""
        return attrs.evolve(self, units=tuple(self.units[position] for position in positions))

    def _cost(self, unit: Unit) -> float:
        share = 1.0 if unit.rows is None else (unit.rows[1] - unit.rows[0]) / self.rows
        return self.costs[unit.branch] * share

    def shown(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return each rank's units in words."""
        return tuple(
            ", ".join(names[unit.branch] + (f"[{unit.rows[0]}:{unit.rows[1]}]" if unit.rows else "") for unit in units)
            or "idle"
            for units in self.units
        )


def place_branches(branches: Sequence[Branch], ranks: int) -> Placement:
    """Give each branch to one rank: the costliest first, each to the rank with least to do.

    With equal costs that is round-robin; `cond` goes to rank 0.
    """
    loads = [0.0] * ranks
    given: list[list[int]] = [[] for _ in range(ranks)]
    for index in sorted(range(len(branches)), key=lambda index: -branches[index].cost):
        rank = loads.index(min(loads))
        loads[rank] += branches[index].cost
        given[rank].append(index)
    units = tuple(tuple(Unit(index) for index in sorted(indices)) for indices in given)
    return Placement(units, tuple(branch.cost for branch in branches))


def place_rows(branches: Sequence[Branch], rows: int, ranks: int) -> Placement:
    """Give each rank an equal share of all rows of all branches, in the order of the plan.

    A row is never cut. Where whole branches come out no worse, they are not cut either.
    """
    whole = place_branches(branches, ranks)
    costs = [max(Fraction(branch.cost).limit_denominator(1000), Fraction(1, 1000)) for branch in branches]
    share = sum(costs, Fraction(0)) * rows / ranks
    given: list[list[Unit]] = [[] for _ in range(ranks)]
    done = Fraction(0)
    for index, cost in enumerate(costs):
        # a row belongs to the rank whose share holds the row's middle
        ends = [ceil((share * (rank + 1) - done) / cost - Fraction(1, 2)) for rank in range(ranks - 1)]
        start = 0
        for rank, end in enumerate([*ends, rows]):
            end = min(end, rows)
            if end > start:
                given[rank].append(Unit(index, (start, end)))
                start = end
        done += cost * rows
    units = tuple(tuple(Unit(unit.branch) if unit.rows == (0, rows) else unit for unit in each) for each in given)
    cut = Placement(units, tuple(branch.cost for branch in branches), rows)
    return cut if cut.speedup > whole.speedup else whole
