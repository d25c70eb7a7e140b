"""Several branches in one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from guidance_core.errors import ConfigurationError, ExecutorError
from guidance_core.executors.base import Denoiser, Executor, run_batch, run_branch
from guidance_core.steps.apart import check_unwritten
from guidance_core.steps.bound_branch import BoundBranch
from guidance_core.steps.plan import Plan


class BatchedExecutor(Executor):
    """Passes the branches to `denoise.batch(branches)`, which runs them in one forward pass.

    The library's own arithmetic is the same as with the serial executor. The model gets a larger batch, and most matrix
    kernels round differently for another batch shape. So predictions are equal within the model's precision, not bit
    for bit.
    """

    name = "batched"
    keeps_gradients = True

    def __init__(self, max_rows: int | None = None) -> None:
        """Limit each forward to `max_rows` rows: branches times the batch size of the sample.

        Raises:
            ConfigurationError: `max_rows` is not a positive whole number.
        """
        if max_rows is not None and (isinstance(max_rows, bool) or not isinstance(max_rows, int) or max_rows < 1):
            raise ConfigurationError(f"max_rows must be a positive whole number or None; got {max_rows!r}.")
        self.max_rows = max_rows

    def execute(self, plan: Plan, denoise: Denoiser) -> Mapping[str, Any]:
        """Return the prediction of every branch, by name.

        Raises:
            ExecutorError: the denoiser has no `batch`, or a single branch exceeds `max_rows`.
            DenoiserError: the number of predictions that `batch` returned is not that of the branches.
        """
        predictions: dict[str, Any] = {}
        for branch in plan.own_branches:
            if branch.gradient:  # by itself, so that no other pass keeps its graph
                predictions[branch.name] = run_branch(branch, denoise)
        for group in self._groups(plan):
            results = run_batch(group, denoise, "the batched executor")
            names = [branch.name for branch in group]
            check_unwritten(plan.samples.values(), plan.writes, f"by denoise.batch for branches {', '.join(names)}")
            predictions |= dict(zip(names, results, strict=True))
        return predictions

    def _groups(self, plan: Plan) -> Iterator[list[BoundBranch]]:
        branches = [branch for branch in plan.own_branches if not branch.gradient]
        if self.max_rows is None:
            size = len(branches)
        else:
            size = self.max_rows // plan.rows
            if size == 0:
                raise ExecutorError(f"max_rows={self.max_rows} is less than the sample's {plan.rows} rows.")
        for first in range(0, len(branches), max(size, 1)):
            yield branches[first : first + size]

    def describe(self) -> str:
        """Return one line that says how branches are run."""
        cap = f"at most {self.max_rows} rows each" if self.max_rows else "all branches together"
        return f"batched: denoise.batch, {cap}; another batch shape than serial, so equal to the model's precision"
