"""Normalized attention guidance."""

from __future__ import annotations

import attrs

from guidance_core import (
    Amend,
    Blocks,
    NormalizedAttention,
    Step,
    Windowed,
    blocks,
    documented,
    hookimpl,
    number,
    text,
)


@documented
@attrs.frozen
class NAG(Windowed):
    """Normalized attention guidance: move away from the negative text inside the cross-attention of the positive pass.

        z̃ = z⁺ + φ·(z⁺ − z⁻)
        ẑ = z̃·min(r, τ)/r,   r = ‖z̃‖₁/‖z⁺‖₁        per token
        z = α·ẑ + (1 − α)·z⁺

    It needs no extra pass, and works with distilled models, which have no guidance of their own. The model must support
    it: every pass with the condition `positive` gets the change, and the negative inputs in `branch.also`. At φ = 0 or
    α = 0 it is off.

    Source: Chen et al., arXiv:2505.21179, and the authors' code, whose `nag_scale` is φ + 1.
    """

    scale: float = number(5.0, ge=0, varies=False, help="φ, how far to move away; 0 is off")
    tau: float = number(2.5, gt=0, varies=False, help="τ, the largest growth of a token's norm")
    alpha: float = number(0.25, ge=0, le=1, varies=False, help="α, the weight of the normalized result; 0 is off")
    blocks: Blocks | None = blocks(
        None, varies=False, help="indices of the transformer blocks to change, from 0 (none: all)"
    )
    negative: str = text("negative", help="name of the condition to move away from")

    @hookimpl
    def build_branches(self, step: Step) -> list[Amend]:
        """Change the attention of the passes with the positive condition, inside the window."""
        if self.scale == 0 or self.alpha == 0 or not step.inside(self.window):
            return []
        change = NormalizedAttention(
            self.blocks, scale=self.scale, tau=self.tau, alpha=self.alpha, condition=self.negative
        )
        return [Amend(perturbations=(change,), also=(self.negative,))]
