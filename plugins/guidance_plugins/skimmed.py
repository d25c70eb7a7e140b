"""Skimmed guidance: a smaller scale where a large one overshoots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs
import torch

from guidance_core import Request, Scale, Space, Step, choice, documented, hookimpl, negative_pass, number


@documented
@attrs.frozen
class Skimmed:
    """CFG with the scale k instead of s for the elements that guidance only makes larger.

        those with sign(c − u) = sign(c) = sign(g) = sign(g − x),  g = u + s·(c − u)
        and then, with the new u, those with sign(u − c) = sign(u) = sign(h) = sign(h − x),  h = c + s·(u − c)

    In each of them, u ← w·u + (1 − w)·c with w = (k − 1)/(s − 1), so that c + (s − 1)(c − u) is the result of scale k.
    The comparisons use x0, which is close to the sample x. At s = 1 the method is off and `uncond` is not run.

    Source: Extraltodeus/Skimmed_CFG, skimmed_CFG.py, the node "linear interpolation".
    """

    form_of: ClassVar[str] = "cfg"
    neutral: ClassVar[Mapping[str, float]] = {"scale": 1.0}

    scale: Scale = number(7.5, help="guidance scale s; 1 is off and runs no extra pass")
    skim: Scale = number(5.0, ge=0, help="k, the scale of elements that overshoot; if equal to s, it is plain cfg")
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
        c, u, x = predictions["cond"], predictions["uncond"], step.sample
        assert x is not None
        s, k = step.value(self.scale), step.value(self.skim)
        w = (k - 1) / (torch.where(s == 1, torch.inf, s - 1) if isinstance(s, torch.Tensor) else s - 1)
        d = c - u
        d = torch.where(_overshoots(c, d, c + (s - 1) * d, x), w * d, d)
        d = torch.where(_overshoots(c - d, -d, c - s * d, x), w * d, d)
        return (s - 1) * d


def _overshoots(c: torch.Tensor, d: torch.Tensor, g: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return where c, the step d that leads to it, the guided g and the way from x to it have one sign."""
    sign = c.sign()
    return (d.sign() == sign) & (g.sign() == sign) & ((g - x).sign() == sign)
