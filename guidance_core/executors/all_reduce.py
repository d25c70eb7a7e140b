"""Branches spread over ranks; every rank gets their weighted sum."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import reduce
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from guidance_core.algebra.arithmetic import accumulation_dtype
from guidance_core.algebra.statistics import Statistic
from guidance_core.executors.distributed import DistributedExecutor
from guidance_core.executors.header import LENGTH, Header
from guidance_core.executors.packing import Slot, slots_of
from guidance_core.executors.payload import Payload, Unheld
from guidance_core.executors.placement import Placement
from guidance_core.methods.reference import Measured
from guidance_core.methods.requests import BASE
from guidance_core.steps.bound_branch import BoundBranch
from guidance_core.steps.plan import Plan, Predictions, Sums

Key: TypeAlias = tuple[str, Measured | None]
"What a part of the buffer is: an output's sum (None), or one of its base prediction's statistics."

Part: TypeAlias = tuple[str, Measured | None, slice | None, Tensor]
"Output, which part of the buffer, the rows of the batch (None: all), and what to add there."


class _Reduced(Payload):
    """The sums and statistics of all outputs, to be added up over the ranks."""

    def __init__(
        self, placement: Placement, sent: Tensor, slots: dict[Key, Slot], working: torch.dtype, start: int
    ) -> None:
        super().__init__(placement, sent)
        self.start = start
        "Bytes of the headers."
        self.headers = sent[:start].view(working).view(-1, LENGTH)
        "One of each rank, zeros in what the others send; none where ranks agree on every step."
        self.slots = slots
        self.working = working
        "Dtype of everything in it."

    def again(self) -> _Reduced:
        with torch.inference_mode(False):
            return _Reduced(self.placement, torch.zeros_like(self.sent), self.slots, self.working, self.start)


class AllReduceExecutor(DistributedExecutor):
    """Each rank adds up its weighted branches in float32; one all-reduce adds up the sums of all ranks.

    Statistics of the base prediction that corrections ask for are sent in the same buffer. Whole predictions are not,
    so the run refuses a method whose `combine` looks at them when it starts. The result differs from that of the serial
    executor by at most `n·2⁻²³·Σ|wᵢ pᵢ|` (n branches) plus one rounding, and has the same bits on every rank.
    """

    name = "all_reduce"
    gathers_predictions = False

    def _share(self, plan: Plan, predictions: Predictions) -> list[Part]:
        """Return this rank's part of every sum, statistic and reference, with the rows it is for."""
        by_rows: dict[tuple[int, int] | None, list[BoundBranch]] = {}
        for unit, branch in zip(plan.placed.units, plan.own_branches, strict=True):
            by_rows.setdefault(unit.rows, []).append(branch)
        parts: list[Part] = []
        for branches in by_rows.values():
            rows = branches[0].rows
            for output in _active(plan):
                given = {branch.name: predictions[output][branch.name].detach() for branch in branches}
                total = plan.partial_sum(output, given, rows)
                if total is not None:
                    parts.append((output, None, rows, total))
                base = given.get(BASE)
                if base is not None:
                    for wanted in plan.wanted_statistics(output):
                        parts.append((output, wanted, rows, plan.statistic(output, base, wanted, rows)))
                    if plan.wants_reference(output):
                        parts.append((output, _REFERENCE, rows, base))
        return parts

    def _form(self, plan: Plan, placement: Placement) -> Hashable:
        parts = [(name, plan.wanted_statistics(name), plan.wants_reference(name)) for name in _active(plan)]
        form = super()._form(plan, placement)
        return None if form is None else (form, *parts)

    def _prepared(self, plan: Plan, placement: Placement, dtypes: Sequence[torch.dtype]) -> _Reduced | None:
        if not placement.busy or placement.is_repeated:
            return None
        return self._memory(plan, placement, dtypes)

    def _memory(self, plan: Plan, placement: Placement, dtypes: Sequence[torch.dtype]) -> _Reduced:
        """Return zeros for the sums and statistics of all outputs."""
        active = _active(plan)
        kinds = dict(zip(plan.samples, dtypes, strict=True))
        working = reduce(torch.promote_types, (_accumulation(kinds[output]) for output in active))
        keys: list[Key] = []
        shapes = []
        for output in active:
            shape = plan.shape_of(output)
            entries: list[tuple[Measured | None, tuple[int, ...]]] = [(None, shape)]
            entries += [(wanted, wanted[1].shape(shape)) for wanted in plan.wanted_statistics(output)]
            if plan.wants_reference(output):
                entries.append((_REFERENCE, shape))
            keys += [(output, key) for key, _ in entries]
            shapes += [(entry, working) for _, entry in entries]
        start = 0 if self.control else self.size * LENGTH * working.itemsize
        slots, length = slots_of(shapes, start)
        with torch.inference_mode(False):  # the step that uses it may run in another mode
            sent = torch.zeros(length, dtype=torch.uint8, device=plan.samples[active[0]].device)
        return _Reduced(placement, sent, dict(zip(keys, slots, strict=True)), working, start)

    def _collected(self, plan: Plan, share: list[Part], dtypes: Sequence[torch.dtype]) -> Sums:
        payload, placement = plan.placed.payload, plan.placed.placement
        if payload is None and not placement.busy:
            return Sums({}, {}, {}, {})
        moves = payload is not None  # where every rank runs the same, each has the sums
        payload = self._memory(plan, placement, dtypes) if payload is None else payload
        samples, active = plan.samples, _active(plan)
        kinds = dict(zip(samples, dtypes, strict=True))
        views = {key: slot.view(payload.sent) for key, slot in payload.slots.items()}
        self._fill(views, share)
        if moves and (plan.placed.agrees or self.size == 1):
            self._moved(plan, payload)
        elif moves:
            header = self._header(plan)
            self._write_header(payload, header)
            self._moved(plan, payload)
            busy, rows = payload.placement.busy, payload.headers
            if len(busy) == 1:
                self._look_at(header, rows[busy[0] : busy[0] + 1], busy, payload.sent)
            else:
                self._look_at(header, rows, range(self.size), payload.sent)
        return Sums(
            sums={output: views[output, None].to(_accumulation(kinds[output])) for output in active},
            like={
                output: samples[output].new_empty((), dtype=kinds[output]).expand(plan.shape_of(output))
                for output in active
            },
            statistics={
                output: {
                    key: views[output, key].to(_accumulation(kinds[output])) for key in plan.wanted_statistics(output)
                }
                for output in active
            },
            references={
                output: views[output, _REFERENCE].to(kinds[output]) for output in active if plan.wants_reference(output)
            },
        )

    def _write_header(self, payload: _Reduced, header: Header) -> None:
        payload.headers[self.rank].copy_(torch.tensor(header.numbers, dtype=payload.working, device="cpu"))

    def _moved(self, plan: Plan | Unheld, payload: Any) -> None:
        self._reduced(plan, payload.sent.view(payload.working), payload.placement)

    def _fill(self, views: dict[Key, Tensor], share: list[Part]) -> None:
        """Write this rank's share into the buffer."""
        for output, key, rows, part in share:
            view = views[output, key]
            (view if rows is None else view[rows]).add_(part)

    def _reduced(self, plan: Plan | Unheld, buffer: Tensor, placement: Placement) -> None:
        """Add up the ranks' buffers in place; where a single rank has branches, it alone sends."""
        if self.size == 1:
            return
        staged = self._staged(buffer)
        sent = buffer.cpu() if staged else buffer
        if len(placement.busy) == 1:
            source = dist.get_global_rank(self.group, placement.busy[0])
            self._move(plan, dist.broadcast, sent, sent, source)
        else:
            self._move(plan, dist.all_reduce, sent, sent)
        if staged:
            buffer.copy_(sent)

    def describe(self) -> str:
        """Return one line that says how branches are run."""
        bound = "within n·2⁻²³·Σ|w·p| of serial and the same on every rank"
        return f"all_reduce: {self.size} ranks, weighted sums added in float32, {bound}{self._options()}"


_REFERENCE: Measured = ("", Statistic())
"Stands for the whole base prediction among the wanted statistics."


def _active(plan: Plan) -> list[str]:
    return [output for output in plan.samples if not plan.layout.outputs[output].held]


def _accumulation(dtype: torch.dtype) -> torch.dtype:
    return accumulation_dtype(torch.empty(0, dtype=dtype, device="cpu"))
