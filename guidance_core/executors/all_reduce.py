"""Branches spread over ranks; every rank gets their weighted sum."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from guidance_core.arithmetic import accumulation_dtype
from guidance_core.branch import BASE
from guidance_core.executors.base import Sums
from guidance_core.executors.distributed import DistributedExecutor, Made
from guidance_core.executors.packing import slots_of
from guidance_core.executors.placement import Placement
from guidance_core.statistics import kept_shape

if TYPE_CHECKING:
    from guidance_core.plan import Plan


class AllReduceExecutor(DistributedExecutor):
    """Each rank adds up its weighted branches in float32; one all-reduce adds the ranks.

    The base prediction's statistics that corrections ask for travel in the same buffer. Full
    predictions do not, so a method whose `combine` looks at them is refused when the run starts. The
    result is within `n·2⁻²³·Σ|wᵢ pᵢ|` (n branches) plus one rounding of the serial executor's, and the
    same bits on every rank.
    """

    name = "all_reduce"
    gathers_predictions = False

    def _collected(self, plan: Plan, placement: Placement, made: Made, dtypes: Sequence[torch.dtype]) -> Sums:
        if not placement.busy:
            return Sums({}, {}, {}, {})
        samples = plan.samples
        active = [output for output in samples if not plan.layout.outputs[output].held]
        kinds = dict(zip(samples, dtypes, strict=True))
        working = reduce(torch.promote_types, (_accumulation(kinds[output]) for output in active))
        keys: list[tuple[str, tuple[str, str, str] | None]] = []
        shapes = []
        for output in active:
            shape = plan.shape_of(output)
            entries: list[tuple[tuple[str, str, str] | None, tuple[int, ...]]] = [(None, shape)]
            entries += [(key, kept_shape(shape, key[2])) for key in plan.wanted_statistics(output)]
            if plan.wants_reference(output):
                entries.append((_REFERENCE, shape))
            keys += [(output, key) for key, _ in entries]
            shapes += [(entry, working) for _, entry in entries]
        slots, length = slots_of(shapes)
        buffer = torch.zeros(length, dtype=torch.uint8, device=samples[active[0]].device)
        views = {key: slot.view(buffer) for key, slot in zip(keys, slots, strict=True)}
        self._fill(plan, made, views)
        self._reduced(buffer.view(working), placement)
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

    def _fill(self, plan: Plan, made: Made, views: dict[tuple[str, tuple[str, str, str] | None], torch.Tensor]) -> None:
        """Write this rank's share of every sum and statistic into the buffer."""
        by_rows: dict[tuple[int, int] | None, dict[str, dict[str, torch.Tensor]]] = {}
        for unit, prediction in made.items():
            by_rows.setdefault(unit.rows, {})[plan.branches[unit.branch].name] = prediction
        for rows, predictions in by_rows.items():
            here = slice(None) if rows is None else slice(*rows)
            for output, key in views:
                view = views[output, key]
                if key is None:
                    part = plan.partial_sum(output, {name: each[output] for name, each in predictions.items()}, rows)
                    if part is not None:
                        view[here] += part
                elif BASE in predictions:
                    base = predictions[BASE][output]
                    value = base if key == _REFERENCE else plan.statistic(output, base, key, rows)
                    (view if view.shape[0] == 1 else view[here]).copy_(value)

    def _reduced(self, buffer: torch.Tensor, placement: Placement) -> None:
        """Add up the ranks' buffers in place; where a single rank has branches, it alone sends."""
        if self.size == 1:
            return
        staged = self._staged(buffer)
        sent = buffer.cpu() if staged else buffer
        if len(placement.busy) == 1:
            source = dist.get_global_rank(self.group, placement.busy[0])
            self._moved(dist.broadcast, sent, sent, source)
        else:
            self._moved(dist.all_reduce, sent, sent)
        if staged:
            buffer.copy_(sent)

    def describe(self) -> str:
        """Return one line that says how branches are run."""
        bound = "within n·2⁻²³·Σ|w·p| of serial and the same on every rank"
        return f"all_reduce: {self.size} ranks, weighted sums added in float32, {bound}{self._options()}"


_REFERENCE = ("", "tensor", "")
"Stands for the whole base prediction among the wanted statistics."


def _accumulation(dtype: torch.dtype) -> torch.dtype:
    return accumulation_dtype(torch.empty(0, dtype=dtype))
