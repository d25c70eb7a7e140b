"""What executors that spread branches over the ranks of a process group have in common.

    plan ─ run own units ─▶ agree ─▶ one payload collective ─▶ combine ─▶ agree ─▶ commit

Every rank plans, combines and keeps state for itself; only predictions (or their sums) travel. The
first agreement comes before anything moves, the second before anything lasts, so that a failure on one
rank is the same error on all of them and leaves every rank where it was.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import attrs
import torch
import torch.distributed as dist
from torch import Tensor

from guidance_core.errors import ExecutorError, RankLostError
from guidance_core.executors.agreement import (
    AFTER,
    BEFORE,
    Agreement,
    Record,
    agreed_dtypes,
    begin_together,
    check_all_well,
    check_output_count,
    check_same_plan,
    payload_lost,
    raise_together,
)
from guidance_core.executors.base import Denoiser, Evaluation, Executor, Sums, run_batch, run_branch
from guidance_core.executors.groups import check_alive, control_group, resolve_group, stages_through_cpu, timeout_of
from guidance_core.executors.placement import Placement, Unit, place_branches, place_rows
from guidance_core.fingerprint import digest

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

    from guidance_core.branch import BoundBranch, Branch
    from guidance_core.plan import Plan
    from guidance_core.run import Run

Made = dict[Unit, dict[str, Tensor]]
"The predictions of this rank, by unit and output."


@attrs.define
class Counts:
    """What an executor did so far on this rank."""

    forwards: int = 0
    "Forward passes, padding included."
    payload_collectives: int = 0
    payload_bytes: int = 0
    "Bytes this rank handed to payload collectives."
    control_exchanges: int = 0
    control_seconds: float = 0.0
    "Time in control exchanges, waiting for slower ranks included."


class DistributedExecutor(Executor):
    """Base of the executors that spread the branches of a step over the ranks of a process group."""

    is_distributed: ClassVar[bool] = True

    def __init__(
        self,
        group: ProcessGroup | DeviceMesh | None = None,
        *,
        mesh_dim: str | int | None = None,
        control: bool = True,
        lockstep: bool = False,
        split_rows: bool = False,
        batched: bool = False,
    ) -> None:
        """Spread branches over a group. Every rank of it must do the same with equal arguments.

        Args:
            group: a process group, a `DeviceMesh`, or None for the default group.
            mesh_dim: the dimension of the mesh, by name or number, where it has several.
            control: exchange a small record before and after each step's payload, so that every
                disagreement and failure is one named error on all ranks. Without it a failure on one
                rank leaves the others waiting for the group's timeout.
            lockstep: have every rank call the denoiser equally often, with forwards whose result is
                thrown away; for models whose ranks must call together, such as FSDP across this group.
            split_rows: share out rows of the batch instead of whole branches. The denoiser must have
                `takes_rows = True` and run the rows `branch.rows`. Changes the batch the model sees.
            batched: run a rank's branches in one `denoise.batch(branches)`. Changes the batch the
                model sees.

        Raises:
            ConfigurationError: this process is in no such group, or the mesh's dimension is not clear.
        """
        self.group = resolve_group(group, mesh_dim)
        self.rank = self.group.rank()
        self.size = self.group.size()
        self.control = bool(control)
        self.lockstep = bool(lockstep)
        self.split_rows = bool(split_rows)
        self.batched = bool(batched)
        self._agreement = Agreement(control_group(self.group)) if self.control else None
        self.chosen_because = ""
        "Why it was chosen, where `auto` did."
        self._counts = Counts()
        self._own_part = digest([type(self).__name__, self.size, lockstep, split_rows, batched])

    @property
    def counts(self) -> Counts:
        """What was run and sent so far on this rank."""
        if self._agreement is not None:
            self._counts.control_exchanges = self._agreement.exchanges
            self._counts.control_seconds = self._agreement.seconds
        return self._counts

    def begin(self, make: Callable[[], Run]) -> Run:
        """Start a run together with the other ranks.

        Raises:
            PlanMismatchError: methods, parameters or settings differ between ranks.
            GuidanceError: it could not be started on one rank; the same error on all.
        """
        check_alive(self.group)
        return make() if self._agreement is None else begin_together(self._agreement, self._own_part, make)

    # A step.

    def conduct(self, evaluation: Evaluation, denoise: Denoiser) -> Any:
        """Make one evaluation of a step together with the other ranks.

        Raises:
            RankFailedError: a rank's denoiser raised; any other error of this library is raised on all
                ranks as itself, and says which rank it comes from.
            RankLostError: a rank does not answer.
            PlanMismatchError: the ranks plan different things.
        """
        check_alive(self.group)
        where = "planning a step"
        try:
            plan = evaluation.plan()
            where = f"step {plan.index}"
            placement = self._placed_for(plan)
            made = self._run(plan, placement, denoise)
            dtypes = self._dtypes(plan, made)
        except Exception as error:
            self._fail(error, where, BEFORE)
        dtypes = self._agree(plan, dtypes)
        gathered = self._collected(plan, placement, made, dtypes)
        try:
            outcome = evaluation.combine(plan, gathered)
        except Exception as error:
            self._fail(error, where, AFTER)
        if self._agreement is not None:
            check_all_well(self._agreement.exchange(Record(text=plan.summary), AFTER))
        return evaluation.commit(plan, outcome)

    def execute(self, plan: Plan, denoise: Denoiser) -> Mapping[str, Any] | Sums:
        """Run this rank's share and return what all ranks made; `conduct` also agrees on the outcome."""
        placement = self._placed_for(plan)
        made = self._run(plan, placement, denoise)
        return self._collected(plan, placement, made, self._agree(plan, self._dtypes(plan, made)))

    def _fail(self, error: Exception, where: str, phase: int) -> NoReturn:
        if self._agreement is None or isinstance(error, RankLostError):
            raise error
        raise_together(self._agreement, error, where, phase)

    def _agree(self, plan: Plan, dtypes: tuple[torch.dtype, ...]) -> tuple[torch.dtype, ...]:
        """Exchange records; return the dtypes of the predictions, which idle ranks do not know."""
        if self._agreement is None:
            return dtypes or tuple(sample.dtype for sample in plan.samples.values())
        fingerprint = (*plan.fingerprint, self._own_part)
        records = self._agreement.exchange(Record(fingerprint, dtypes, plan.summary), BEFORE)
        check_all_well(records)
        check_same_plan(records)
        return agreed_dtypes(records)

    def _dtypes(self, plan: Plan, made: Made) -> tuple[torch.dtype, ...]:
        """Return the dtype of each output's predictions; empty where this rank made none."""
        check_output_count(len(plan.samples))
        found: dict[str, torch.dtype] = {}
        for unit, prediction in made.items():
            for output, tensor in prediction.items():
                plan.check_dtype(
                    plan.branches[unit.branch].name, output, tensor, found.setdefault(output, tensor.dtype)
                )
        return tuple(found.values())

    def _placed_for(self, plan: Plan) -> Placement:
        branches = plan.layout.branches
        if self.split_rows and plan.can_split_rows(needs_tensor_statistics=not self.gathers_predictions):
            return place_rows(branches, plan.rows, self.size)
        return place_branches(branches, self.size)

    def _run(self, plan: Plan, placement: Placement, denoise: Denoiser) -> Made:
        """Run this rank's units, each checked against the sample."""
        units = placement.units[self.rank]
        bound = [self._bound(plan, unit) for unit in units]
        if any(branch.rows is not None for branch in bound) and not getattr(denoise, "takes_rows", False):
            raise ExecutorError(
                f"{type(self).__name__}(split_rows=True) needs a denoiser with takes_rows = True that runs the rows "
                "branch.rows of the batch; StackedDenoiser does."
            )
        if self.batched and bound:
            predictions = run_batch(bound, denoise, f"{type(self).__name__}(batched=True)")
            self._counts.forwards += 1
            padding = 0 if not self.lockstep else 1 - min(1, len(bound))
        else:
            predictions = []
            for branch in bound:
                predictions.append(run_branch(branch, denoise))
                self._counts.forwards += 1
            padding = (1 if self.batched else placement.most) - len(bound) if self.lockstep else 0
        made = {
            unit: plan.accepted(branch.name, prediction, unit.rows)
            for unit, branch, prediction in zip(units, bound, predictions, strict=True)
        }
        for _ in range(padding if plan.branches else 0):
            run_branch(plan.branches[0], denoise)
            self._counts.forwards += 1
        return made

    def _bound(self, plan: Plan, unit: Unit) -> BoundBranch:
        branch = plan.branches[unit.branch]
        return branch if unit.rows is None else branch.for_rows(slice(*unit.rows))

    # The payload.

    def _collected(
        self, plan: Plan, placement: Placement, made: Made, dtypes: Sequence[torch.dtype]
    ) -> Mapping[str, Any] | Sums:
        """Move this step's payload and return what all ranks made."""
        raise NotImplementedError

    def _moved(self, collective: Callable[..., Any], buffer: Tensor, *arguments: Any) -> None:
        """Make one payload collective of `buffer`; a group that breaks in it is a lost rank."""
        self._counts.payload_collectives += 1
        self._counts.payload_bytes += buffer.numel() * buffer.element_size()
        try:
            work = collective(*arguments, group=self.group, async_op=True)
            if buffer.device.type == "cpu":
                # A little less than the group's own timeout, which would close all connections and leave
                # nobody to ask who is missing. On a GPU to wait is to enqueue.
                work.wait(datetime.timedelta(seconds=0.8 * timeout_of(self.group)))
            else:
                work.wait()
        except (RuntimeError, NotImplementedError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
            if isinstance(error, NotImplementedError) or "not support" in reason or "not implemented" in reason.lower():
                backend = dist.get_backend(self.group)
                raise ExecutorError(
                    f"the backend {backend!r} of this process group lacks a collective that executor {self.name!r} "
                    f"needs ({reason}); use Gloo on CPUs and NCCL on GPUs."
                ) from error
            why = f"the payload did not arrive: {reason}"
            raise (
                payload_lost(why, self.size) if self._agreement is None else self._agreement.roll_call(why)
            ) from error

    def _staged(self, buffer: Tensor) -> bool:
        return stages_through_cpu(self.group, buffer.device)

    # Description.

    def placed(self, branches: Sequence[Branch]) -> Placement | None:
        """Return which rank runs which of these branches; None where rows are shared out."""
        return None if self.split_rows else place_branches(branches, self.size)

    def _options(self) -> str:
        """Describe what differs from the default, and what it costs."""
        parts = []
        if self.chosen_because:
            parts.append(f"chosen by auto: {self.chosen_because}")
        if self.split_rows:
            parts.append("rows of the batch are shared out, so equal to serial to the model's precision only")
        if self.batched:
            parts.append("each rank's branches in one forward, so equal to serial to the model's precision only")
        if self.lockstep:
            parts.append("lockstep: ranks with fewer branches make extra forwards that are thrown away")
        if not self.control:
            parts.append("control exchange off: a failure on one rank leaves the others waiting")
        return "".join(f"; {part}" for part in parts)
