"""Magnitude-aware guidance."""

from __future__ import annotations

from typing import ClassVar

import attrs
import torch

from guidance_core import (
    Away,
    Distance,
    Norm,
    Predictions,
    Request,
    Scale,
    Step,
    documented,
    hookimpl,
    negative_pass,
    number,
)

DISTANCE, NORM = Distance(), Norm()


@documented
@attrs.frozen
class MamboG:
    """Magnitude-aware mitigation for boosted guidance: the farther u is from c, the smaller the scale.

        r = ‖c − u‖/‖u‖                       per sample
        s′ = 1 + (s − 1)·exp(−α·r)
        guided = c + (s′ − 1)·(c − u)

    If u is 0 and c is not, r is infinite and there is no guidance. If both are 0, there is nothing to guide.

    Source: arXiv:2508.03442; as in diffusers' MagnitudeAwareGuidance.
    """

    form_of: ClassVar[str] = "cfg"

    scale: Scale = number(10.0, help="guidance scale s; 1 is off and runs no extra pass")
    alpha: Scale = number(8.0, ge=0, help="how fast the scale falls with the ratio of the norms; 0 is plain cfg")

    @hookimpl
    def build_branches(self, step: Step) -> list[Request]:
        """Ask for the prediction of `uncond`, unless s is 1 for every output."""
        return negative_pass(step, self.scale)

    @hookimpl
    def combine(self, step: Step, predictions: Predictions) -> Away:
        """Move away from u by s′ − 1."""
        apart, size = predictions.measure_all((DISTANCE, "cond", "uncond"), (NORM, "uncond"))
        ratio = torch.nan_to_num(apart / size, nan=0.0)
        damped = torch.exp(-(ratio * step.value(self.alpha)).nan_to_num(nan=0.0))
        return Away({"uncond": damped * (step.value(self.scale) - 1)})
