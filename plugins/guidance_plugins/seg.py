"""Smoothed energy guidance."""

from __future__ import annotations

import attrs

from guidance_core import Blocks, BlurredAttention, Branch, Scale, Step, WeakenedPass, blocks, documented, number, text


@documented
@attrs.frozen
class SEG(WeakenedPass):
    """Smoothed energy guidance: move away from a pass in which the attention of some blocks is blurred.

        guided = c + s·(c − p)

    `p` is the conditional pass with a Gaussian blur of the queries of self-attention in the chosen blocks, over the
    grid of their tokens. If σ is more than 9999, every query is the mean of all. At s = 0 it is not run. The paper's γ
    is s + 1, because its formula starts from p; its code uses s.

    Source: Hong, arXiv:2408.00760, eq. 6 and 9, and the authors' code.
    """

    scale: Scale = number(3.0, help="strength s; 0 is off and runs no extra pass")
    blocks: Blocks | None = blocks(
        None, varies=False, help="indices of the transformer blocks to blur, from 0 (none: all)"
    )
    sigma: float = number(
        1e6, gt=0, varies=False, help="standard deviation σ of the blur in tokens; above 9999 it is the mean"
    )
    branch: str = text("blurred", help="name of the branch; two stacked SEGs need two")

    def weakened(self, step: Step) -> Branch:
        """Return the pass with blurred attention."""
        change = BlurredAttention(self.blocks, sigma=self.sigma)
        return Branch(self.branch, perturbations=(change,), strength=step.value(self.scale))
