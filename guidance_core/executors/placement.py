"""Which rank runs what: whole branches, or rows of the batch.

Every rank computes the same placement from the plan alone; nothing is negotiated.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import ceil

import attrs

from guidance_core.errors import ConfigurationError, brief
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
    speeds: tuple[float, ...] = ()
    "How fast each rank is; empty where they are equally fast."

    @property
    def busy(self) -> tuple[int, ...]:
        """The ranks that have something to run."""
        return tuple(rank for rank, units in enumerate(self.units) if units)

    @property
    def is_repeated(self) -> bool:
        """Whether every one of several ranks runs the same, so that nothing needs to be sent."""
        return len(self.units) > 1 and bool(self.units[0]) and set(self.units) == {self.units[0]}

    @property
    def most(self) -> int:
        """Units of the rank that has most."""
        return max(map(len, self.units), default=0)

    @property
    def speedup(self) -> float:
        """Time of all units one after another, on the fastest rank, over that of the busiest rank."""
        loads = [sum(self._cost(unit) for unit in units) for units in self.units]
        speeds = self.speeds or (1.0,) * len(loads)
        times = [load / speed for load, speed in zip(loads, speeds, strict=True)]
        return sum(loads) / max(speeds) / max(times) if any(loads) else 1.0

    def at(self, positions: Sequence[int]) -> Placement:
        """Return the placement that gives each rank the units of its position."""
        units = tuple(self.units[position] for position in positions)
        speeds = tuple(self.speeds[position] for position in positions) if self.speeds else ()
        return attrs.evolve(self, units=units, speeds=speeds)

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


def checked_speeds(given: Sequence[float], ranks: int) -> tuple[float, ...]:
    """Return the speeds of the ranks; none where all are equal.

    Raises:
        ConfigurationError: they are not one number larger than 0 for each rank.
    """
    is_list = isinstance(given, Sequence) and not isinstance(given, str)
    is_number = is_list and all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in given)
    if not is_number or not all(1e-3 <= each <= 1e3 for each in given) or len(given) not in (0, ranks):
        raise ConfigurationError(
            f"speeds is one number from 0.001 to 1000 for each of {ranks} ranks, such as (1.0, 0.5); "
            f"got {brief(given)}."
        )
    return tuple(map(float, given)) if len(set(given)) > 1 else ()


def place_branches(branches: Sequence[Branch], ranks: int, speeds: Sequence[float] = ()) -> Placement:
    """Give each branch to one rank: the costliest first, each to the rank that would be done with it first.

    With equal costs and speeds that is round-robin; `cond` goes to rank 0.
    """
    loads = [0.0] * ranks
    given: list[list[int]] = [[] for _ in range(ranks)]
    for index in sorted(range(len(branches)), key=lambda index: -branches[index].cost):
        cost = branches[index].cost
        done = [(load + cost) / speed for load, speed in zip(loads, speeds, strict=True)] if speeds else loads
        rank = done.index(min(done))
        loads[rank] += branches[index].cost
        given[rank].append(index)
    units = tuple(tuple(Unit(index) for index in sorted(indices)) for indices in given)
    return Placement(units, tuple(branch.cost for branch in branches), speeds=tuple(speeds))


def place_rows(branches: Sequence[Branch], rows: int, ranks: int, speeds: Sequence[float] = ()) -> Placement:
    """Give each rank its share of all rows of all branches, in the order of the plan: equal, or by speed.

    A row is never cut. Where whole branches come out no worse, they are not cut either.
    """
    whole = place_branches(branches, ranks, speeds)
    costs = [max(Fraction(branch.cost).limit_denominator(1000), Fraction(1, 1000)) for branch in branches]
    parts = [Fraction(speed).limit_denominator(1000) for speed in speeds] or [Fraction(1)] * ranks
    share = sum(costs, Fraction(0)) * rows / sum(parts, Fraction(0))
    limits = [share * sum(parts[: rank + 1], Fraction(0)) for rank in range(ranks - 1)]
    given: list[list[Unit]] = [[] for _ in range(ranks)]
    done = Fraction(0)
    for index, cost in enumerate(costs):
        # a row belongs to the rank whose share holds the row's middle
        ends = [ceil((limit - done) / cost - Fraction(1, 2)) for limit in limits]
        start = 0
        for rank, end in enumerate([*ends, rows]):
            end = min(end, rows)
            if end > start:
                given[rank].append(Unit(index, (start, end)))
                start = end
        done += cost * rows
    units = tuple(tuple(Unit(unit.branch) if unit.rows == (0, rows) else unit for unit in each) for each in given)
    cut = Placement(units, tuple(branch.cost for branch in branches), rows, tuple(speeds))
    return cut if cut.speedup > whole.speedup else whole
