"""Schedules that have one value for some time, and then another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import attrs

from guidance_core.errors import ConfigurationError, brief
from guidance_core.parameters.schedules import ROUNDING, Axis, Position, Schedule, axis, finite

_PART = re.compile(r"\s*(-?(?:\d+\.?\d*|\.\d+)(?:[eE]-?\d+)?)\s*[x×]\s*(\d+)\s*")
MOST_PARTS = 10_000
MOST_DIGITS = 300


def _numbers(given: Any) -> Any:
    is_list = hasattr(given, "__iter__") and not isinstance(given, str | bytes)
    return tuple(given) if is_list else given


def _all_finite(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, tuple):
        raise ConfigurationError(f"{type(owner).__name__}: {field.name} must be a list of numbers; got {brief(value)}.")
    for each in value:
        finite(owner, field, each)


@attrs.frozen
class Phases(Schedule):
    """One value after another: `Phases([7, 4, 1], [0.9, 0.4])` is 7, then 4 from sigma 0.9 on, then 1 from 0.4 on.

    By sigma, a phase begins at the first noise level that is at most the change. By fraction, it begins when that share
    of the steps is done. There is one change fewer than values. Changes fall by sigma, and rise by fraction.
    """

    values: Sequence[float] = attrs.field(converter=_numbers, validator=_all_finite)
    changes: Sequence[float] = attrs.field(converter=_numbers, validator=_all_finite)
    by: Axis = attrs.field(default="sigma", validator=axis)

    def __attrs_post_init__(self) -> None:
        if len(self.values) != len(self.changes) + 1:
            raise ConfigurationError(
                f"Phases: there must be one change fewer than values; got values {brief(list(self.values))}, changes "
                f"{brief(list(self.changes))}."
            )
        ordered = sorted(self.changes, reverse=self.by == "sigma")
        if list(self.changes) != ordered or len(set(ordered)) < len(ordered) or any(each < 0 for each in ordered):
            how = "fall: sigma falls during a run" if self.by == "sigma" else "rise"
            raise ConfigurationError(f"Phases: changes must {how}; got {brief(list(self.changes))}.")
        if self.by == "fraction" and any(each > 1 for each in ordered):
            raise ConfigurationError(f"Phases: fractions must lie in [0, 1]; got {brief(list(self.changes))}.")

    def limits(self) -> tuple[float, ...]:
        """Return the values of all phases."""
        return tuple(self.values)

    def at(self, position: Position) -> float:
        """Return the value of the phase."""
        if self.by == "sigma":
            begun = sum(position.sigma <= change * (1 + ROUNDING) for change in self.changes)
        else:
            begun = sum(position.fraction >= change for change in self.changes)
        return self.values[begun]


def is_counted(text: str) -> bool:
    """Whether a text has the form of `Counted`: `3x3+7x45`."""
    return len(text) <= MOST_DIGITS and all(_PART.fullmatch(part) for part in text.split("+"))


def _counted_text(given: Any) -> Any:
    """Return `3x3+7x45` in one form: `3.0 × 3` is `3x3`; leave what has another form for the check."""
    if not isinstance(given, str):
        return given
    found = [_PART.fullmatch(part) for part in given.split("+", MOST_PARTS)]
    if not all(found):
        return given
    return "+".join(f"{_short(float(each[1]))}x{int(each[2][:MOST_DIGITS])}" for each in found if each)


def _short(number: float) -> str:
    return repr(number).removesuffix(".0").replace("e+", "e")


def _check_parts(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str) or not all(_PART.fullmatch(part) for part in value.split("+")):
        raise ConfigurationError(
            f"Counted: parts must be values and numbers of steps, such as '3x3+7x45'; got {brief(value)}."
        )


def _check_order(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if value not in ("end", "start"):
        raise ConfigurationError(f"Counted: counted_from must be 'end' or 'start'; got {brief(value)}.")


def _optional(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if value is not None:
        finite(owner, field, value)


@attrs.frozen
class Counted(Schedule):
    """Values with a number of steps each: `Counted("3x3+7x45")` is 3 for the last 3 steps, and 7 for the 45 before.

    Parts are counted from the end of the run, as in stable-diffusion.cpp and Ideogram, or from its `start`. Parts
    beyond the run are left out. Steps beyond the parts have the value `otherwise`, which is an error if it is not
    given. A numeric parameter also accepts the text alone: `cfg:scale=3x3+7x45`.
    """

    parts: str = attrs.field(converter=_counted_text, validator=_check_parts)
    counted_from: Literal["end", "start"] = attrs.field(default="end", validator=_check_order)
    otherwise: float | None = attrs.field(default=None, validator=_optional)
    counts: tuple[tuple[float, int], ...] = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        pairs = tuple(
            (float(value), int(count)) for value, count in (part.split("x") for part in self.parts.split("+"))
        )
        if any(count < 1 for _, count in pairs):
            raise ConfigurationError(f"Counted: every part must have at least one step; got {brief(self.parts)}.")
        for value, _ in pairs:
            finite(self, attrs.fields(Counted).parts, value)
        object.__setattr__(self, "counts", pairs)

    def limits(self) -> tuple[float, ...]:
        """Return all values."""
        values = tuple(value for value, _ in self.counts)
        return values if self.otherwise is None else (*values, self.otherwise)

    def at(self, position: Position) -> float:
        """Return the value of the part that the step lies in.

        Raises:
            ConfigurationError: the run has more steps than the parts, and there is no `otherwise`.
        """
        left = position.index if self.counted_from == "start" else position.count - 1 - position.index
        for value, count in self.counts:
            if left < count:
                return value
            left -= count
        if self.otherwise is None:
            total = sum(count for _, count in self.counts)
            raise ConfigurationError(
                f"{self.parts} is for {total} steps, but the run has {position.count}. Give a value for the others: "
                f'Counted("{self.parts}", otherwise=...).'
            )
        return self.otherwise
