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
from typing import Any
from weakref import ref

import torch
import torch.distributed as dist
from torch import Tensor

from guidance_core.algebra.digest import PARTS
from guidance_core.errors import (
    DenoiserError,
    ExecutorError,
    RankLostError,
    add_note,
    text_of,
)
from guidance_core.executors.agreement import Announced
from guidance_core.executors.base import Denoiser, StartedT, run_batch
from guidance_core.executors.comparing import compare_inputs, note_inputs, number_of
from guidance_core.executors.forwards import run_own
from guidance_core.executors.groups import (
    check_alive,
    is_alive,
    stages_through_cpu,
)
from guidance_core.executors.header import Header, read
from guidance_core.executors.payload import MOVE, Payload, Placed, Unheld
from guidance_core.executors.placement import Placement
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
from guidance_core.executors.spread import SpreadExecutor
from guidance_core.executors.together import begin_together, set_aside, shared_error, told_by_all
from guidance_core.executors.turns import CrowdedError
from guidance_core.steps.plan import Plan, Predictions, Sums
from guidance_core.steps.settings import RunIdentity


class DistributedExecutor(SpreadExecutor):
    """Base of the executors that spread the branches of a step over the ranks of a process group."""

    def begin(self, make: Callable[[], StartedT]) -> StartedT:
        """Start a run together with the other ranks.

        Raises:
            PlanMismatchError: methods, parameters or settings differ between ranks.
            GuidanceError: it could not be started on one rank; the same error on all.
        """
        check_alive(self.group)
        return begin_together(self._agreement, type(self), self._compared, make, self._in_words)

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
        """Run this rank's branches; return their predictions by name.

        Raises:
            ExecutorError: the executor splits rows, and the denoiser does not take any.
        """
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
            DenoiserError: the predictions of an output are a DTensor, or change their dtype with `control=False`.
            ExecutorError: the outputs are on several devices, or another thread is in a step on the group.
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
        return BEFORE  # or in lockstep PLANNED: who tells of a failure is heard in either

    def _compare(self, plan: Plan, dtypes: tuple[torch.dtype, ...], phase: int, *, then: int | None) -> list[Record]:
        """Exchange records; raise on every rank if one failed or plans another thing.

        The others wait for this rank in the exchange `then` next, if there is one.
        """
        record = Record(self._fingerprint(plan), dtypes, plan.summary, inputs=number_of(plan.placed))
        plan.placed.awaited = None
        records = self._agreement.exchange(record, phase)
        check_all_well(records)
        check_same_plan(
            records, lambda: told_by_all(self._agreement, {**plan.details, "executor": self.name, **self._in_words()})
        )
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
