"""Universal guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import attrs
import torch

from guidance_core import Needs, Request, Scale, Step, documented, function, hookimpl, number


def distance(x0: torch.Tensor) -> torch.Tensor:
    """Return how far each sample is from 0: a stand-in for a loss."""
    return 0.5 * (x0 * x0).flatten(1).sum(1)


@documented
@attrs.frozen
class Universal:
    """Forward universal guidance: follow the gradient of any loss of the estimated x0, through the model.

        ε ← ε + s·σ·∇ₓ loss(x0(x))                in x0 space: − s·(σ²/α)·∇ₓ loss

    The loss is a function of clean images, such as the distance to a text in CLIP's space, to a segmentation or to a
    face. It is off at s = 0, and also where α is 0. The paper's backward steps and self-recurrence belong to a sampler.

    Source: Bansal et al., arXiv:2302.07121, and the authors' code, `ddim_with_grad.py`.
    """

    values_to_try: ClassVar[Mapping[str, Any]] = {"loss": (distance,)}

    loss: Callable[[torch.Tensor], torch.Tensor] = function(
        help="function of estimates of x0 [B, ...] that returns the loss of each, [B]"
    )
    scale: Scale = number(1.0, help="scale s of the gradient; 0 is off")

    @hookimpl
    def build_branches(self, step: Step) -> list[Request]:
        """Ask for gradients in x0 space, unless s is 0 for every output."""
        active = step.active(self.scale)
        return [Needs(space="x0", gradient=True, outputs=active)] if active and step.alpha > 0 else []

    @hookimpl
    def combine(self, step: Step, predictions: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return what to add to c."""
        gradient = step.gradient(self.loss(predictions["cond"]))
        factor = step.sigma**2 / step.alpha if step.alpha > 0 else 0.0
        return -step.value(self.scale) * factor * gradient
