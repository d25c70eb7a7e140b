"""Schedules that follow a curve of a paper."""

from __future__ import annotations

import math
from typing import Any, Literal

import attrs

from guidance_core.errors import ConfigurationError, brief
from guidance_core.parameters.schedules import Axis, Position, Schedule, axis, finite

LARGEST_SHAPE = 1e6
"Of the shape of a distribution, so that its density is a number."
MOST = 700.0
"The exponential of a larger number is none."


@attrs.frozen
class Exponential(Schedule):
    """An exponential that begins with `start` at the first step: `start·exp(rate·progress)`.

    With a positive rate it grows up to `start·exp(rate)`; with a negative rate it decays. For flow models `by="sigma"`
    is the time of the paper.

    Source: C²FG, arXiv:2603.08155: `ω₀·exp(λ·(1 − t/t_max))`, with λ of 0.03 to 1.
    """

    start: float = attrs.field(validator=finite)
    rate: float = attrs.field(validator=finite)
    by: Axis = attrs.field(default="fraction", validator=axis)

    def __attrs_post_init__(self) -> None:
        if abs(self.rate) > MOST or not math.isfinite(self.start * math.exp(self.rate)):
            raise ConfigurationError(
                f"Exponential: start·exp(rate) must be finite; got start={brief(self.start)}, rate={brief(self.rate)}."
            )

    def limits(self) -> tuple[float, ...]:
        """Return both ends."""
        return self.start, self.start * math.exp(self.rate)

    def at(self, position: Position) -> float:
        """Return `start·exp(rate·progress)`."""
        return self.start * math.exp(self.rate * position.progress(self.by))


def _shape(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
    finite(owner, field, value)
    if not 1 <= value <= LARGEST_SHAPE:
        raise ConfigurationError(
            f"{type(owner).__name__}: {field.name} must lie in [1, {LARGEST_SHAPE:g}]; got {brief(value)}. "
            "Below 1 the density is infinite at an end of the run."
        )


def _form(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if value not in ("density", "peak"):
        raise ConfigurationError(f"{type(owner).__name__}: form must be 'density' or 'peak'; got {brief(value)}.")


@attrs.frozen
class Beta(Schedule):
    """`scale` times the density of a β-distribution over the run: smallest at both ends, and largest between them.

        B(t) = tᵃ⁻¹·(1 − t)ᵇ⁻¹ / ∫ tᵃ⁻¹·(1 − t)ᵇ⁻¹ dt          t: progress, 0 at the first step

    With form `density` the mean over the run is about `scale`. With `peak`, B is divided by its largest value, so that
    the largest value is `scale`. If the density is 0 at an end, a guidance scale is 0 there: the prediction of u alone.

    Source: β-CFG, arXiv:2502.10574, with γ = 0 (the solver `ddim_beta` of its code). The paper also divides c − u by
    `‖c − u‖ᵞ`, which is not a schedule.
    """

    scale: float = attrs.field(validator=finite)
    a: float = attrs.field(default=2.0, validator=_shape)
    b: float = attrs.field(default=2.0, validator=_shape)
    form: Literal["density", "peak"] = attrs.field(default="density", validator=_form)
    by: Axis = attrs.field(default="fraction", validator=axis)
    logarithm: float = attrs.field(init=False, repr=False, eq=False)
    "The number that is subtracted from the logarithm of `tᵃ⁻¹·(1 − t)ᵇ⁻¹`."

    @logarithm.default
    def _default_logarithm(self) -> float:
        if self.form == "peak":
            return _powers(self._mode, self.a, self.b)
        return math.lgamma(self.a) + math.lgamma(self.b) - math.lgamma(self.a + self.b)

    def __attrs_post_init__(self) -> None:
        if not all(map(math.isfinite, self.limits())):
            raise ConfigurationError(f"Beta: its largest value is infinite with scale={brief(self.scale)}.")

    @property
    def _mode(self) -> float:
        return 0.5 if self.a + self.b == 2 else (self.a - 1) / (self.a + self.b - 2)

    def limits(self) -> tuple[float, ...]:
        """Return the values at both ends and the largest."""
        return tuple(self._value(t) for t in (0.0, self._mode, 1.0))

    def at(self, position: Position) -> float:
        """Return `scale·B(progress)`."""
        return self._value(position.progress(self.by))

    def _value(self, t: float) -> float:
        return self.scale * math.exp(_powers(t, self.a, self.b) - self.logarithm)


def _powers(t: float, a: float, b: float) -> float:
    """Return the logarithm of `tᵃ⁻¹·(1 − t)ᵇ⁻¹`."""
    return sum(
        0.0 if power == 1 else -math.inf if base == 0 else (power - 1) * math.log(base)
        for base, power in ((t, a), (1 - t, b))
    )
