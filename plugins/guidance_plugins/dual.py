"""Guidance by a text and by an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import attrs

from guidance_core import Branch, Scale, Step, aligned, choice, documented, hookimpl, number, text


@documented
@attrs.frozen
class Dual:
    """Guidance by a text and an image, with a scale for each.

        guided = u + i·(r − u) + t·(c − r)            form=pix2pix
        guided = n + i·(r + t·(c − r) − n)            form=bagel

    c has the text and the image, r only the image, u neither (the condition `negative`), and n only the text. A pass
    whose prediction cancels out is not run: at t = i = 1 only c is run, and at i = 1 neither u nor n.

    Source: Brooks et al., arXiv:2211.09800, eq. 3, `edit_cli.py` of the authors, and OmniGen2; form=bagel: the code of
    BAGEL, arXiv:2505.14683.
    """

    form_of: ClassVar[str] = "cfg"
    neutral: ClassVar[Mapping[str, float]] = {"text_scale": 1.0, "image_scale": 1.0}

    text_scale: Scale = number(7.5, help="scale t of the text")
    image_scale: Scale = number(1.5, help="scale i of the image")
    form: Literal["pix2pix", "bagel"] = choice(
        "pix2pix",
        ("pix2pix", "bagel"),
        help="whether the image scale is relative to the pass with neither condition, or to that with the text",
    )
    image_condition: str = text("image", help="the condition with the image, but without the text")
    text_condition: str = text("text", help="the condition with the text, but without the image (bagel)")

    @hookimpl
    def build_branches(self, step: Step) -> list[Branch]:
        """Ask for the passes with the strengths that follow from the formula."""
        t, i = aligned(step.value(self.text_scale), step.value(self.image_scale))
        image = self.image_condition
        if self.form == "pix2pix":
            return [
                Branch(image, condition=image, strength=t - i),
                Branch("uncond", condition="negative", strength=i - 1),
            ]
        return [
            Branch(image, condition=image, strength=i * (t - 1)),
            Branch(self.text_condition, condition=self.text_condition, strength=i - 1),
        ]
