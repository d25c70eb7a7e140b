"""Values that depend on the step: by sigma, or by the fraction of the steps that is done.

A schedule stands wherever a number may stand. Sigma is the portable axis: it means the same for
every sampler and step count. The fraction of step `i` of `n` is `i / n`, so it runs over [0, 1).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

import attrs

from guidance_core.errors import ConfigurationError, brief

Axis: TypeAlias = Literal["sigma", "fraction"]
"Whether a place in the run is a noise level, or the fraction of the steps that are done."
WindowAxis: TypeAlias = Literal["sigma", "fraction", "done"]
"Those, and `done`: the fraction of the steps that are done after the step."

Ends: TypeAlias = Literal["exact", "floored", "inside"]
"How fractions become steps: as they are, or rounded down to whole steps; `inside` also leaves out the first of them."

ROUNDING = 1e-6
"Relative: 1 - 8/10 is a little less than 0.2, and sigmas may come as float32."


@attrs.frozen
class Position:
    """The place of a step in the run."""

    index: int
    "Index of the step, from 0."
    count: int
    "Number of steps of the run."
    sigma: float
    "Noise level of this evaluation."
    first_sigma: float
    "Noise level of the run's first step."

    @property
    def fraction(self) -> float:
        """The fraction of the steps that are done before this one, `index / count`."""
        return self.index / self.count

    def progress(self, by: Axis) -> float:
        """Return the progress of the run: 0 at the first step, and 1 at the last step or at sigma 0."""
        if by == "sigma":
            return max(0.0, 1.0 - self.sigma / self.first_sigma) if self.first_sigma else 1.0
        return self.index / (self.count - 1) if self.count > 1 else 0.0


def finite(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
    """Validate a field of a schedule that is one finite number."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or abs(value) > sys.float_info.max or value != value:
        raise ConfigurationError(f"{type(owner).__name__}: {field.name} must be a finite number; got {brief(value)}.")


def axis(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
    """Validate a field of a schedule that is an `Axis`."""
    if not isinstance(value, str) or value not in ("sigma", "fraction"):
        raise ConfigurationError(
            f"{type(owner).__name__}: {field.name} must be 'sigma' or 'fraction'; got {brief(value)}."
        )


def _ends(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str) or value not in ("exact", "floored", "inside"):
        raise ConfigurationError(
            f"{type(owner).__name__}: {field.name} must be 'exact', 'floored' or 'inside'; got {brief(value)}."
        )


class Schedule:
    """Base class of schedules. Your own is a frozen attrs class that inherits from it."""

    __slots__ = ()

    def at(self, position: Position) -> Any:
        """Return the value at `position`."""
        raise NotImplementedError(f"{type(self).__name__} must implement at(position).")

    def limits(self) -> tuple[Any, ...] | None:
        """Return numbers between which all values lie; None if they are only known at each step.

        They are checked against the bounds of a parameter when the plugin is made. Each value is checked when a run
        starts.
        """
        return None


def _window_axis(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if value != "done":
        axis(owner, field, value)


@attrs.frozen
class Window:
    """The steps between `lo` and `hi`.

    By sigma it is the closed interval [lo, hi]; its ends also include sigmas that were rounded to float32. By fraction
    it is [lo, hi), so that adjacent windows do not overlap; `hi = 1` includes the last step. By the fraction done after
    the step it is (lo, hi]; `lo = 0` includes the first step. Engines that count whole steps first round both ends of a
    fraction down. With `ends="floored"`, step i of n is inside if ⌊lo·n⌋ ≤ i < ⌊hi·n⌋, and with `ends="inside"` if
    ⌊lo·n⌋ < i < ⌊hi·n⌋.
    """

    lo: float = attrs.field(validator=finite)
    hi: float = attrs.field(validator=finite)
    by: WindowAxis = attrs.field(default="sigma", validator=_window_axis)
    ends: Ends = attrs.field(default="exact", validator=_ends)

    def __attrs_post_init__(self) -> None:
        if self.lo > self.hi:
            raise ConfigurationError(
                f"a window needs lo <= hi; got lo={self.lo:g}, hi={self.hi:g}. Sigma falls during a run: "
                "lo is the noise level at which the window ends."
            )
        if self.by != "sigma" and not 0 <= self.lo <= self.hi <= 1:
            raise ConfigurationError(f"fractions must lie in [0, 1]; got lo={self.lo:g}, hi={self.hi:g}.")
        if self.by != "fraction" and self.ends != "exact":
            raise ConfigurationError(
                f"ends={self.ends} rounds down to whole steps, which needs fractions of them: by='fraction'."
            )
        if self.lo < 0:
            raise ConfigurationError(f"sigma cannot be negative; got lo={self.lo:g}.")

    def contains(self, position: Position) -> bool:
        """Whether `position` lies in the window."""
        if self.by == "sigma":
            slack = ROUNDING * self.hi
            return self.lo - slack <= position.sigma <= self.hi + slack
        if self.by == "done":
            return self.lo < (position.index + 1) / position.count <= self.hi
        if self.ends == "exact":
            return self.lo <= position.fraction < self.hi
        first, end = int(self.lo * position.count), int(self.hi * position.count)
        return first + (self.ends == "inside") <= position.index < end


@attrs.frozen
class Within(Schedule):
    """`value` inside a window of the run, `otherwise` outside it. arXiv:2404.07724."""

    value: float = attrs.field(validator=finite)
    lo: float = 0.0
    hi: float = 1.0
    by: Axis = "sigma"
    otherwise: float = attrs.field(default=1.0, validator=finite)
    window: Window = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "window", Window(self.lo, self.hi, self.by))

    def limits(self) -> tuple[float, ...]:
        """Return both values."""
        return self.value, self.otherwise

    def at(self, position: Position) -> float:
        """Return `value` or `otherwise`."""
        return self.value if self.window.contains(position) else self.otherwise


@attrs.frozen
class Linear(Schedule):
    """A straight line from `start` at the first step to `stop` at the last step (or, by sigma, at 0)."""

    start: float = attrs.field(validator=finite)
    stop: float = attrs.field(validator=finite)
    by: Axis = attrs.field(default="fraction", validator=axis)

    def limits(self) -> tuple[float, ...]:
        """Return both ends."""
        return self.start, self.stop

    def at(self, position: Position) -> float:
        """Return `start + (stop − start)·progress`."""
        return self.start + (self.stop - self.start) * position.progress(self.by)


@attrs.frozen
class Cosine(Schedule):
    """Half a cosine wave from `start` to `stop`, flat at both ends."""

    start: float = attrs.field(validator=finite)
    stop: float = attrs.field(validator=finite)
    by: Axis = attrs.field(default="fraction", validator=axis)

    def limits(self) -> tuple[float, ...]:
        """Return both ends."""
        return self.start, self.stop

    def at(self, position: Position) -> float:
        """Return `start + (stop − start)·(1 − cos(π·progress))/2`."""
        return self.start + (self.stop - self.start) * (1 - math.cos(math.pi * position.progress(self.by))) / 2


def _as_rows(rows: Mapping[float, Any] | Iterable[tuple[float, Any]]) -> tuple[tuple[float, Any], ...]:
    pairs: Any = rows.items() if isinstance(rows, Mapping) else rows
    if not isinstance(pairs, Iterable) or isinstance(pairs, str):
        raise ConfigurationError(f"a table maps upper bounds of sigma to values; got {brief(rows)}.")
    try:
        table = sorted(((float(bound), value) for bound, value in pairs), key=lambda row: row[0])
    except (TypeError, ValueError, OverflowError):
        raise ConfigurationError(f"a table needs pairs (upper bound of sigma, value); got {brief(rows)}.") from None
    bounds = [bound for bound, _ in table]
    if not bounds or any(math.isnan(bound) or bound < 0 for bound in bounds) or len(set(bounds)) < len(bounds):
        raise ConfigurationError(
            f"a table needs at least one row and distinct bounds that are not negative; got bounds {brief(bounds)}."
        )
    return tuple((bound, tuple(value) if isinstance(value, list) else value) for bound, value in table)


@attrs.frozen
class Table(Schedule):
    """A value for each bin of sigma: `Table({0.5: 3.0, 1.0: 7.0})`.

    The bin of a bound extends from the next smaller bound (exclusive) to the bound itself (inclusive). A sigma above
    the largest bound uses the value of the largest. The rule is that of ltx-core's guider factory.
    """

    rows: tuple[tuple[float, Any], ...] = attrs.field(converter=_as_rows)

    def limits(self) -> tuple[Any, ...]:
        """Return the values of all bins."""
        return tuple(value for _, value in self.rows)

    def at(self, position: Position) -> Any:
        """Return the value of the bin that holds this sigma."""
        for bound, value in self.rows:
            if position.sigma <= bound:
                return value
        return self.rows[-1][1]
