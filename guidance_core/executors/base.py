"""What an executor is, and what it may hand back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import attrs
from torch import Tensor

from guidance_core.errors import DenoiserError, ExecutorError
from guidance_core.executors.placement import Placement

if TYPE_CHECKING:
    from guidance_core.branch import BoundBranch, Branch
    from guidance_core.plan import Plan
    from guidance_core.run import Run


class Denoiser(Protocol):
    """What a host writes: one forward pass for the branch it is given.

    A denoiser that also has `batch(branches) -> list` can run several in one forward. One with
    `takes_rows = True` can run some rows of the batch: those of `branch.rows`, all where it is None.
    """

    def __call__(self, branch: BoundBranch, /) -> Any:
        """Return the prediction: a tensor, a tuple, or a dict of named outputs."""


@attrs.frozen(eq=False)
class Sums:
    """What an executor hands back that adds up the branches instead of gathering them.

    Every mapping is by output, every tensor in the host's space. `Plan.partial_sum` computes one
    rank's share, `Plan.wanted_statistics` names what corrections will ask of the base prediction.
    """

    sums: Mapping[str, Tensor]
    "`Σ wᵢ·pᵢ`, `[B, ...]`, in the accumulation dtype."
    like: Mapping[str, Tensor]
    "A tensor of the shape, dtype and device of the base prediction; its values are not read."
    statistics: Mapping[str, Mapping[tuple[str, str, str], Tensor]]
    "Of the base prediction, by (space, `std` or `norm`, over)."
    references: Mapping[str, Tensor]
    "The base prediction itself, where the plan wants it."


class Evaluation(Protocol):
    """One evaluation of a step, in the parts between which processes may have to agree."""

    run: Run

    def plan(self) -> Plan:
        """Ask the plugins for the branches."""

    def combine(self, plan: Plan, predictions: Mapping[str, Any] | Sums) -> Any:
        """Return what `commit` takes: the guided predictions and the state to keep. Nothing of it lasts yet."""

    def commit(self, plan: Plan, outcome: Any) -> Any:
        """Make the step's state last and return the result in the host's structure."""


class Executor:
    """Base class of executors. One instance may serve several runs; it must not depend on which."""

    name: ClassVar[str]
    "The name in the entry-point group `guidance_core.executors`."

    gathers_predictions: ClassVar[bool] = True
    "Whether every branch's prediction reaches every process; `combine` hooks need that."

    is_distributed: ClassVar[bool] = False
    "Whether processes agree on each step: `conduct` makes it then, not `execute` alone."

    def begin(self, make: Callable[[], Run]) -> Run:
        """Start a run: call `make` and return what it returns."""
        return make()

    def for_run(self, run: Run) -> Executor:
        """Return the executor to use for this run: itself, unless it chooses among others.

        Called once, when the run starts, with every step's layout in `run.layouts`.
        """
        return self

    def execute(self, plan: Plan, denoise: Denoiser) -> Mapping[str, Any] | Sums:
        """Run the plan's branches; return the predictions by branch name, or their sums.

        Raises whatever the denoiser raises, with a note that says for which branch.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement execute(plan, denoise).")

    def conduct(self, evaluation: Evaluation, denoise: Denoiser) -> Any:
        """Make one whole evaluation of a step and return its result."""
        plan = evaluation.plan()
        return evaluation.commit(plan, evaluation.combine(plan, self.execute(plan, denoise)))

    def describe(self) -> str:
        """Return one line that says how branches are run."""
        return self.name

    def placed(self, branches: Sequence[Branch]) -> Placement | None:
        """Return which rank runs which of these branches, or None where this process runs all."""
        return None


def run_branch(branch: BoundBranch, denoise: Denoiser) -> Any:
    """Call the denoiser for one branch; an error gets a note that names branch and step."""
    try:
        return denoise(branch)
    except Exception as error:
        add_note(error, branch)
        raise


def add_note(error: Exception, branch: BoundBranch) -> None:
    """Have an error of the denoiser name branch and step."""
    error.add_note(f"raised by the denoiser for branch {branch.name!r} of step {branch.step}")


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
        error.add_note(f"raised by denoise.batch for branches {names} of step {branches[0].step}")
        raise
    if not isinstance(results, Sequence) or len(results) != len(branches):
        got = f"{len(results)} predictions" if isinstance(results, Sequence) else f"a {type(results).__name__}"
        raise DenoiserError(
            f"denoise.batch got {len(branches)} branches ({names}) and must return a list of as many "
            f"predictions; got {got}."
        )
    return list(results)
