"""Skip-layer guidance."""

from __future__ import annotations

import attrs

from guidance_core import Blocks, Branch, Scale, SkipBlocks, Step, WeakenedPass, blocks, documented, number, text


@documented
@attrs.frozen
class SLG(WeakenedPass):
    """Skip-layer guidance: move away from a pass that skips some blocks.

        guided = c + s·(c − p)

    `p` is the conditional pass without the chosen blocks. At s = 0 it is not run. Blocks and window are those of
    Stable Diffusion 3.5 Medium, whose s is 2.5; the default s is that of diffusers. `stg:skip=blocks` is the same
    guidance with the defaults of video models.

    Source: Stability AI, Stable Diffusion 3.5, `SkipLayerCFGDenoiser` in `sd3_impls.py`.
    """

    scale: Scale = number(2.8, help="strength s; 0 is off and runs no extra pass")
    blocks: Blocks | None = blocks(
        (7, 8, 9), varies=False, help="indices of the transformer blocks to skip, from 0 (none: all)"
    )
    branch: str = text("skipped", help="name of the branch; two stacked SLGs need two")
    start: float = number(0.01, ge=0, le=1, varies=False, help="fraction of the steps after which it starts")
    stop: float = number(0.2, ge=0, le=1, varies=False, help="fraction of the steps after which it stops")

    def weakened(self, step: Step) -> Branch:
        """Return the pass without the blocks."""
        change = SkipBlocks(self.blocks)
        return Branch(self.branch, perturbations=(change,), strength=step.value(self.scale))
