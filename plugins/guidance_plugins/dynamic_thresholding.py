"""Dynamic thresholding: a large scale with the spread of a smaller one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import attrs
import torch

from guidance_core import (
    ConfigurationError,
    Mean,
    Over,
    Quantile,
    Request,
    Scale,
    Space,
    Statistic,
    Std,
    Step,
    choice,
    documented,
    extent,
    flag,
    hookimpl,
    negative_pass,
    number,
    ratio,
)


@documented
@attrs.frozen
class DynamicThresholding:
    """CFG at a large scale, with the spread of a smaller scale that it mimics.

        g = u + s·(c − u),  m = u + k·(c − u)          k: mimic
        A = max |m − mean(m)|,  T = percentile of |g − mean(g)|
        guided = mean(g) + clamp(g − mean(g), ±max(A, T))/max(A, T)·A         start=mean
        guided = g·A/T                                                        start=zero

    With `measure=std`, A and T are the standard deviations, and nothing is clamped: the mean form is mean(g) + (g −
    mean(g))·A/T. The result is mixed with g by φ. If k equals s, it is plain CFG. At s = 1 the method is off and
    `uncond` is not run. For the source's schedules of k and s, use schedules of `mimic` and `scale`.

    Means are per channel. A and T are too, unless `separate` is false; then they are per sample.

    Source: mcmonkeyprojects/sd-dynamic-thresholding, dynthres_core.py.
    """

    form_of: ClassVar[str] = "cfg"
    shardable: ClassVar[bool] = False  # a percentile is one of the whole tensor
    neutral: ClassVar[Mapping[str, Any]] = {"scale": 1.0}

    scale: Scale = number(12.0, help="guidance scale s; 1 is off and runs no extra pass")
    mimic: Scale = number(7.0, help="k, the scale whose spread the result gets")
    percentile: float = number(1.0, ge=0, le=1, help="share of |g − mean| that lies below T; at 1, T is the largest")
    start: Literal["mean", "zero"] = choice(
        "mean", ("mean", "zero"), help="whether values shrink towards the mean or 0"
    )
    measure: Literal["largest", "std"] = choice(
        "largest", ("largest", "std"), help="measure of spread: the largest distance from the mean, or the std"
    )
    separate: bool = flag(True, help="whether each channel has a spread of its own")
    phi: Scale = number(1.0, ge=0, le=1, help="φ, how much of the result to use; the rest is plain CFG")
    over: Over = extent("channel", batch=False, help="range of one mean: channel, channel_last, or dimensions")
    space: Space | None = choice(
        "x0", ("epsilon", "v", "x0", "flow"), optional=True, help="space to work in (none: the model's own)"
    )

    spreads: tuple[Statistic, Statistic] = attrs.field(init=False, repr=False, eq=False)
    "How A and T are measured, of values whose mean is 0."
    mean: Mean = attrs.field(
        init=False, repr=False, eq=False, default=attrs.Factory(lambda self: Mean(self.over), takes_self=True)
    )

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.percentile, float):
            raise ConfigurationError(f"DynamicThresholding: percentile must be one number; got {self.percentile}.")
        over = self.over if self.separate else "sample"
        largest = Quantile(over, q=1.0, absolute=True), Quantile(over, q=self.percentile, absolute=True)
        object.__setattr__(self, "spreads", (Std(over), Std(over)) if self.measure == "std" else largest)

    @hookimpl
    def build_branches(self, step: Step) -> list[Request]:
        """Ask for the prediction of `uncond`, unless s is 1 for every output."""
        return negative_pass(step, self.scale, space=self.space)

    @hookimpl
    def combine(self, step: Step, predictions: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return what to add to c."""
        c, d = predictions["cond"], predictions["cond"] - predictions["uncond"]
        s, k, phi = (step.value(each) for each in (self.scale, self.mimic, self.phi))
        is_one_for_all = isinstance(s, float) and isinstance(k, float)
        if is_one_for_all and s == k:
            return (s - 1) * d
        g, m = c + (s - 1) * d, c + (k - 1) * d
        mean = step.measure(self.mean, g)
        around = g - mean
        wide = step.measure(self.spreads[0], m - step.measure(self.mean, m))
        high = step.measure(self.spreads[1], around)
        if self.start == "zero":
            result = g * ratio(wide, high)
        elif self.measure == "std":
            result = mean + around * ratio(wide, high)
        else:
            most = torch.maximum(wide, high)
            result = mean + around.clamp(-most, most) * ratio(wide, most)
        if not is_one_for_all:
            result = torch.where(d.new_zeros(()) + s == k, g, result)
        return g - c + phi * (result - g)
