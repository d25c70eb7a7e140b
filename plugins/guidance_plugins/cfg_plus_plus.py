"""CFG++: guided x0 with the noise of the unconditional prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs

from guidance_core import Branch, ConfigurationError, PerOutput, Scale, Step, documented, hookimpl, number


@documented
@attrs.frozen
class CFGPlusPlus:
    """CFG++: move x0 by λ, and add the noise of u again.

        x0  = x0(u) + λ·(x0(c) − x0(u))
        x′  = α′·x0 + σ′·ε(u)                 α′, σ′ are those of the next step

    With Euler's method or DDIM this equals CFG with a scale that depends on the noise levels, which is used here:

        guided = u + s·(c − u),   s = λ·α′σ/(α′σ − ασ′)

    This holds for samplers that evaluate each step once and add no noise. Every λ needs u, because even at 1 the noise
    is that of u.

    Source: Chung et al., arXiv:2406.08070; as the solver `ddim_cfg++` of the authors' code.
    """

    form_of: ClassVar[str] = "cfg"
    neutral: ClassVar[Mapping[str, Any] | None] = None

    weight: Scale = number(0.6, ge=0, le=1, help="λ, the guidance scale of the paper, from 0 to 1")

    @hookimpl
    def build_branches(self, step: Step) -> list[Branch]:
        """Ask for `uncond` with strength s − 1, for each output at its own noise levels."""
        factor = PerOutput({output: _factor(step.at(output)) for output in step.outputs})
        return [Branch("uncond", condition="negative", strength=factor * step.value(self.weight) - 1)]


def _factor(step: Step) -> float:
    """Return α′σ/(α′σ − ασ′)."""
    moved, stays = step.next_alpha * step.sigma, step.alpha * step.next_sigma
    if moved - stays <= 1e-6 * moved:
        raise ConfigurationError(
            f"cfg-plus-plus needs steps to a lower noise level, and one evaluation of each (Euler, DDIM); at sigma "
            f"{step.sigma:g} the next level is {step.next_sigma:g}. Use cfg with other samplers."
        )
    return moved / (moved - stays)
