"""What executors that spread branches over the ranks of a process group have in common.

    place ─▶ execute ─▶ collect: agree, one payload collective ─▶ (combined by the run) ─▶ confirm: agree

Every rank plans, combines and keeps state for itself; only predictions (or their sums) travel. The first agreement
comes before anything moves, the second before anything lasts, so that a failure on one rank is the same error on all of
them and leaves every rank where it was.

The second agreement of a step also says which step comes next. If all ranks say the same and make that step, it needs
no first agreement: a rank that fails before the payload moves it all the same, with nothing of its own in it, and tells
of its failure in the second agreement, where all ranks throw away what they made.

Each rank notes where the others wait for it: there `report` tells them of a failure, in whichever part.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

import attrs
import torch
import torch.distributed as dist
from torch import Tensor

from guidance_core.algebra.comparable import fingerprint_of
from guidance_core.algebra.digest import PARTS, digest, name_of
from guidance_core.errors import (
    ConfigurationError,
    DenoiserError,
    ExecutorError,
    RankLostError,
    add_note,
    text_of,
)
from guidance_core.executors.agreement import Announced, agreement_of, begin_together, set_aside, shared_error
from guidance_core.executors.base import Denoiser, Executor, StartedT, run_batch
from guidance_core.executors.comparing import compare_inputs, note_inputs, number_of
from guidance_core.executors.forwards import run_own
from guidance_core.executors.groups import (
    check_alive,
    is_alive,
    positions_in,
    resolve_group,
    stages_through_cpu,
)
from guidance_core.executors.header import Header, Unread, read
from guidance_core.executors.payload import MOVE, Payload, Placed, Unheld
from guidance_core.executors.placement import Placement, checked_speeds, place_branches, place_rows
from guidance_core.executors.records import (
    AFTER,
    BEFORE,
    PLANNED,
    Record,
    agreed_dtypes,
    check_all_well,
    check_output_count,
    check_same_plan,
    shown_dtypes,
)
from guidance_core.executors.turns import CrowdedError
from guidance_core.methods.requests import Branch
from guidance_core.steps.plan import Plan, Predictions, Sums
from guidance_core.steps.settings import RunIdentity

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh


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


_NO_SETTINGS = ("group", "rank", "size", "chosen_because")
"Attributes of an executor that ranks need not share, or whose equality is known."


class DistributedExecutor(Executor):
    """Base of the executors that spread the branches of a step over the ranks of a process group."""

    def __init__(
        self,
        group: ProcessGroup | DeviceMesh | None = None,
        *,
        mesh_dim: str | int | None = None,
        control: bool = True,
        lockstep: bool = False,
        split_rows: bool = False,
        batched: bool = False,
        speeds: Sequence[float] = (),
    ) -> None:
        """Spread branches over a group. Every rank of it must do the same with equal arguments.

        Args:
            group: a process group, a `DeviceMesh`, or None for the default group. Of a mesh whose ranks
                are not in rising order give the mesh, or `mesh["guidance"]`: its group has them sorted.
            mesh_dim: the dimension of the mesh, by name or number, where it has several.
            control: exchange a small record before and after each step's payload, so that every
                disagreement and failure is one named error on all ranks. Without it only the start and
                the first step of each run are agreed upon, and a later failure on one rank leaves the
                others waiting for the group's timeout.
            lockstep: have every rank call the denoiser equally often, with forwards whose result is
                thrown away; for models whose ranks must call together, such as FSDP across this group.
            split_rows: share out rows of the batch instead of whole branches. The denoiser must have
                `takes_rows = True` and run the rows `branch.rows`. Changes the batch the model sees.
            batched: run a rank's branches in one `denoise.batch(branches)`. Changes the batch the
                model sees.
            speeds: how fast each rank's forwards are, such as (1.0, 0.5), by rank in the group; a slower rank is
                given less. Equally fast if not given.

        Raises:
            ConfigurationError: this process is in no such group, the mesh's dimension is not clear, the speeds are
                not one for each rank, or `lockstep` is asked for together with `batched`, whose forwards cannot be
                counted.
        """
        if lockstep and batched:
            raise ConfigurationError(
                "lockstep=True cannot be combined with batched=True: how many forwards denoise.batch makes is unknown."
            )
        self.group = resolve_group(group, mesh_dim)
        self.rank = self.group.rank()
        self.size = self.group.size()
        self._positions = positions_in(self.group, group, mesh_dim)
        self.control = bool(control)
        self.lockstep = bool(lockstep)
        self.split_rows = bool(split_rows)
        self.batched = bool(batched)
        self.speeds = checked_speeds(speeds, self.size)
        self._placed_speeds = tuple(speed for _, speed in sorted(zip(self._positions, self.speeds, strict=False)))
        self._agreement = agreement_of(self.group)
        self._shared = self._agreement.shared
        self._agreed: WeakKeyDictionary[RunIdentity, tuple[torch.dtype, ...]] = WeakKeyDictionary()
        "The dtypes of predictions that the first step of each run showed."
        self.chosen_because = ""
        "Why it was chosen, where `auto` did."
        self._counts = Counts()
        self._last_rows: int | None = None
        "The batch size of the last step whose rows were shared out."
        self._own_part = digest([name_of(type(self)), self._positions, control, lockstep, split_rows, batched])
        self._last: tuple[Hashable, Payload | None] = None, None
        "Form and payload of the last step without control: laying out another takes longer than making it again."
        self._unread: list[Unread] = []
        "Headers of payloads that were not looked at yet."

    @property
    def counts(self) -> Counts:
        """What was run and sent so far on this rank."""
        self._counts.control_exchanges = self._agreement.exchanges
        self._counts.control_seconds = self._agreement.seconds
        return self._counts

    def begin(self, make: Callable[[], StartedT]) -> StartedT:
        """Start a run together with the other ranks.

        Raises:
            PlanMismatchError: methods, parameters or settings differ between ranks.
            GuidanceError: it could not be started on one rank; the same error on all.
        """
        check_alive(self.group)
        return begin_together(self._agreement, type(self), self._compared, make)

    def _compared(self) -> int:
        """Return what stands for the executor's class and for all settings that are attributes with a public name."""
        settings = (
            (f"attribute {name!r}", value)
            for name, value in vars(self).items()
            if name[0] != "_" and name not in _NO_SETTINGS and not callable(getattr(type(self), name, None))
        )
        own = [name_of(type(self)), self._positions]
        advice = "the name of an attribute that ranks need not share begins with an underscore"
        parts = fingerprint_of(f"executor {self.name!r}", settings, advice)
        self._own_part = digest([*own, parts])
        return self._own_part

    # A step.

    def place(self, plan: Plan) -> None:
        """Choose the branches of this rank, or some rows of them.

        Raises:
            PlanMismatchError: in lockstep, the ranks plan different things; any other error of a rank likewise.
        """
        check_alive(self.group)
        placement = self._placement(plan)
        units = placement.units[self.rank]
        form = None if self.control else self._form(plan, placement)
        first = self._first_exchange(plan.identity, form)
        placed = Placed(placement, units, first is not None, first, form=form)
        self._shared.turns.take(placed)
        plan.placed = placed
        self._unread = [each for each in self._unread if not each.check()]
        if self.size > 1:
            note_inputs(plan, is_first=plan.identity not in self._agreed)
        branches = [(plan.branches[unit.branch], unit.part) for unit in units]
        plan.own_branches = tuple(branch if rows is None else branch.for_rows(rows) for branch, rows in branches)
        plan.samples = {name: sample.detach() for name, sample in plan.samples.items()}  # no gradient travels
        if self.lockstep:
            plan.padding = placement.most - len(units)
            if plan.placed.agrees:  # ranks that call together must not begin with different plans
                self._shared.turns.check()
                awaited, plan.placed.awaited = plan.placed.awaited, None
                set_aside(self._agreement, plan.summary)
                plan.placed.awaited = awaited
                self._compare(plan, (), PLANNED, then=BEFORE)

    def execute(self, plan: Plan, denoise: Denoiser) -> Mapping[str, Any]:
        """Run this rank's branches; return their predictions by name."""
        own = plan.own_branches
        if self.split_rows and not getattr(denoise, "takes_rows", False):
            raise ExecutorError(
                f"{type(self).__name__}(split_rows=True) needs a denoiser with takes_rows = True that runs the rows "
                "branch.rows of the batch; StackedDenoiser does."
            )
        if not (self.batched and own):
            made = run_own(plan, denoise)
            self._counts.forwards += len(own) + plan.padding
            return made
        predictions = run_batch(own, denoise, f"{type(self).__name__}(batched=True)")
        self._counts.forwards += 1
        return {branch.name: prediction for branch, prediction in zip(own, predictions, strict=True)}

    def collect(self, plan: Plan, predictions: Predictions) -> Predictions | Sums:
        """Agree with the other ranks on this step, then move its payload.

        Raises:
            RankFailedError: a rank's denoiser raised; any other error of this library is raised on all
                ranks as itself, and says which rank it comes from.
            RankLostError: a rank does not answer.
            PlanMismatchError: the ranks plan different things.
        """
        placed = plan.placed
        self._shared.turns.take(placed)
        self._shared.turns.check()
        with torch.no_grad():
            dtypes = self._dtypes(plan, predictions)
            announced, usual = self._shared.announced, self._agreed.get(plan.identity, ())
            if not placed.agrees and dtypes and dtypes != usual:
                raise DenoiserError(
                    f"the predictions of step {plan.index} are {shown_dtypes(dtypes)}, those of the run's first step "
                    f"were {shown_dtypes(usual)}. With control=False ranks cannot tell each other of the change; "
                    "return one dtype, or use control=True."
                )
            if (
                announced is not None
                and announced.identity() is plan.identity
                and announced.form == plan.form
                and dtypes in ((), usual)
            ):
                self._shared.announced = None
                placed.payload, placed.awaited, dtypes = announced.payload, MOVE, usual
                share = self._share(plan, predictions)
            else:
                share = self._share(plan, predictions)
                dtypes = self._agree(plan, dtypes)
            if plan.branches:  # where nothing runs, no prediction shows its dtype
                self._agreed[plan.identity] = dtypes
            if placed.agrees and not self.control:
                placed.form = self._form(plan, placed.placement)
            collected = self._collected(plan, share, dtypes)
        if placed.agrees:
            placed.awaited = AFTER
            self._agreement.listen()
        return collected

    def _agree(self, plan: Plan, dtypes: tuple[torch.dtype, ...]) -> tuple[torch.dtype, ...]:
        """Agree on a step that was not announced, with the memory for its payload at hand; return all ranks' dtypes."""
        placed = plan.placed
        if self._shared.announced is not None:
            awaited, placed.awaited = placed.awaited, None
            others = f"; {shown_dtypes(dtypes)} predictions" if dtypes else ""
            set_aside(self._agreement, f"{plan.summary}{others}")
            placed.awaited = awaited
        usual = self._agreed.get(plan.identity) or tuple(sample.dtype for sample in plan.samples.values())
        agreed = assumed = dtypes or usual
        form, last = self._last
        if placed.agrees or last is None or form != placed.form:
            placed.payload = self._prepared(plan, placed.placement, assumed)
        else:
            placed.payload = last.again()
        if placed.agrees:
            agreed = agreed_dtypes(self._compare(plan, dtypes, BEFORE, then=None)) or assumed
        if agreed != assumed:  # this rank made no prediction, and those of others are not like the sample
            placed.payload = self._prepared(plan, placed.placement, agreed)
        if placed.agrees:
            placed.awaited = MOVE
            self._agreement.raise_interrupt()
        if not self.control:
            is_over = plan.index + 1 == plan.moment.run.count
            self._last = (None, None) if is_over else (placed.form, placed.payload)
        return agreed

    def confirm(self, plan: Plan) -> None:
        """Agree with the other ranks that every one has combined the step, and on which comes next.

        Raises:
            GuidanceError: one has not; the same error on all.
        """
        if plan.placed.agrees:
            following = self._announcement(plan)
            parts, announced = following or ((0,) * len(PARTS), None)
            plan.placed.awaited = None
            records = self._agreement.exchange(Record(parts, text=plan.place, inputs=number_of(plan.placed)), AFTER)
            check_all_well(records)
            compare_inputs(plan, self._agreement, records)
            if announced is not None and all(record.fingerprint == parts for record in records):
                self._shared.announced = announced
            self._agreement.raise_interrupt()
        self._shared.turns.leave(plan.placed)

    def _announcement(self, plan: Plan) -> tuple[tuple[int, ...], Announced] | None:
        """Return the next step's fingerprint, and the step with memory for its payload; None if it cannot be said."""
        if not self.control or self.lockstep or plan.identity in self._shared.surprising:
            return None
        following, dtypes = plan.expected_next(), self._agreed.get(plan.identity)
        if following is None or dtypes is None:
            return None
        placed, payload = plan.placed, plan.placed.payload
        try:
            if following.layout is not plan.layout:
                payload = self._prepared(following, self._placement(following), dtypes)
            elif payload is not None:
                payload = payload.again()
        except RuntimeError:  # no memory: the next step will be told of it
            return None
        unheld = Unheld(Placed(placed.placement, (), True, None, payload))

        def move() -> None:
            if payload is not None:
                payload.sent.zero_()
                self._moved(unheld, payload)

        announced = Announced(ref(plan.identity), following.form, payload, move)
        return self._fingerprint(following), announced

    def _number(self, plan: Plan) -> int:
        """Return which of the group's runs a plan belongs to."""
        return self._shared.numbers.get(plan.identity, 0)

    def _fingerprint(self, plan: Plan) -> tuple[int, ...]:
        """Return what ranks compare of a step."""
        return (*plan.fingerprint, self._number(plan), self._own_part)

    def report(self, error: BaseException, identity: RunIdentity, plan: Plan | None) -> BaseException:
        """Tell the other ranks of a failure where they wait for this one; return what all of them raise."""
        if isinstance(error, CrowdedError):
            return error  # where the others wait, they wait for another thread
        try:
            return self._reported(error, identity, plan)
        finally:
            if plan is not None and plan.placed is not None:
                self._shared.turns.leave(plan.placed)

    def _reported(self, error: BaseException, identity: RunIdentity, plan: Plan | None) -> BaseException:
        placed = None if plan is None else plan.placed
        awaited = self._first_exchange(identity, self._shared.form) if placed is None else placed.awaited
        is_late = awaited == AFTER
        if placed is not None and placed.agrees:
            placed.awaited = BEFORE  # where all ranks begin if they finish the plan again
        is_over = isinstance(error, RankLostError) and error._group is self._agreement.group
        if is_over or not is_alive(self.group):
            return error
        where = "planning a step" if plan is None else f"step {plan.index}"
        announced, self._shared.announced = self._shared.announced, None
        try:
            if announced is not None:
                awaited = MOVE
                announced.move()
            elif awaited == MOVE and plan is not None and plan.placed.payload is not None:
                self._moved(plan, plan.placed.payload)
            elif placed is not None and not placed.agrees and plan is not None:
                self._move_failure(plan)
        except RankLostError as lost:
            return lost
        except Exception as failed:  # a collective that does not exist, which the others find out as well
            add_note(error, f"and its payload could not be moved: {text_of(failed)}")
        if awaited is None:
            return error
        return shared_error(self._agreement, error, where, AFTER if awaited == MOVE else awaited, is_late=is_late)

    def _first_exchange(self, identity: RunIdentity, form: Hashable) -> int | None:
        """Return the first exchange of a step; None where it has none: without control, if the payload is as the last.

        Payloads of different sizes must not meet: Gloo ends the process that gets more than it expects.
        """
        if not self.control and identity in self._agreed and form is not None and form == self._shared.form:
            return None
        return PLANNED if self.lockstep else BEFORE

    def _compare(self, plan: Plan, dtypes: tuple[torch.dtype, ...], phase: int, *, then: int | None) -> list[Record]:
        """Exchange records; raise on every rank if one failed or plans another thing.

        The others wait for this rank in the exchange `then` next, if there is one.
        """
        record = Record(self._fingerprint(plan), dtypes, plan.summary, inputs=number_of(plan.placed))
        plan.placed.awaited = None
        records = self._agreement.exchange(record, phase)
        check_all_well(records)
        check_same_plan(records)
        compare_inputs(plan, self._agreement, records)
        plan.placed.awaited = then
        return records

    def _dtypes(self, plan: Plan, predictions: Predictions) -> tuple[torch.dtype, ...]:
        """Return the dtype of each output's predictions; empty where this rank made none."""
        check_output_count(len(plan.samples))
        devices = {str(sample.device) for sample in plan.samples.values()}
        if len(devices) > 1:
            raise ExecutorError(
                f"the executor {self.name!r} packs all outputs into one buffer, so they must be on one device; got "
                f"{', '.join(sorted(devices))}."
            )
        for output, given in predictions.items():
            for branch, tensor in given.items():
                if hasattr(tensor, "full_tensor"):  # a DTensor; importing the class to ask takes long
                    raise DenoiserError(
                        f"branch {branch!r} of step {plan.index}: output {output!r} is spread over a device mesh (a "
                        "DTensor); every rank that runs the branch must return all of it, as full_tensor() gives it."
                    )
        return tuple(tensor.dtype for given in predictions.values() for tensor in list(given.values())[:1])

    def _placement(self, plan: Plan) -> Placement:
        branches = plan.layout.branches
        if self.split_rows and plan.can_split_rows(needs_tensor_statistics=not self.gathers_predictions):
            self._last_rows = plan.rows
            return place_rows(branches, plan.rows, self.size, self._placed_speeds).at(self._positions)
        return place_branches(branches, self.size, self._placed_speeds).at(self._positions)

    # The payload.

    def _header(self, plan: Plan, *, is_well: bool = True) -> Header:
        """Return what goes in front of this rank's payload, where ranks do not agree on every step."""
        others = (self._own_part, number_of(plan.placed))
        return Header.of(plan, self._number(plan), others, is_well=is_well)

    def _look_at(self, header: Header, rows: Tensor, senders: Sequence[int], payload: Tensor) -> None:
        """Compare the headers that came with a payload with this rank's."""
        unread = read(header, rows, senders, payload)
        if unread is not None:
            self._unread.append(unread)

    def _move_failure(self, plan: Plan) -> None:
        """Take part in the payload of a step that failed here before it moved, so that the others hear of it."""
        placed, usual = plan.placed, self._agreed.get(plan.identity)
        has_moved, placed.has_moved = placed.has_moved, False
        if has_moved or usual is None:
            return
        payload = self._prepared(plan, placed.placement, usual)
        if payload is not None:
            placed.payload = payload
            self._write_header(payload, self._header(plan, is_well=False))
            self._moved(plan, payload)
            placed.has_moved = False

    def _write_header(self, payload: Any, header: Header) -> None:
        """Write a header in front of a payload."""
        raise NotImplementedError

    def _share(self, plan: Plan, predictions: Predictions) -> Any:
        """Return what this rank sends, computed while the others can still be told of an error."""
        return predictions

    def _form(self, plan: Plan, placement: Placement) -> Hashable:
        """Return what is equal for payloads of one size that one collective moves; None before the first step."""
        usual = self._agreed.get(plan.identity)
        if usual is None:
            return None
        shapes = tuple(sample.shape for sample in plan.samples.values())
        return type(self).__name__, placement, shapes, usual, next(iter(plan.samples.values())).device

    def _prepared(self, plan: Plan, placement: Placement, dtypes: Sequence[torch.dtype]) -> Payload | None:
        """Return the memory for a step's payload, zeros; None where nothing moves."""
        raise NotImplementedError

    def _collected(self, plan: Plan, share: Any, dtypes: Sequence[torch.dtype]) -> Predictions | Sums:
        """Move this step's payload and return what all ranks made."""
        raise NotImplementedError

    def _moved(self, plan: Plan | Unheld, payload: Any) -> Any:
        """Move a payload as it is; from then on the others wait in the agreement after it."""
        raise NotImplementedError

    def _move(self, plan: Plan | Unheld, collective: Callable[..., Any], buffer: Tensor, *arguments: Any) -> None:
        """Make one payload collective of `buffer`; a group that breaks in it is a lost rank."""
        self._counts.payload_collectives += 1
        self._counts.payload_bytes += buffer.numel() * buffer.element_size()
        plan.placed.has_moved = True
        self._shared.form = plan.placed.form
        if plan.placed.agrees:
            plan.placed.awaited = AFTER
        try:
            work = collective(*arguments, group=self.group, async_op=True)
            if buffer.device.type == "cpu":
                self._agreement.wait_for_payload(work)
            else:
                work.wait()  # on a GPU that is to enqueue
        except (RuntimeError, NotImplementedError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
            lacks = ("not support", "not implemented", "No backend type associated")
            if isinstance(error, NotImplementedError) or any(words in reason for words in lacks):
                raise ExecutorError(
                    f"the backend {dist.get_backend_config(self.group)!r} of this process group lacks a collective on "
                    f"{buffer.device.type} that the executor {self.name!r} needs ({reason}); use Gloo on CPUs and NCCL "
                    "on GPUs."
                ) from error
            plan.placed.awaited = None  # the roll call is what the others hear of this rank
            raise self._agreement.roll_call(f"the payload did not arrive: {reason}") from error

    def _staged(self, buffer: Tensor) -> bool:
        return stages_through_cpu(self.group, buffer.device)

    # Description.

    def local_passes(self, branches: Sequence[Branch]) -> int:
        """Return how many forwards this rank makes for these branches; in lockstep as many as every other."""
        placement = self.placed(branches)
        if placement is None:
            return 0 if not branches else 1
        return placement.most if self.lockstep else len(placement.units[self.rank])

    def placed(self, branches: Sequence[Branch]) -> Placement | None:
        """Return which rank runs which of these branches; with `split_rows`, as of the last step's batch."""
        if not self.split_rows:
            return place_branches(branches, self.size, self._placed_speeds).at(self._positions)
        if self._last_rows is None:
            return None
        return place_rows(branches, self._last_rows, self.size, self._placed_speeds).at(self._positions)

    def _options(self) -> str:
        """Describe what differs from the default, and what it costs."""
        parts = []
        if self.chosen_because:
            parts.append(f"chosen by auto: {self.chosen_because}")
        if self.split_rows:
            parts.append(
                "rows of the batch are shared out (where all outputs have as many and no correction needs a statistic "
                "over them), so equal to serial to the model's precision only"
            )
        if self.batched:
            parts.append("each rank's branches in one forward, so equal to serial to the model's precision only")
        if self.speeds:
            parts.append(f"placed for ranks of the speeds {', '.join(f'{speed:g}' for speed in self.speeds)}")
        if self.lockstep:
            parts.append("lockstep: ranks with fewer branches make extra forwards that are thrown away")
        if not self.control:
            parts.append("control exchange off after the first step: a failure on one rank leaves the others waiting")
        return "".join(f"; {part}" for part in parts)
