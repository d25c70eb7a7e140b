"""Autoguidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import attrs

from guidance_core import (
    Blocks,
    Branch,
    ConfigurationError,
    DropOut,
    Scale,
    SkipBlocks,
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
class Autoguidance(WeakenedPass):
    """Autoguidance: move away from the prediction of a weaker version of the model.

        guided = c + (s − 1)·(c − w)

    `w` is the prediction of another model, which the host provides under the name `model`, or of this model with part
    of some blocks dropped; with `dropout=1` these blocks are skipped. It has the condition of c (`form=paper`), or the
    negative one (`form=diffusers`). At s = 1 it is not run.

    Source: Karras et al., arXiv:2406.02507, eq. 3 and section 3; as in diffusers' AutoGuidance with `form=diffusers`.
    """

    neutral: ClassVar[Mapping[str, float]] = {"scale": 1.0}

    scale: Scale = number(2.0, help="guidance scale s; 1 is off and runs no extra pass")
    model: str | None = text(
        None, optional=True, help="name of a weaker model of the host (none: drop parts of this model)"
    )
    blocks: Blocks | None = blocks(None, varies=False, help="indices of the blocks to drop from, from 0 (none: all)")
    dropout: float = number(
        0.1, gt=0, le=1, varies=False, help="share of the output of these blocks to drop, if there is no other model"
    )
    form: Literal["paper", "diffusers"] = choice(
        "paper", ("paper", "diffusers"), help="whether the weak pass has the condition of c or the negative one"
    )
    branch: str = text("weak", help="name of the branch; two stacked ones need two")

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.model is not None and self.blocks is not None:
            raise ConfigurationError(
                "Autoguidance: blocks says where this model is weakened, and model names another one; give one of them."
            )

    def weakened(self, step: Step) -> Branch:
        """Return the pass of the weaker model."""
        change = SkipBlocks(self.blocks) if self.dropout == 1 else DropOut(self.blocks, rate=self.dropout)
        return Branch(
            self.branch,
            condition="positive" if self.form == "paper" else "negative",
            perturbations=(change,) if self.model is None else (),
            model=self.model,
            strength=step.value(self.scale) - 1,
        )
