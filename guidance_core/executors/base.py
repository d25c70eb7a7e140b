"""What an executor is, and what it may hand back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

import torch

from guidance_core.errors import ConfigurationError, DenoiserError, ExecutorError, add_note
from guidance_core.executors.placement import Placement
from guidance_core.methods.requests import Branch
from guidance_core.steps.bound_branch import BoundBranch
from guidance_core.steps.layout import Layout
from guidance_core.steps.plan import Plan, Predictions, Sums
from guidance_core.steps.program import Program
from guidance_core.steps.settings import RunIdentity


class Denoiser(Protocol):
    """The function that a host writes: it runs one forward pass for the branch that it is given.

    A denoiser that also has `batch(branches) -> list` can run several branches in one forward pass. One with
    `takes_rows = True` can run some rows of the batch: those of `branch.rows`, or all if it is None. One with
    `reuses_memory = True` returns memory that its next forward pass overwrites: the library copies each prediction as
    it is returned.
    """

    def __call__(self, branch: BoundBranch, /) -> Any:
        """Return the prediction: a tensor, a tuple, or a dict of named outputs."""


class Started(Protocol):
    """What `Executor.begin` starts: a run, of which ranks compare the identity."""

    @property
    def identity(self) -> RunIdentity:
        """Which run it is."""


StartedT = TypeVar("StartedT", bound=Started)


class Executor:
    """Base class of executors. One instance may serve several runs, and must not depend on which.

    A step calls `place`, `execute`, `collect` and `confirm` in this order; if one of them fails, it calls `report`.
    Only `execute` must be written. The others do nothing by default, which is right for a single process.
    """

    name: ClassVar[str]
    "The name in the entry-point group `guidance_core.executors`."

    keeps_gradients: ClassVar[bool] = False
    "Whether predictions come with the graph of their forward pass, for methods that differentiate."

    gathers_predictions: ClassVar[bool] = True
    "Whether the prediction of every branch reaches every process; `combine` hooks need this."

    def begin(self, make: Callable[[], StartedT]) -> StartedT:
        """Start a run: call `make` and return what it returns."""
        return make()

    def for_run(self, program: Program) -> Executor:
        """Return the executor to use for a run: itself, unless it chooses another one.

        It is called once, when the run starts. `program.layouts` has the layout of every step.
        """
        return self

    def place(self, plan: Plan) -> None:
        """Set `plan.own_branches` to the branches that this process runs, if it does not run all."""

    def execute(self, plan: Plan, denoise: Denoiser) -> Mapping[str, Any] | Sums:
        """Run the plan's own branches; return their predictions by branch name, or the sums of all.

        It raises whatever the denoiser raises, with a note that names the branch.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement execute(plan, denoise).")

    def collect(self, plan: Plan, predictions: Predictions) -> Predictions | Sums:
        """Return the predictions of all branches, or their sums, given the predictions of this process.

        Args:
            plan: the step.
            predictions: of `plan.own_branches`, by output, then by branch; checked against the sample.
        """
        return predictions

    def confirm(self, plan: Plan) -> None:
        """Return once every process has combined its predictions, so that the step counts."""

    def report(self, error: BaseException, identity: RunIdentity, plan: Plan | None) -> BaseException:
        """Tell the other processes that a step failed here; return the error that all of them raise.

        Args:
            error: the failure.
            identity: of the run.
            plan: the step; None if it could not be planned.
        """
        return error

    def describe(self) -> str:
        """Return one line that says how branches are run."""
        return self.name

    def local_passes(self, branches: Sequence[Branch]) -> int:
        """Return how many forward passes of these branches this process runs."""
        return len(branches)

    def placed(self, branches: Sequence[Branch]) -> Placement | None:
        """Return which rank runs which of these branches, or None if this process runs all."""
        return None


def run_branch(branch: BoundBranch, denoise: Denoiser) -> Any:
    """Call the denoiser for one branch, with gradients if the branch needs them.

    A note that names the branch and the step is added to any error.
    """
    try:
        if branch.gradient:
            with branch.differentiable():
                return denoise(branch)
        return denoise(branch)
    except Exception as error:
        add_note(error, f"raised by the denoiser for branch {branch.name!r} of step {branch.step}")
        raise


def check_differentiable(layout: Layout, executor: Executor) -> None:
    """Raise `ConfigurationError` where a method differentiates, and the executor or torch's mode cannot."""
    if not layout.differentiating:
        return
    plugin = layout.differentiating[0][1]
    if not executor.keeps_gradients:
        raise ConfigurationError(
            f"plugin {plugin!r} differentiates by the sample, but the executor {executor.name!r} does not keep the "
            "graph of a forward; use 'serial' or 'batched'."
        )
    if torch.is_inference_mode_enabled():
        raise ConfigurationError(
            f"plugin {plugin!r} differentiates by the sample, which torch.inference_mode() forbids; "
            "use torch.no_grad()."
        )


def run_batch(branches: Sequence[BoundBranch], denoise: Denoiser, whose: str) -> list[Any]:
    """Call `denoise.batch` for several branches.

    Raises:
        ExecutorError: the denoiser has no `batch`; `whose` executor needs it.
        DenoiserError: it returned another number of predictions than it got branches.
    """
    batch = getattr(denoise, "batch", None)
    if not callable(batch):
        raise ExecutorError(
            f"{whose} needs a denoiser with batch(branches) -> list of predictions; wrap a plain "
            "model in guidance_core.StackedDenoiser, or use executor='serial'."
        )
    names = ", ".join(branch.name for branch in branches)
    try:
        results = batch(list(branches))
    except Exception as error:
        add_note(error, f"raised by denoise.batch for branches {names} of step {branches[0].step}")
        raise
    if not isinstance(results, Sequence) or len(results) != len(branches):
        got = f"{len(results)} predictions" if isinstance(results, Sequence) else f"a {type(results).__name__}"
        raise DenoiserError(
            f"denoise.batch got {len(branches)} branches ({names}) and must return a list of as many "
            f"predictions; got {got}."
        )
    return list(results)
