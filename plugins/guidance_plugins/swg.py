"""Sliding-window guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs
import torch

from guidance_core import (
    Branch,
    Needs,
    Request,
    Scale,
    SlidingWindows,
    Step,
    WeakenedPass,
    documented,
    flag,
    hookimpl,
    number,
    text,
    whole,
)


@documented
@attrs.frozen
class SWG(WeakenedPass):
    """Sliding-window guidance: move away from a pass that sees the sample through windows.

        guided = c + s·m·(c − p)

    `p` is the conditional pass whose predictions are made in windows that overlap, and averaged where they do. With
    `masked` m is 1 where windows overlap and 0 elsewhere; without, it is 1. At s = 0 the pass is not run. Windows lie
    along the last two dimensions of a prediction, its height and width.

    Source: Adaloglou et al., arXiv:2411.10257, Alg. 1; masked in its third version, which recommends it, plain in its
    first; and the authors' code.
    """

    shardable: ClassVar[bool] = False

    scale: Scale = number(1.0, help="strength s; 0 is off and runs no extra pass")
    size: float = number(0.75, gt=0, le=1, help="length of a window as a fraction of the height and of the width")
    count: int = whole(2, ge=1, help="number of windows along each of them")
    masked: bool = flag(False, help="whether only to move away where windows overlap")
    branch: str = text("windows", help="name of the branch; two stacked SWGs need two")

    def weakened(self, step: Step) -> Branch:
        """Return the pass that sees windows."""
        windows = SlidingWindows(size=self.size, count=self.count)
        return Branch(self.branch, perturbations=(windows,), strength=step.value(self.scale))

    @hookimpl
    def build_branches(self, step: Step) -> list[Request]:
        """Ask for the pass inside the window of steps; where it is masked, for its prediction."""
        active = step.active(self.scale)
        if not step.inside(self.window) or not active:
            return []
        pass_ = self.weakened(step)
        if not self.masked:
            return [pass_, Needs(outputs=())]
        return [attrs.evolve(pass_, strength=0.0, required=True), Needs(outputs=active)]

    @hookimpl
    def combine(self, step: Step, predictions: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return what to add to c."""
        c, p = predictions["cond"], predictions[self.branch]
        height, width = c.shape[-2:] if c.ndim > 2 else (1, c.shape[-1])
        overlap = SlidingWindows(size=self.size, count=self.count).overlap((height, width))
        mask = (overlap > overlap.min()) if c.ndim > 2 else (overlap > overlap.min())[0]
        return torch.where(mask.to(c.device, non_blocking=True), step.value(self.scale) * (c - p), 0.0)
