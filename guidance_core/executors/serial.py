"""One pass after another, in the order of the plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from guidance_core.executors.base import Denoiser, Executor, add_note
from guidance_core.steps.plan import Plan


class SerialExecutor(Executor):
    """Runs each branch by itself on this process's device: the reference for all other executors."""

    name = "serial"

    def execute(self, plan: Plan, denoise: Denoiser) -> Mapping[str, Any]:
        """Return the prediction of every branch, by name."""
        predictions = {}
        for branch in plan.own_branches:
            try:
                predictions[branch.name] = denoise(branch)
            except Exception as error:
                add_note(error, branch)
                raise
        return predictions

    def describe(self) -> str:
        """Return one line that says how branches are run."""
        return "serial: one forward pass per branch, one after another"
