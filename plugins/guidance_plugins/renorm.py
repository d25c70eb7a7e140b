"""Limiting the norm of the guided prediction to that of the conditional one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import attrs
import torch

from guidance_core import Multiply, Needs, Norm, Reference, Scale, Step, choice, documented, hookimpl, number, ratio


def limiting(
    step: Step, most: torch.Tensor, guided: torch.Tensor, least: float | torch.Tensor, norm: Norm
) -> torch.Tensor:
    """Return k = min(1, max(least, most/‖guided‖)), 1 where `guided` is 0; `most` and k have the shape of the norms."""
    share = ratio(most, step.measure(norm, guided))
    share = torch.maximum(share, least) if isinstance(least, torch.Tensor) else share.clamp(min=least)
    return share.clamp(max=1.0)


@documented
@attrs.frozen
class Renorm:
    """Limit the norm of the guided prediction g to that of c, but keep at least a share of its own.

        guided = k·g,   k = min(1, max(m, ‖c‖/‖g‖))

    Norms are per sample (`global`), or per token, which is the last dimension (`channel`). Put it after `dual` or
    another guidance. If g is 0, it stays as it is. `renorm-text` limits only the part of the text.

    Source: the code of BAGEL, arXiv:2505.14683 (`cfg_renorm_type`, `cfg_renorm_min`).
    """

    neutral: ClassVar[Mapping[str, float]] = {"least": 1.0}

    form: Literal["global", "channel"] = choice("global", ("global", "channel"), help="what one norm covers")
    least: Scale = number(0.0, ge=0, le=1, help="m, the smallest factor; 1 is off")
    norm: Norm = attrs.field(
        init=False,
        repr=False,
        eq=False,
        default=attrs.Factory(lambda self: Norm("sample" if self.form == "global" else "token"), takes_self=True),
    )

    @hookimpl
    def build_branches(self, step: Step) -> list[Needs]:
        """Ask for the base prediction's norm, unless m is 1 for every output."""
        limited = step.active(self.least, neutral=1.0)
        return [Needs(statistics=self.norm, outputs=limited)] if limited else []

    @hookimpl
    def postprocess(self, step: Step, guided: torch.Tensor, reference: Reference) -> Multiply:
        """Scale the guided prediction."""
        return Multiply(limiting(step, reference.measure(self.norm), guided, step.value(self.least), self.norm))
