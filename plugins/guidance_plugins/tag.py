"""Tangential amplifying guidance."""

from __future__ import annotations

import attrs
import torch

from guidance_core import ConfigurationError, Needs, Reference, Scale, Step, documented, hookimpl, number, parallel


@documented
@attrs.frozen
class TAG:
    """Amplify the part of a step that is tangential to the sample.

        x′ − x = Δ∥ + Δ⊥,   x′ ← x + Δ∥ + η·Δ⊥              Δ∥ is parallel to x, per sample

    A step of Euler's method or DDIM is a multiple of x plus a multiple of the prediction g. So Δ⊥ is a multiple of the
    part of g that is orthogonal to x, and the method can act on g before the step, in any prediction type:

        guided = η·g + (1 − η)·g∥

    It corrects the result of the methods before it, without an extra pass.

    Source: Cho et al., arXiv:2510.04533, eq. 6.
    """

    eta: Scale = number(1.15, ge=0, help="factor η of the tangential part; 1 is off")

    @hookimpl
    def build_branches(self, step: Step) -> list[Needs]:
        """Ask for the sum, unless η is 1 for every output."""
        if step.prediction_type == "other":
            raise ConfigurationError("tag compares predictions with the sample; a prediction type of 'other' has none.")
        active = step.active(self.eta, neutral=1.0)
        return [Needs(outputs=active)] if active else []

    @hookimpl
    def postprocess(self, step: Step, guided: torch.Tensor, reference: Reference) -> torch.Tensor:
        """Amplify the tangential part."""
        assert step.sample is not None
        eta = step.value(self.eta)
        return eta * guided + (1 - eta) * parallel(step, guided, step.sample)
