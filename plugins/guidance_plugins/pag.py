"""Perturbed-attention guidance."""

from __future__ import annotations

import attrs

from guidance_core import Blocks, Branch, IdentityAttention, Scale, Step, WeakenedPass, blocks, documented, number, text


@documented
@attrs.frozen
class PAG(WeakenedPass):
    """Perturbed-attention guidance: move away from a pass in which some blocks do not mix their tokens.

        guided = c + s·(c − p)

    `p` is the conditional pass with the identity as the self-attention map of the chosen blocks. At s = 0 it is not
    run.

    Source: Ahn et al., arXiv:2403.17377, and the authors' code, whose formula starts from p: its scale is s + 1.
    """

    scale: Scale = number(3.0, help="strength s; 0 is off and runs no extra pass")
    blocks: Blocks | None = blocks(
        None, varies=False, help="indices of the transformer blocks to perturb, from 0 (none: all)"
    )
    branch: str = text("identity", help="name of the branch; two stacked PAGs need two")

    def weakened(self, step: Step) -> Branch:
        """Return the pass with the identity as its attention maps."""
        change = IdentityAttention(self.blocks)
        return Branch(self.branch, perturbations=(change,), strength=step.value(self.scale))
