"""The executor of a run that a tuning chose, and what it falls back to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from guidance_core.executors.all_gather import AllGatherExecutor
from guidance_core.executors.all_reduce import AllReduceExecutor
from guidance_core.executors.base import Denoiser, Executor, StartedT
from guidance_core.executors.batched import BatchedExecutor
from guidance_core.executors.distributed import DistributedExecutor
from guidance_core.executors.every_rank import EveryRankExecutor
from guidance_core.executors.placement import Placement
from guidance_core.executors.serial import SerialExecutor
from guidance_core.executors.tuning import Timed, Tuning
from guidance_core.methods.requests import Branch
from guidance_core.steps.plan import Plan, Predictions, Sums
from guidance_core.steps.settings import RunIdentity

_ON_RANKS: dict[str, type[DistributedExecutor]] = {
    "serial": EveryRankExecutor,
    "batched": EveryRankExecutor,
    "all_gather": AllGatherExecutor,
    "all_reduce": AllReduceExecutor,
}


def executor_of(timed: Timed, ranks: int, given: Mapping[str, Any], speeds: Sequence[float] = ()) -> Executor:
    """Return the executor that the times are of; `given` says over which ranks."""
    if ranks == 1:
        return BatchedExecutor() if timed.executor == "batched" else SerialExecutor()
    batched = timed.batched or timed.executor == "batched"
    return _ON_RANKS[timed.executor](**given, batched=batched, speeds=speeds)


class TunedExecutor(Executor):
    """Runs steps with what a tuning chose, and with the usual choice where the tuning says nothing about them.

    The form of the sample alone decides between the two, so that all ranks decide the same.
    """

    name = "auto"

    def __init__(self, fastest: Executor | None, usual: Executor, tuning: Tuning, why: str) -> None:
        """Take both; without `fastest`, `why` says what the tuning lacks."""
        self._fastest = fastest
        self._usual = usual
        self._tuning = tuning
        self._why = why
        self.chosen = usual if fastest is None else fastest
        "What ran the last step, or will run the first."
        self._unfit: str | None = why if fastest is None else None
        self._form: tuple[object, ...] = ()
        self._cannot_batch = False

    @property
    def keeps_gradients(self) -> bool:  # type: ignore[override]
        """As of the executor that was chosen."""
        return self.chosen.keeps_gradients

    @property
    def gathers_predictions(self) -> bool:  # type: ignore[override]
        """As of the executor that was chosen."""
        return self.chosen.gathers_predictions

    def begin(self, make: Callable[[], StartedT]) -> StartedT:
        """Begin again, for a run that goes on with other samples or was copied."""
        return self.chosen.begin(make)

    def _for(self, plan: Plan) -> Executor:
        """Return what runs a plan, whichever was planned last."""
        if self._fastest is not None:
            form = plan.form[1:]
            if form != self._form:
                rank = self._fastest.rank if isinstance(self._fastest, DistributedExecutor) else 0
                self._unfit = self._tuning.unfit_samples(plan.samples, rank)
                self._form = form
            self.chosen = self._fastest if self._unfit is None else self._usual
        return self.chosen

    def place(self, plan: Plan) -> None:
        """Choose by the sample's form, and have the branches placed."""
        self._for(plan).place(plan)

    def execute(self, plan: Plan, denoise: Denoiser) -> Mapping[str, Any] | Sums:
        """Run the branches; one after another where the denoiser does not batch."""
        chosen = self._for(plan)
        is_batched = isinstance(chosen, BatchedExecutor) or getattr(chosen, "batched", False)
        self._cannot_batch = is_batched and not callable(getattr(denoise, "batch", None))
        return (_SERIAL if self._cannot_batch else chosen).execute(plan, denoise)

    def collect(self, plan: Plan, predictions: Predictions) -> Predictions | Sums:
        """As the executor that was chosen."""
        return self._for(plan).collect(plan, predictions)

    def confirm(self, plan: Plan) -> None:
        """As the executor that was chosen."""
        self._for(plan).confirm(plan)

    def report(self, error: BaseException, identity: RunIdentity, plan: Plan | None) -> BaseException:
        """As the executor that was chosen."""
        return (self.chosen if plan is None else self._for(plan)).report(error, identity, plan)

    def local_passes(self, branches: Sequence[Branch]) -> int:
        """As of the executor that was chosen."""
        return self.chosen.local_passes(branches)

    def placed(self, branches: Sequence[Branch]) -> Placement | None:
        """As of the executor that was chosen."""
        return self.chosen.placed(branches)

    def describe(self) -> str:
        """Return one line that says how branches are run, and why so."""
        line = self.chosen.describe()
        line = line if line.startswith("auto: ") else f"auto: {line}"
        if self._unfit is not None:
            return f"{line}; its tuning is not used: {self._unfit}"
        alone = "; this denoiser has no batch(branches), so its passes run one by one" if self._cannot_batch else ""
        return f"{line}; {self._why}{alone}"


_SERIAL = SerialExecutor()
