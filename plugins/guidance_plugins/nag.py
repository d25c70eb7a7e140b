"""Normalized attention guidance."""

from __future__ import annotations

import attrs

from guidance_core import (
    Amend,
    Blocks,
    NormalizedAttention,
    Step,
    Window,
    blocks,
    documented,
    hookimpl,
    number,
    text,
)


@documented
@attrs.frozen
class NAG:
    """Normalized attention guidance: the positive pass moves away from the negative text inside its cross-attention.

        z̃ = z⁺ + φ·(z⁺ − z⁻)
        ẑ = z̃·min(r, τ)/r,   r = ‖z̃‖₁/‖z⁺‖₁        per token
        z = α·ẑ + (1 − α)·z⁺

    It costs no pass, and works with distilled models, which have no guidance of their own. The model makes it: every
    pass with the condition `positive` gets the change, and the negative inputs in `branch.also`. At φ = 0 or α = 0 it
    is off.

    Source: Chen et al., arXiv:2505.21179, eq. 7 to 10.
    """

    scale: float = number(5.0, ge=0, help="φ, how far to move; 0 is off")
    tau: float = number(2.5, gt=0, help="τ, the largest growth of a token's norm")
    alpha: float = number(0.25, ge=0, le=1, help="α, the share of the result; 0 is off")
    blocks: Blocks | None = blocks(
        None, varies=False, help="indices of the transformer blocks that do it, from 0; none is all"
    )
    negative: str = text("negative", help="name of the condition to move away from")
    start: float = number(0.0, ge=0, le=1, help="fraction of the steps after which it starts")
    stop: float = number(1.0, ge=0, le=1, help="fraction of the steps after which it stops")
    window: Window = attrs.field(
        init=False,
        repr=False,
        eq=False,
        default=attrs.Factory(lambda self: Window(self.start, self.stop, by="fraction"), takes_self=True),
    )

    @hookimpl
    def build_branches(self, step: Step) -> list[Amend]:
        """Change the attention of the passes with the positive condition, inside the window."""
        if self.scale == 0 or self.alpha == 0 or not step.inside(self.window):
            return []
        change = NormalizedAttention(
            self.blocks, scale=self.scale, tau=self.tau, alpha=self.alpha, condition=self.negative
        )
        return [Amend(perturbations=(change,), also=(self.negative,))]
