"""One pass after another, in the order of the plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from guidance_core.executors.base import Denoiser, Executor
from guidance_core.executors.forwards import run_own
from guidance_core.steps.plan import Plan


class SerialExecutor(Executor):
    """Runs the branches one after another in this process: the reference for all other executors."""

    name = "serial"
    keeps_gradients = True

    def execute(self, plan: Plan, denoise: Denoiser) -> Mapping[str, Any]:
        """Return the prediction of every branch, by name."""
        return run_own(plan, denoise)

    def describe(self) -> str:
        """Return one line that says how branches are run."""
        return "serial: one forward pass per branch, one after another"
