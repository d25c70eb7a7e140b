"""Choosing an executor from the group's size and what the run needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from guidance_core.algebra.digest import digest
from guidance_core.executors.agreement import agreement_of, begin_together
from guidance_core.executors.all_gather import AllGatherExecutor
from guidance_core.executors.all_reduce import AllReduceExecutor
from guidance_core.executors.base import Denoiser, Executor, StartedT
from guidance_core.executors.batched import BatchedExecutor
from guidance_core.executors.distributed import DistributedExecutor
from guidance_core.executors.groups import check_alive, resolve_group
from guidance_core.executors.placement import place_branches
from guidance_core.executors.serial import SerialExecutor
from guidance_core.steps.plan import Plan
from guidance_core.steps.program import Program

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

FEWER = 2.0
"By what factor all-reduce must move fewer bytes to be preferred to a bit-identical all-gather."


class AutoExecutor(Executor):
    """Chooses when the run starts; `describe()` says what and why.

    - One process: batched where the denoiser has `batch(branches)`, else serial.
    - Several, and a method looks at the predictions: all-gather.
    - Several, and every method is linear: all-gather, which equals serial bit for bit, unless
      all-reduce would move less than half the bytes (bf16 predictions assumed).
    """

    name = "auto"

    def __init__(self, group: ProcessGroup | DeviceMesh | None = None, *, mesh_dim: str | int | None = None) -> None:
        """Choose for a process group, a dimension of a mesh, or the default group if there is one.

        Raises:
            ConfigurationError: as of `AllGatherExecutor`.
        """
        started = dist.is_available() and dist.is_initialized()
        self._group = resolve_group(group, mesh_dim) if started or group is not None else None
        self._given: dict[str, Any] = {"group": group, "mesh_dim": mesh_dim}

    def begin(self, make: Callable[[], StartedT]) -> StartedT:
        """Start a run, together with the other ranks where there are some."""
        if self._group is None or self._group.size() == 1:
            return make()
        check_alive(self._group)
        return begin_together(agreement_of(self._group), type(self), lambda: digest([self.name]), make)

    def for_run(self, program: Program) -> Executor:
        """Return the executor to use for a run of this program."""
        group = self._group
        if group is None or group.size() == 1:
            return _Local("no process group" if group is None else "the group has one rank")
        looking = program.stack.hooks["combine"]
        if looking.plain or looking.wrappers:
            return _chosen(AllGatherExecutor(**self._given), "a method looks at the predictions")
        gathered, reduced = 0.0, 0.0
        for layout, steps in Counter(program.layouts).items():
            placement = place_branches(layout.branches, group.size())
            if len(placement.busy) > 1:
                gathered += steps * 2 * placement.most * (group.size() - 1)
                # a correction that looks at the whole base prediction has it sent along
                whole = any(
                    acting.needs.reference for each in layout.outputs.values() for acting in each.all_correcting
                )
                reduced += steps * (2 if whole else 1) * 4 * 2 * (group.size() - 1) / group.size()
        if gathered > FEWER * reduced:
            why = f"every method is linear, and gathering would move {gathered / reduced:.1f} times the bytes"
            return _chosen(AllReduceExecutor(**self._given), why)
        return _chosen(
            AllGatherExecutor(**self._given), "bit-identical to serial, and adding up would not move half the bytes"
        )

    def describe(self) -> str:
        """Return one line that says what it chooses from."""
        return "auto: chosen when a run starts, from the group's size and what the methods need"


class _Local(Executor):
    """Batched where the denoiser can, else serial."""

    name = "auto"
    keeps_gradients = True

    def __init__(self, why: str) -> None:
        self._why = why
        self._serial, self._batched = SerialExecutor(), BatchedExecutor()

    def execute(self, plan: Plan, denoise: Denoiser) -> Mapping[str, Any]:
        can_batch = callable(getattr(denoise, "batch", None)) and len(plan.own_branches) > 1
        return (self._batched if can_batch else self._serial).execute(plan, denoise)

    def describe(self) -> str:
        return f"auto: {self._why}, so batched where the denoiser has batch(branches), else serial"


def _chosen(executor: DistributedExecutor, why: str) -> DistributedExecutor:
    executor.chosen_because = why
    return executor
