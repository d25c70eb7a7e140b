"""Classifier guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import attrs
import torch

from guidance_core import Needs, Request, Scale, Step, documented, function, hookimpl, number


def distance(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return log N(x; 0, 1) up to a constant, for each sample: a stand-in for a classifier."""
    return -0.5 * (x * x).flatten(1).sum(1)


@documented
@attrs.frozen
class Classifier:
    """Classifier guidance: follow the gradient of a classifier of noisy samples.

        ε ← ε − s·σ·∇ log p(y | x, σ)                in x0 space: + s·(σ²/α)·∇ log p

    It differentiates the classifier and not the model, so every executor can run it. It is off at s = 0, and also where
    α is 0, because pure noise says nothing about x0.

    Source: Dhariwal & Nichol, arXiv:2105.05233, Alg. 2, and the authors' code, `condition_score`.
    """

    uses_autograd: ClassVar[bool] = True
    values_to_try: ClassVar[Mapping[str, Any]] = {"log_prob": (distance,)}

    log_prob: Callable[[torch.Tensor, float], torch.Tensor] = function(
        help="function of noisy samples [B, ...] and σ that returns log p(y | x) of each, [B]"
    )
    scale: Scale = number(1.0, help="scale s of the gradient; 0 is off")

    @hookimpl
    def build_branches(self, step: Step) -> list[Request]:
        """Ask for hooks in x0 space, unless s is 0 for every output."""
        active = step.active(self.scale)
        return [Needs(space="x0", outputs=active)] if active and step.alpha > 0 else []

    @hookimpl
    def combine(self, step: Step, predictions: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return what to add to c."""
        assert step.sample is not None
        with torch.inference_mode(False), torch.enable_grad():
            x = step.sample.detach().clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self.log_prob(x, step.sigma).sum(), x)
        factor = step.sigma**2 / step.alpha if step.alpha > 0 else 0.0
        return step.value(self.scale) * factor * gradient
