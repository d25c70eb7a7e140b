"""Choosing an executor from the group's size and what the run needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist

from guidance_core.algebra.digest import digest, in_words
from guidance_core.errors import ConfigurationError, brief, suggest
from guidance_core.executors.agreement import agreement_of
from guidance_core.executors.all_gather import AllGatherExecutor
from guidance_core.executors.all_reduce import AllReduceExecutor
from guidance_core.executors.base import Denoiser, Executor, StartedT
from guidance_core.executors.batched import BatchedExecutor
from guidance_core.executors.distributed import DistributedExecutor
from guidance_core.executors.groups import check_alive, resolve_group
from guidance_core.executors.placement import place_branches
from guidance_core.executors.serial import SerialExecutor
from guidance_core.executors.together import begin_together
from guidance_core.executors.tuned import TunedExecutor, executor_of
from guidance_core.executors.tuning import Timed, Tuning
from guidance_core.steps.plan import Plan
from guidance_core.steps.program import Program

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

EQUALITIES = ("bits", "close")
FEWER = 2.0
"By what factor all-reduce must move fewer bytes to be preferred to a bit-identical all-gather."


class AutoExecutor(Executor):
    """Chooses an executor when the run starts; `describe()` says which one and why.

    With a tuning, it is the one that was fastest for the run's steps, if the tuning has the same passes, number of
    ranks, device, and form of samples. Otherwise:

    - One process: batched if the denoiser has `batch(branches)`, else serial.
    - Several, and a method looks at the predictions: all-gather.
    - Several, and every method is linear: all-gather, which equals serial bit for bit, unless
      all-reduce would move less than half the bytes (bf16 predictions assumed).

    It measures nothing; `tune` does.
    """

    name = "auto"

    def __init__(
        self,
        group: ProcessGroup | DeviceMesh | None = None,
        *,
        mesh_dim: str | int | None = None,
        tuning: Tuning | None = None,
        equality: Literal["bits", "close"] = "close",
    ) -> None:
        """Choose for a process group, a dimension of a mesh, or the default group if there is one.

        Args:
            group: a process group, a `DeviceMesh`, or None for the default group, if there is one.
            mesh_dim: the dimension of the mesh, by name or number, where it has several.
            tuning: what `tune` measured. Every rank must be given the same.
            equality: how far the result may be from serial's. `bits`: not at all, so only serial and all_gather are
                chosen. `close`: as far as documented for all_reduce, and for passes that are batched.

        Raises:
            ConfigurationError: as of `AllGatherExecutor`, or an argument is something else.
        """
        if tuning is not None and not isinstance(tuning, Tuning):
            raise ConfigurationError(
                f"tuning is what tune(...) returned, or Tuning.from_json(text) read; got {brief(tuning)}."
            )
        if equality not in EQUALITIES:
            given = brief(equality, written=str)
            raise ConfigurationError(f"equality must be 'bits' or 'close'; got {given!r}.{suggest(given, EQUALITIES)}")
        started = dist.is_available() and dist.is_initialized()
        self._group = resolve_group(group, mesh_dim) if started or group is not None else None
        self._given: dict[str, Any] = {"group": group, "mesh_dim": mesh_dim}
        self._tuning = tuning
        self._equality = equality

    @property
    def _size(self) -> int:
        return 1 if self._group is None else self._group.size()

    def begin(self, make: Callable[[], StartedT]) -> StartedT:
        """Start a run, together with the other ranks if there are any."""
        if self._group is None or self._group.size() == 1:
            return make()
        check_alive(self._group)
        return begin_together(agreement_of(self._group), type(self), self._compared, make, self._in_words)

    def _in_words(self) -> dict[str, str]:
        """Return the settings in words."""
        return {"equality": self._equality, "tuning": in_words(self._tuning)}

    def _compared(self) -> int:
        return digest([self.name, self._equality, self._tuning])

    def for_run(self, program: Program) -> Executor:
        """Return the executor to use for a run of this program."""
        usual, tuning = self._usual(program), self._tuning
        if tuning is None:
            return usual
        reason = tuning.unfit(program.stack.plugins, program.layouts, self._size)
        if reason is None:
            means = tuning.mean_seconds(program.layouts)
            if program.stack.looking:
                means = {timed: mean for timed, mean in means.items() if timed.executor != AllReduceExecutor.name}
            allowed = [timed for timed in means if timed.is_exact or self._equality == "close"]
            reason = _none_for(means, self._equality)
            if allowed:
                fastest = executor_of(allowed[0], self._size, self._given, tuning.speeds)
                return TunedExecutor(fastest, usual, tuning, _compared(means, allowed, tuning.torch))
        return TunedExecutor(None, usual, tuning, reason)

    def _usual(self, program: Program) -> Executor:
        """Return the executor that is chosen without a tuning."""
        group = self._group
        if group is None or group.size() == 1:
            why = "no process group" if group is None else "the group has one rank"
            return _Local(why, may_batch=self._equality == "close")
        if program.stack.looking:
            return _chosen(AllGatherExecutor(**self._given), "a method looks at the predictions")
        if self._equality == "bits":
            return _chosen(AllGatherExecutor(**self._given), "it alone of those on ranks gives serial's bits")
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
        """Return one line that says which executors it chooses from."""
        if self._tuning is not None:
            exact = " of those that give serial's bits" if self._equality == "bits" else ""
            return f"auto: chosen when a run starts, as the fastest{exact} by its tuning"
        return "auto: chosen when a run starts, from the group's size and what the methods need"


class _Local(Executor):
    """Batched where the denoiser can and it is allowed, else serial."""

    name = "auto"
    keeps_gradients = True

    def __init__(self, why: str, *, may_batch: bool) -> None:
        self._why = why
        self._may_batch = may_batch
        self._serial, self._batched = SerialExecutor(), BatchedExecutor()

    def execute(self, plan: Plan, denoise: Denoiser) -> Mapping[str, Any]:
        can_batch = self._may_batch and callable(getattr(denoise, "batch", None)) and len(plan.own_branches) > 1
        return (self._batched if can_batch else self._serial).execute(plan, denoise)

    def describe(self) -> str:
        if not self._may_batch:
            return f"auto: {self._why}, so serial, which alone gives its own bits there"
        return f"auto: {self._why}, so batched where the denoiser has batch(branches), else serial"


def _chosen(executor: DistributedExecutor, why: str) -> DistributedExecutor:
    executor.chosen_because = why
    return executor


def _none_for(means: Mapping[Timed, float], equality: str) -> str:
    return (
        f"it has no times of an executor that equality={equality!r} allows"
        if means
        else "no step of the run has passes"
    )


def _compared(means: Mapping[Timed, float], allowed: Sequence[Timed], torch_version: str) -> str:
    """Return all times in words, what equality forbids last."""

    def shown(each: Timed) -> str:
        return f"{each.label} {means[each] * 1e3:.4g} ms"

    others = [shown(each) for each in means if each not in allowed]
    text = f"the fastest by its tuning, on average a step: {', '.join(map(shown, allowed))}"
    text += f"; only close to serial, so not chosen from: {', '.join(others)}" if others else ""
    used = str(torch.__version__)
    return text if torch_version == used else f"{text} (measured with torch {torch_version}; this is {used})"
