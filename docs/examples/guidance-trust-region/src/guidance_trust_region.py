"""Trust-region guidance: guidance that moves a prediction no further than a share of its own norm."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
from guidance_core import Branch, Needs, Scale, Step, documented, hookimpl, number, ratio


@documented
@attrs.frozen
class TrustRegion:
    """Trust-region guidance: classifier-free guidance whose step is bounded for each sample.

        d = (s − 1)·(c − u)
        guided = c + d·min(1, τ·‖c‖/‖d‖)

    A large scale sharpens where guidance is small and cannot burn where it is large. Works in x0 space,
    where a norm has the same meaning at every noise level. At s = 1 it is off, and `uncond` is not run.

    Source: this package.
    """

    scale: Scale = number(7.5, help="guidance scale s; 1 is off and runs no extra pass")
    radius: Scale = number(0.5, ge=0, help="τ, the longest step as a share of the prediction's norm")

    @hookimpl
    def build_branches(self, step: Step) -> list[Branch | Needs]:
        """Ask for the prediction of `uncond`, for the outputs whose scale is not 1."""
        active = step.active(self.scale, neutral=1.0)
        if not active:
            return []
        return [Branch("uncond", condition="negative", required=True), Needs(space="x0", outputs=active)]

    @hookimpl
    def combine(self, step: Step, predictions: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the bounded step."""
        c, u = predictions["cond"], predictions["uncond"]
        d = (c - u) * (step.value(self.scale) - 1)
        return d * ratio(step.value(self.radius) * step.norm(c), step.norm(d)).clamp(max=1.0)
