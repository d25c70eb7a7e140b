"""Guidance by several conditions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import torch

from guidance_core import (
    Branch,
    ConfigurationError,
    PerOutput,
    Scale,
    Step,
    documented,
    hookimpl,
    number,
    text,
    whole,
)


@documented
@attrs.frozen
class MultiCondition:
    """Guidance by one more condition, in addition to that of `cfg`; a stack may have several.

        guided = c + w·(a − u)

    a is the prediction with `condition`, and u that with the condition `negative`. With `cfg:scale=s` in the stack the
    result is u + s·(c − u) + Σ wᵢ·(aᵢ − u); passes whose weights cancel out are not run. The weight may be a mask: a
    tensor that broadcasts to the prediction, with dimensions aligned from the batch on, such as `[1, 1, H, W]`. With
    `frames` it goes from `weight` in the first frame to `last` in the last one. At weight 0 the method adds no passes.

    Source: Liu et al., arXiv:2206.01714, and the authors' code; weights by frame as in Stable Video Diffusion.
    """

    values_to_try: ClassVar[Mapping[str, tuple[Any, ...]]] = {"frames": (3,), "frame_dim": (1,)}
    shapes_to_try: ClassVar[tuple[tuple[int, ...], ...]] = ((3, 3), (3, 3, 4), (3, 3, 2, 2))  # with as many frames

    condition: str = text("extra", help="name of the condition; `positive` is that of c itself")
    weight: Scale = number(1.0, help="weight w: a number, or a mask; negative moves away from the condition")
    last: Scale = number(1.0, help="weight in the last frame, if `frames` is given")
    frames: int | None = whole(None, ge=1, optional=True, help="number of frames of a ramp (none: no ramp)")
    frame_dim: int = whole(2, ge=1, help="the dimension of the frames: 2 in [B, C, F, H, W], 1 in [B, F, ...]")

    def __attrs_post_init__(self) -> None:
        if self.condition == "negative":
            raise ConfigurationError("MultiCondition: condition cannot be 'negative', which it is compared with.")

    @hookimpl
    def build_branches(self, step: Step) -> list[Branch]:
        """Ask for `uncond` with strength w, and for the condition with strength −w."""
        weight = step.value(self.weight)
        if self.frames is not None:
            weight = self._ramp(weight, step.value(self.last), self.frames)
        against = Branch("uncond", condition="negative", strength=weight)
        if self.condition == "positive":
            return [against]
        return [Branch(self.condition, condition=self.condition, strength=-1.0 * weight), against]

    def _ramp(self, first: Any, last: Any, frames: int) -> Any:
        """Return the weights from the first frame to the last, shaped `[1, ..., F]`."""
        for each in (first, last):
            if any(isinstance(x, torch.Tensor) for x in (each.values() if isinstance(each, PerOutput) else [each])):
                raise ConfigurationError("a ramp over frames runs between two numbers; got a tensor as weight or last.")
        share = torch.linspace(0, 1, frames, device="cpu").view((1,) * self.frame_dim + (frames,))
        return first * (1 - share) + last * share
