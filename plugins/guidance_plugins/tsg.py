"""Time-step guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs

from guidance_core import Blocks, Branch, NoisedTimestep, Scale, Step, WeakenedPass, blocks, documented, number, text


@documented
@attrs.frozen
class TSG(WeakenedPass):
    """Time-step guidance: move away from a pass that gets a noised timestep.

        e′ = e + k·t^α·std(e)·n,   n ~ N(0, 1)
        guided = c + (s − 1)·(c − p)

    `p` is the conditional pass with e′ instead of the embedding e of the timestep in the chosen blocks; t is 1 at the
    noisiest. The noise depends only on the sample's seed and the step. At s = 1 it is not run. The defaults are those
    of the paper for class-conditional DiT-XL/2; it suggests the first half of the blocks.

    Source: Sadat et al., arXiv:2407.02687, eq. 8, section 5 and appendix G.
    """

    neutral: ClassVar[Mapping[str, float]] = {"scale": 1.0}

    scale: Scale = number(2.5, help="guidance scale s; 1 is off and runs no extra pass")
    noise: float = number(2.0, ge=0, varies=False, help="k, the size of the noise")
    power: float = number(
        1.0, ge=0, varies=False, help="α, how fast the noise falls with t; at 0 its size is the same in every step"
    )
    blocks: Blocks | None = blocks(
        None, varies=False, help="transformer blocks that get the noised embedding, from 0 (none: all)"
    )
    branch: str = text("timestep", help="name of the branch; two stacked TSGs need two")

    def weakened(self, step: Step) -> Branch:
        """Return the pass with a noised timestep."""
        change = NoisedTimestep(self.blocks, scale=self.noise, power=self.power)
        return Branch(self.branch, perturbations=(change,), strength=step.value(self.scale) - 1)
