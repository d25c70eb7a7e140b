"""Token perturbation guidance."""

from __future__ import annotations

import attrs

from guidance_core import Blocks, Branch, Scale, ShuffledTokens, Step, WeakenedPass, blocks, documented, number, text


@documented
@attrs.frozen
class TPG(WeakenedPass):
    """Token perturbation guidance: move away from a pass in which the tokens of some blocks are shuffled.

        guided = c + s·(c − p)

    `p` is the conditional pass in which the tokens that enter each of the chosen blocks are shuffled. The order depends
    only on the sample's seed and the step. At s = 0 it is not run.

    Source: Rajabi et al., arXiv:2506.10036, Alg. 1, and the authors' code.
    """

    scale: Scale = number(3.0, help="strength s; 0 is off and runs no extra pass")
    blocks: Blocks | None = blocks(
        None, varies=False, help="indices of the transformer blocks to shuffle, from 0 (none: all)"
    )
    branch: str = text("shuffled", help="name of the branch; two stacked TPGs need two")

    def weakened(self, step: Step) -> Branch:
        """Return the pass with shuffled tokens."""
        change = ShuffledTokens(self.blocks)
        return Branch(self.branch, perturbations=(change,), strength=step.value(self.scale))
