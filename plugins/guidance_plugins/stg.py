"""Spatio-temporal guidance and skip-layer guidance."""

from __future__ import annotations

from typing import Literal

import attrs

from guidance_core import (
    Blocks,
    Branch,
    Scale,
    SkipBlocks,
    SkipSelfAttention,
    Step,
    WeakenedPass,
    blocks,
    choice,
    documented,
    number,
    text,
)


@documented
@attrs.frozen
class STG(WeakenedPass):
    """Spatio-temporal guidance: move away from the prediction of a deliberately weakened model.

        guided = c + s·(c − p)

    `p` is the conditional pass with the self-attention of some blocks skipped (`skip=attention`), or
    those blocks skipped as a whole (`skip=blocks`, also known as skip-layer guidance). At s = 0 it
    is not run. `start` and `stop` are fractions of the steps.

    Source: Hyung et al., arXiv:2411.18664, eq. 7; skip-layer guidance: Stability AI, SD3.5.
    """

    scale: Scale = number(1.0, help="strength s; 0 is off and runs no extra pass")
    blocks: Blocks | None = blocks(None, help="indices of the transformer blocks to weaken, from 0 (none: all)")
    skip: Literal["attention", "blocks"] = choice(
        "attention", ("attention", "blocks"), help="what to skip in those blocks"
    )
    start: float = number(0.0, ge=0, le=1, varies=False, help="fraction of the steps after which it starts")
    stop: float = number(1.0, ge=0, le=1, varies=False, help="fraction of the steps after which it stops")
    branch: str = text("perturbed", help="name of the branch; two stacked STGs need two")
    perturbation: SkipSelfAttention | SkipBlocks = attrs.field(
        init=False,
        repr=False,
        eq=False,
        default=attrs.Factory(
            lambda self: SkipSelfAttention(self.blocks) if self.skip == "attention" else SkipBlocks(self.blocks),
            takes_self=True,
        ),
    )

    def weakened(self, step: Step) -> Branch:
        """Return the pass without the blocks or their attention."""
        return Branch(self.branch, perturbations=(self.perturbation,), strength=step.value(self.scale))
