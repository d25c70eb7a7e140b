"""Adaptive projected guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import attrs
import torch

from guidance_core import (
    Over,
    Request,
    Scale,
    Space,
    Step,
    choice,
    documented,
    extent,
    hookimpl,
    negative_pass,
    number,
    parallel,
    with_momentum,
)


def projected(
    step: Step,
    d: torch.Tensor,
    c: torch.Tensor,
    eta: float | torch.Tensor,
    threshold: float | torch.Tensor,
    over: Over = "sample",
) -> torch.Tensor:
    """Return d⊥ + η·d∥ of a direction d whose norm is first limited to `threshold`, if that is not 0.

    `d` and `c` are `[B, ...]`; d∥ is the part of d that is parallel to c.
    """
    if isinstance(threshold, torch.Tensor) or threshold > 0:
        length = step.norm(d, over)
        d = d * torch.where(length > threshold, threshold / length, 1.0)
    along = parallel(step, d, c, over)
    return d - along.mul_(1 - eta)


@documented
@attrs.frozen
class APG:
    """Adaptive projected guidance: weaken the part of c − u that only amplifies the image.

        d = c − u + β·d_previous                  momentum (β is usually negative)
        d = d·min(1, r/‖d‖)                       cap, if r > 0
        d = d⊥ + η·d∥                             d∥ is the part of d parallel to c
        guided = c + (s − 1)·d                    form=paper
        guided = u + s·d                          form=diffusers

    Norms and projections are per sample, or over the dimensions in `over`. The authors' code uses [-1, -2, -3], which
    in `[B, C, F, H, W]` is one channel and not the sample. At s = 1 the method is off and `uncond` is not run.

    Source: Sadat et al., arXiv:2410.02416, Alg. 1; in x0 space, as section 4 recommends.
    """

    form_of: ClassVar[str] = "cfg"

    scale: Scale = number(7.5, help="guidance scale s; 1 is off and runs no extra pass")
    eta: Scale = number(0.0, help="weight η of the parallel part; 1 keeps it all")
    momentum: Scale = number(0.0, help="β, the share of the last step's direction to add; 0 is off")
    threshold: Scale = number(0.0, ge=0, help="r, the largest norm of the direction; 0 disables the limit")
    over: Over = extent(
        "sample", batch=False, help="range of one norm and projection: a name, or dimensions such as [-1, -2]"
    )
    form: Literal["paper", "diffusers"] = choice(
        "paper", ("paper", "diffusers"), help="whether the formula starts from c or from u"
    )
    space: Space | None = choice(
        "x0", ("epsilon", "v", "x0", "flow"), optional=True, help="space to work in (none: the model's own)"
    )

    @hookimpl
    def build_branches(self, step: Step) -> list[Request]:
        """Ask for the prediction of `uncond`, unless s is 1 for every output."""
        return negative_pass(step, self.scale, space=self.space)

    @hookimpl
    def combine(self, step: Step, predictions: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return what to add to c."""
        c, u = predictions["cond"], predictions["uncond"]
        s, eta, beta, r = (step.value(each) for each in (self.scale, self.eta, self.momentum, self.threshold))

        difference = c - u
        d = projected(step, with_momentum(step, difference, beta), c, eta, r, self.over)
        return d.mul_(s - 1) if self.form == "paper" else d.mul_(s).sub_(difference)
