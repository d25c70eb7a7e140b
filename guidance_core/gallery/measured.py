"""How strongly a method pulls, in units of plain cfg: its effective scale.

    effective scale = 1 + mean over steps of ⟨guided − c, c − u⟩ / ‖c − u‖²

For plain cfg this is its scale. Other methods reach other scores partly because they pull more or less strongly along
c − u, which plain cfg can do too; compare them at equal effective scale. Source: Xie et al., arXiv:2602.22570, and the
authors' README. The products are over all samples of the batch: single ones, with c and u nearly equal, would
outweigh the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from guidance_core.executors.base import Denoiser
from guidance_core.methods.requests import BASE
from guidance_core.run import Run
from guidance_core.steps.bound_branch import BoundBranch

OPEN = ("negative", "empty")
"Conditions that say nothing: their plain pass is u."


class MeasuredRun:
    """A run of one output that measures its effective scale.

    It looks at the passes that the run makes anyway. Where u is not among them, it makes that pass for itself; the
    run's results and its `passes` stay what they are. For executors of one process.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.strengths: list[Tensor] = []
        "Of each step so far, ⟨guided − c, c − u⟩ / ‖c − u‖², a number in float64."

    @property
    def effective_scale(self) -> Tensor:
        """The effective scale, a number in float64, as a mean over the steps so far."""
        return 1 + torch.stack(self.strengths).mean()

    def step(self, index: int, x: Tensor, denoise: Denoiser, away: Callable[[], Tensor]) -> Tensor:
        """Make a step as `Run.step` does.

        Args:
            index: number of the step.
            x: the noisy sample, `[B, ...]`.
            denoise: runs a branch.
            away: makes u, where the step has no such pass.
        """
        seen = _Seen(denoise)
        guided: Tensor = self.run.step(index, x, seen)
        c = seen.base
        u = away() if seen.away is None else seen.away
        self.strengths.append(strength(guided, c, u))
        return guided


def strength(guided: Tensor, c: Tensor, u: Tensor) -> Tensor:
    """Return ⟨guided − c, c − u⟩ / ‖c − u‖², a number in float64; 0 where c is u.

    Args:
        guided: the result of a step, `[B, ...]`.
        c: the base prediction.
        u: the prediction without the condition.
    """
    guided, c, u = (each.detach().double() for each in (guided, c, u))
    apart = c - u
    length = apart.square().sum()
    return ((guided - c) * apart).sum() / length if length > 0 else torch.zeros_like(length)


class _Seen:
    """A denoiser that notes c and u as they are made."""

    def __init__(self, denoise: Denoiser) -> None:
        self._denoise = denoise
        self.base: Any = None
        self.away: Any = None

    def __call__(self, branch: BoundBranch) -> Any:
        prediction = self._denoise(branch)
        if branch.name == BASE:
            self.base = prediction.detach()
        plain = not branch.perturbations and branch.model is None and not branch.amended_by
        if branch.condition in OPEN and plain:
            self.away = prediction.detach()
        return prediction
