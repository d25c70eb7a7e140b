"""Sliding-window guidance, plain and masked."""

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
    hookimpl,
    number,
    text,
    whole,
)


@documented
@attrs.frozen
class SWG(WeakenedPass):
    """Sliding-window guidance: move away from a pass that sees the sample through windows.

        guided = c + s·(c − p)

    `p` is the conditional pass whose predictions are made in overlapping windows, and averaged where these overlap.
    Windows lie along the height and the width. At s = 0 it is not run.

    Source: Adaloglou et al., arXiv:2411.10257, Alg. 1 of the first version, and the authors' code.
    """

    scale: Scale = number(1.0, help="strength s; 0 is off and runs no extra pass")
    size: float = number(
        0.75, gt=0, le=1, varies=False, help="length of a window as a fraction of the height and of the width"
    )
    count: int = whole(2, ge=1, help="number of windows along each of them")
    branch: str = text("windows", help="name of the branch; two stacked SWGs need two")
    windows: SlidingWindows = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        object.__setattr__(self, "windows", SlidingWindows(size=self.size, count=self.count))  # once all is checked

    def weakened(self, step: Step) -> Branch:
        """Return the pass that sees windows."""
        return Branch(self.branch, perturbations=(self.windows,), strength=step.value(self.scale))


@documented
@attrs.frozen
class MaskedSWG(SWG):
    """Masked sliding-window guidance: move away from a pass that sees windows, only where these overlap.

        guided = c + s·m·(c − p)

    `p` is the pass of SWG; m is 1 where windows overlap and 0 elsewhere. Windows lie along the last two dimensions of a
    prediction, its height and width. At s = 0 the pass is not run.

    Source: Adaloglou et al., arXiv:2411.10257, Alg. 1 of the third version, and the authors' code.
    """

    shardable: ClassVar[bool] = False

    @hookimpl
    def build_branches(self, step: Step) -> list[Request]:
        """Ask for the prediction of the pass inside the window of steps."""
        active = step.active(self.scale)
        if not step.inside(self.window) or not active:
            return []
        return [attrs.evolve(self.weakened(step), strength=0.0, required=True), Needs(outputs=active)]

    @hookimpl
    def combine(self, step: Step, predictions: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return what to add to c."""
        c, p = predictions["cond"], predictions[self.branch]
        mask = self.windows.overlap(c.shape[-2:]) > 1 if c.ndim > 2 else self.windows.overlap((1, c.shape[-1]))[0] > 1
        return torch.where(mask.to(c.device, non_blocking=True), step.value(self.scale) * (c - p), 0.0)
