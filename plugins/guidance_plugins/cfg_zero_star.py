"""CFG-Zero*: classifier-free guidance for flow matching."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs

from guidance_core import (
    Away,
    Inner,
    Needs,
    Predictions,
    Request,
    Scale,
    Step,
    documented,
    hookimpl,
    negative_pass,
    number,
    ratio,
    whole,
)

INNER = Inner()


@documented
@attrs.frozen
class CFGZeroStar:
    """CFG with an optimised scale of the unconditional prediction, and zero for the first steps.

        α = ⟨c, u⟩ / (‖u‖² + 1e−8)          per sample
        guided = c + (s − 1)·(c − α·u)
        guided = 0                          for the first `zero_steps` steps

    The zero steps are counted from the start of the run: a window of `interval` only limits the scale.

    Source: Fan et al., arXiv:2503.18886, eq. 9 and Alg. 1. Made for flow predictions.
    """

    form_of: ClassVar[str] = "cfg"
    neutral: ClassVar[Mapping[str, float]] = {"scale": 1.0, "zero_steps": 0}

    scale: Scale = number(7.5, help="guidance scale s; 1 is off and runs no extra pass")
    zero_steps: int = whole(1, help="number of steps at the start whose result is zero")

    @hookimpl
    def build_branches(self, step: Step) -> list[Request]:
        """Ask for the prediction of `uncond` once the zero steps are over."""
        if step.index < self.zero_steps:
            return [Needs(fixed=True)]
        return negative_pass(step, self.scale)

    @hookimpl
    def combine(self, step: Step, predictions: Predictions) -> Away:
        """Return what to add to c."""
        if step.index < self.zero_steps:
            return Away({}, base=-1.0)
        product, square = predictions.measure_all((INNER, "cond", "uncond"), (INNER, "uncond", "uncond"))
        alpha = ratio(product, square + 1e-8)
        strength = step.value(self.scale) - 1
        # c − α·u = α·(c − u) + (1 − α)·c
        return Away({"uncond": alpha * strength}, base=(1 - alpha) * strength)
