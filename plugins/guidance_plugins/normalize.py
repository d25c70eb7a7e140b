"""Bounding or matching the norm of the guided prediction."""

from __future__ import annotations

from typing import Literal

import attrs
import torch

from guidance_core import (
    Multiply,
    Needs,
    Norm,
    Over,
    Reference,
    Scale,
    Step,
    choice,
    documented,
    extent,
    hookimpl,
    number,
    ratio,
)


@documented
@attrs.frozen
class Normalize:
    """Norm correction of the guided prediction g, against the conditional prediction c.

        clamp:  g·min(1, k·‖c‖/‖g‖)   per sample: the norm may grow by the factor k at most
        match:  g·‖c‖/‖g‖             per token (last dimension): the norm is that of c

    If ‖g‖ is 0, the prediction stays as it is.

    Source: clamp as in the CFG normalization of Z-Image; match as in Qwen-Image.
    """

    form: Literal["clamp", "match"] = choice(
        "clamp", ("clamp", "match"), help="whether to bound the norm or to match that of c"
    )
    limit: Scale = number(1.0, ge=0, help="k, how much the norm may grow (clamp form)")
    over: Over | None = extent(
        None,
        optional=True,
        batch=False,
        help="what one norm covers: sample, token, channel, channel_last, or dimensions such as [-1, -2]; "
        "none: a sample for clamp, a token for match",
    )

    norm: Norm = attrs.field(
        init=False,
        repr=False,
        eq=False,
        default=attrs.Factory(
            lambda self: Norm(self.over or ("sample" if self.form == "clamp" else "token")), takes_self=True
        ),
    )

    @hookimpl
    def build_branches(self, step: Step) -> list[Needs]:
        """Ask for the base prediction's norm."""
        return [Needs(statistics=self.norm)]

    @hookimpl
    def postprocess(self, step: Step, guided: torch.Tensor, reference: Reference) -> Multiply:
        """Scale the guided prediction."""
        norm_c, norm_g = reference.measure(self.norm), step.measure(self.norm, guided)
        if self.form == "match":
            return Multiply(ratio(norm_c, norm_g))
        return Multiply(ratio(norm_c * step.value(self.limit), norm_g).clamp(max=1.0))
