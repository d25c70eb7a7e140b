"""A denoiser whose predictions are copied as they return, since its next forward overwrites them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guidance_core.algebra.memory import copy_of
from guidance_core.executors.base import Denoiser
from guidance_core.steps.apart import check_apart
from guidance_core.steps.bound_branch import BoundBranch
from guidance_core.steps.plan import Plan


class CopyingDenoiser:
    """Stands for a denoiser that says `reuses_memory = True`; it has all attributes of it."""

    def __init__(self, denoise: Denoiser, plan: Plan) -> None:
        self._denoise = denoise
        self._plan = plan

    def __call__(self, branch: BoundBranch) -> Any:
        """Run one branch and copy its prediction."""
        return copy_of(self._denoise(branch))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._denoise, name)
        return self._batch if name == "batch" and callable(found) else found

    def _batch(self, branches: Sequence[BoundBranch]) -> Any:
        """Run several branches and copy their predictions.

        Raises:
            OverwrittenError: two overlap, so that one was overwritten before it could be copied.
        """
        made = self._denoise.batch(branches)  # type: ignore[attr-defined]
        if not isinstance(made, Sequence):
            return made
        by_branch = {branch.name: each for branch, each in zip(branches, made, strict=False)}
        check_apart(self._plan.by_output(by_branch), f"step {self._plan.index}")
        return list(map(copy_of, made))
