"""Momentum guidance."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch

from guidance_core import Needs, Reference, Scale, Space, Step, choice, documented, hookimpl, number


@documented
@attrs.frozen
class Momentum:
    """Momentum guidance: move away from the mean of the predictions so far, without an extra pass.

        m = β·m′ + (1 − β)·g′                m′ and g′ are those of the last step; at the first step m is g
        guided = g + α·(g − m)

    It corrects the result of the methods before it, and m is a mean of that result. In a sampler that goes back in
    noise (Restart), m stays that of the lower noise; start a new run for such a part.

    Source: Liao et al., arXiv:2602.20360, Alg. 1, on velocities; ComfyUI's node works on x0 (`space=x0`).
    """

    alpha: Scale = number(0.5, ge=0, help="α, how far to move; 0 is off")
    beta: Scale = number(0.6, ge=0, lt=1, help="β, the share of the mean to keep in each step")
    space: Space | None = choice(
        "flow", ("epsilon", "v", "x0", "flow"), optional=True, help="space to work in (none: the model's own)"
    )

    @hookimpl
    def build_branches(self, step: Step) -> list[Needs]:
        """Ask for the sum, unless α is 0 for every output; if a schedule makes it 0, the mean is still updated."""
        step.value(self.alpha)
        alphas = self.alpha if isinstance(self.alpha, Mapping) else dict.fromkeys(step.outputs, self.alpha)
        active = [output for output in step.outputs if not (isinstance(alphas[output], float) and alphas[output] == 0)]
        return [Needs(space=self.space, outputs=active)] if active else []

    @hookimpl
    def postprocess(self, step: Step, guided: torch.Tensor, reference: Reference) -> torch.Tensor:
        """Move the guided prediction."""
        mean, last = step.state.get("mean", guided), step.state.get("last", guided)
        mean = mean + (1 - step.value(self.beta)) * (last - mean)
        step.state.update(mean=mean, last=guided)
        moved: torch.Tensor = guided + step.value(self.alpha) * (guided - mean)
        return moved
