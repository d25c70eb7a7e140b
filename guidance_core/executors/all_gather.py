"""Branches spread over ranks; every rank gets every prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from guidance_core.executors.distributed import DistributedExecutor
from guidance_core.executors.header import LENGTH, Header
from guidance_core.executors.packing import Slot, slots_of
from guidance_core.executors.payload import Payload, Unheld
from guidance_core.executors.placement import Placement, Unit
from guidance_core.steps.plan import Plan, Predictions

# Renamed in torch 2.13; the old name warns there.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


HEADER = LENGTH * 4
"Bytes of a header, where ranks do not agree on every step."


class _Gathered(Payload):
    """What every rank sends of its branches, and the memory for what all send."""

    def __init__(
        self, placement: Placement, sent: Tensor, slots: dict[Unit, tuple[int, list[Slot]]], received: Tensor | None
    ) -> None:
        super().__init__(placement, sent)
        self.slots = slots
        "Rank and places of every unit's outputs."
        self.received = received
        "By rank; None where a single rank sends."

    def again(self) -> _Gathered:
        with torch.inference_mode(False):
            received = None if self.received is None else torch.empty_like(self.received)
            return _Gathered(self.placement, torch.empty_like(self.sent), self.slots, received)


class AllGatherExecutor(DistributedExecutor):
    """Runs each branch on one rank and gathers all predictions, in the model's dtype, in one collective.

    Every rank then combines them itself. The result equals that of the serial executor bit for bit, on every rank and
    at any number of ranks, unless `split_rows` or `batched` changes the batch that the model gets. A rank without a
    branch runs no forward pass.
    """

    name = "all_gather"

    def _prepared(self, plan: Plan, placement: Placement, dtypes: Sequence[torch.dtype]) -> _Gathered | None:
        if not placement.busy or self.size == 1 or placement.is_repeated:
            return None
        slots, length = self._slots(plan, placement, dtypes, 0 if self.control else HEADER)
        device = next(iter(plan.samples.values())).device
        with torch.inference_mode(False):  # the step that uses it may run in another mode
            sent = torch.empty(length, dtype=torch.uint8, device=device)
            received = None
            if len(placement.busy) > 1:
                at = "cpu" if self._staged(sent) else device
                received = torch.empty(self.size, length, dtype=torch.uint8, device=at)
        return _Gathered(placement, sent, slots, received)

    def _collected(self, plan: Plan, share: Predictions, dtypes: Sequence[torch.dtype]) -> Predictions:
        payload = plan.placed.payload
        if payload is None:
            return {
                output: {name: tensor.detach() for name, tensor in given.items()} for output, given in share.items()
            }
        slots = payload.slots
        for unit, branch in zip(plan.placed.units, plan.own_branches, strict=True):
            for slot, given in zip(slots[unit][1], share.values(), strict=True):
                slot.view(payload.sent).copy_(given[branch.name])
        if plan.placed.agrees:
            by_rank = self._moved(plan, payload)
        else:
            header = self._header(plan)
            self._write_header(payload, header)
            by_rank = self._moved(plan, payload)
            if payload.received is None:
                sender = payload.placement.busy[0]
                self._look_at(header, _numbers(by_rank[sender].view(1, -1)), (sender,), by_rank[sender])
            else:
                self._look_at(header, _numbers(payload.received), range(self.size), payload.received)
        views = {unit: [slot.view(by_rank[rank]) for slot in places] for unit, (rank, places) in slots.items()}
        return self._whole(plan, views)

    def _slots(
        self, plan: Plan, placement: Placement, dtypes: Sequence[torch.dtype], start: int
    ) -> tuple[dict[Unit, tuple[int, list[Slot]]], int]:
        """Return rank and places of every unit's outputs from byte `start` on, and the bytes that each rank sends."""
        places: dict[Unit, tuple[int, list[Slot]]] = {}
        longest = 0
        for rank, units in enumerate(placement.units):
            wanted = [
                (plan.shape_of(output, unit.part), dtype)
                for unit in units
                for output, dtype in zip(plan.samples, dtypes, strict=True)
            ]
            slots, length = slots_of(wanted, start)
            count = len(plan.samples)
            for number, unit in enumerate(units):
                places[unit] = rank, slots[number * count : (number + 1) * count]
            longest = max(longest, length)
        return places, longest

    def _write_header(self, payload: _Gathered, header: Header) -> None:
        numbers = _numbers(payload.sent.view(1, -1))[0]
        numbers.copy_(torch.tensor(header.numbers, dtype=numbers.dtype, device="cpu"))

    def _moved(self, plan: Plan | Unheld, payload: Any) -> Sequence[Tensor]:
        return self._gathered(plan, payload.sent, payload.placement)

    def _gathered(self, plan: Plan | Unheld, buffer: Tensor, placement: Placement) -> Sequence[Tensor]:
        """Return every rank's buffer; where a single rank has branches, it alone sends."""
        staged = self._staged(buffer)
        sent = buffer.cpu() if staged else buffer
        if len(placement.busy) == 1:
            source = dist.get_global_rank(self.group, placement.busy[0])
            self._move(plan, dist.broadcast, sent, sent, source)
            return [sent.to(buffer.device)] * self.size
        received = cast(_Gathered, plan.placed.payload).received
        assert received is not None
        self._move(plan, _all_gather, sent, received.view(-1), sent)
        return (received.to(buffer.device) if staged else received).unbind()

    def _whole(self, plan: Plan, views: Mapping[Unit, Sequence[Tensor]]) -> Predictions:
        """Return the predictions of all branches; those in rows, joined."""
        parts: dict[int, list[tuple[int, Sequence[Tensor]]]] = {}
        for unit, tensors in views.items():
            parts.setdefault(unit.branch, []).append((unit.rows[0] if unit.rows else 0, tensors))
        whole: Predictions = {output: {} for output in plan.samples}
        for index, branch in enumerate(plan.branches):
            pieces = [tensors for _, tensors in sorted(parts[index], key=lambda part: part[0])]
            joined = pieces[0] if len(pieces) == 1 else [torch.cat(same) for same in zip(*pieces, strict=True)]
            for output, tensor in zip(whole, joined, strict=True):
                whole[output][branch.name] = tensor
        return whole

    def describe(self) -> str:
        """Return one line that says how branches are run."""
        exact = "" if self.split_rows or self.batched else ", bit-identical to serial"
        return f"all_gather: {self.size} ranks, predictions gathered on all of them{exact}{self._options()}"


def _numbers(sent: Tensor) -> Tensor:
    """Return the header of what each rank sends."""
    return sent[:, :HEADER].view(torch.int32)
