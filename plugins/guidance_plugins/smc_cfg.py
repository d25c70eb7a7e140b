"""Sliding-mode control of guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import attrs
import torch

from guidance_core import Request, Scale, Space, Step, choice, documented, hookimpl, negative_pass, number


@documented
@attrs.frozen
class SMCCFG:
    """CFG whose difference c − u is kept on a sliding surface.

        e = c − u
        r = (e − e′) + λ·e′                   e′ is the corrected e of the last step, at the first step e itself
        e ← e − k·sign(r)                     form=sign
        e ← e − k·r/‖r‖                       form=norm, per sample
        guided = u + s·e

    At s = 1 the method is off and `uncond` is not run. In a sampler that goes back in noise (Restart), e′ stays that of
    the lower noise.

    Source: CFG-Ctrl, arXiv:2603.03281; form=sign and the defaults λ = 5, k = 0.2 are those of the authors' code, which
    works on velocities.
    """

    form_of: ClassVar[str] = "cfg"
    neutral: ClassVar[Mapping[str, float]] = {"scale": 1.0}

    scale: Scale = number(7.5, help="guidance scale s; 1 is off and runs no extra pass")
    slope: Scale = number(5.0, ge=0, help="λ, slope of the sliding surface")
    gain: Scale = number(0.2, ge=0, help="k, size of the correction; 0 is plain cfg")
    form: Literal["sign", "norm"] = choice(
        "sign", ("sign", "norm"), help="whether the correction uses the signs of r or its direction"
    )
    space: Space | None = choice(
        None, ("epsilon", "v", "x0", "flow"), optional=True, help="space to work in (none: the model's own)"
    )

    @hookimpl
    def build_branches(self, step: Step) -> list[Request]:
        """Ask for the prediction of `uncond`, unless s is 1 for every output."""
        return negative_pass(step, self.scale, space=self.space)

    @hookimpl
    def combine(self, step: Step, predictions: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return what to add to c."""
        d = predictions["cond"] - predictions["uncond"]
        last: torch.Tensor = step.state.get("difference", d)
        r = d - last + step.value(self.slope) * last
        if self.form == "sign":
            toward = r.sign()
        else:
            length = step.norm(r)
            toward = r / torch.where(length > 0, length, 1.0)
        step.state["difference"] = e = d - step.value(self.gain) * toward
        return step.value(self.scale) * e - d
