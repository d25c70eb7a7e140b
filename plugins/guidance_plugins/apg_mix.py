"""Classifier-free guidance first, adaptive projected guidance afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import attrs
import torch

from guidance_core import (
    Request,
    Scale,
    Space,
    Step,
    choice,
    documented,
    hookimpl,
    negative_pass,
    number,
    whole,
    with_momentum,
)
from guidance_plugins.apg import projected


@documented
@attrs.frozen
class APGMix:
    """Plain guidance up to a step, and adaptive projected guidance after it, each with its own scale.

        guided = u + s·(c − u)                        up to step k, which is counted from 0
        guided = u + s′·d                             after it, form=diffusers
        guided = c + (s′ − 1)·d                       after it, form=paper

    d is c − u with momentum, cap and projection, as in `apg`. Momentum builds up from the first step on. A part whose
    scale is 1 is off: `uncond` is not run there, and its steps do not contribute to the momentum.

    Source: HunyuanImage-2.1, `hunyuanimage_pipeline.py` (`APG_mode_0`), whose form is the default; in diffusers it is
    AdaptiveProjectedMixGuidance.
    """

    form_of: ClassVar[str] = "cfg"
    neutral: ClassVar[Mapping[str, float]] = {"scale": 1.0, "apg_scale": 1.0}

    scale: Scale = number(3.5, help="guidance scale s of the first steps; 1 is off")
    apg_scale: Scale = number(10.0, help="guidance scale s′ of the steps after them; 1 is off")
    start_step: int = whole(5, help="k, the last step of plain guidance, from 0")
    eta: Scale = number(0.0, help="weight η of the part of d that is parallel to c; 1 keeps it all")
    momentum: Scale = number(-0.5, help="β, the share of the last step's direction to add; 0 is off")
    threshold: Scale = number(10.0, ge=0, help="r, the largest norm of the direction; 0 disables the limit")
    form: Literal["paper", "diffusers"] = choice(
        "diffusers", ("paper", "diffusers"), help="whether the second formula starts from c or from u"
    )
    space: Space | None = choice(
        None, ("epsilon", "v", "x0", "flow"), optional=True, help="space to work in (none: the model's own)"
    )

    @hookimpl
    def build_branches(self, step: Step) -> list[Request]:
        """Ask for the prediction of `uncond`, unless the scale of this part is 1 for every output."""
        return negative_pass(step, self.scale if step.index <= self.start_step else self.apg_scale, space=self.space)

    @hookimpl
    def combine(self, step: Step, predictions: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return what to add to c."""
        c, u = predictions["cond"], predictions["uncond"]
        difference = c - u
        d = with_momentum(step, difference, step.value(self.momentum))
        if step.index <= self.start_step:
            return (step.value(self.scale) - 1) * difference
        d = projected(step, d, c, step.value(self.eta), step.value(self.threshold))
        s = step.value(self.apg_scale)
        return (s - 1) * d if self.form == "paper" else s * d - difference
