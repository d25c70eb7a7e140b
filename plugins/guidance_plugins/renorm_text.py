"""Guidance by a text and an image, with a limit for the part of the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs
import torch

from guidance_core import (
    Branch,
    Needs,
    Norm,
    Request,
    Scale,
    Step,
    aligned,
    documented,
    hookimpl,
    number,
    text,
)
from guidance_plugins.renorm import limiting

NORM = Norm("token")


@documented
@attrs.frozen
class RenormText:
    """Guidance like `dual:form=bagel`, with the norm of the part of the text limited to that of c.

        h = r + t·(c − r)
        k = min(1, max(m, ‖c‖/‖h‖))              per token (last dimension)
        guided = n + i·(k·h − n)

    c has the text and the image, r only the image, and n only the text. n is not run at i = 1, and r not at t = 1.

    Source: the code of BAGEL, arXiv:2505.14683 (`cfg_renorm_type="text_channel"`).
    """

    form_of: ClassVar[str] = "cfg"
    neutral: ClassVar[Mapping[str, float]] = {"text_scale": 1.0, "image_scale": 1.0}

    text_scale: Scale = number(4.0, help="scale t of the text")
    image_scale: Scale = number(1.5, help="scale i of the image")
    least: Scale = number(0.0, ge=0, le=1, help="m, the smallest factor; 1 disables the limit")
    image_condition: str = text("image", help="the condition with the image, but without the text")
    text_condition: str = text("text", help="the condition with the text, but without the image")

    @hookimpl
    def build_branches(self, step: Step) -> list[Request]:
        """Ask for the passes with the strengths of `dual`, and for the prediction r to limit its part."""
        t, i = aligned(step.value(self.text_scale), step.value(self.image_scale))
        by_text = step.active(self.text_scale, neutral=1.0)
        by_image = Branch(self.text_condition, condition=self.text_condition, strength=i - 1)
        if not by_text:
            return [by_image, Needs(outputs=())]
        image = Branch(self.image_condition, condition=self.image_condition, strength=i * (t - 1), required=True)
        return [image, by_image, Needs(outputs=by_text)]

    @hookimpl
    def combine(self, step: Step, predictions: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return i·(k − 1)·h, the part that the limit removes."""
        c, r = predictions["cond"], predictions[self.image_condition]
        h = r + step.value(self.text_scale) * (c - r)
        k = limiting(step, step.measure(NORM, c), h, step.value(self.least), NORM)
        return step.value(self.image_scale) * (k - 1) * h
