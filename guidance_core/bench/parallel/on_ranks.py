"""What one rank does and sees: the contenders make their steps in turn."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
import torch.distributed as dist
from torch import Tensor

from guidance_core.bench.engines import Dispatch, PackedReduces, PaddedGathers, RoundRobin
from guidance_core.bench.parallel.jobs import (
    BASELINE,
    CONTENDERS,
    FORWARDS,
    GATHER,
    PACKED,
    PADDED,
    PHI,
    REDUCE,
    SERIAL,
    WITHOUT_CONTROL,
    Job,
    falling,
)
from guidance_core.executors import AllGatherExecutor, AllReduceExecutor, Executor, SerialExecutor
from guidance_core.executors.distributed import DistributedExecutor
from guidance_core.executors.placement import place_branches, place_rows
from guidance_core.guidance import Guidance
from guidance_core.hosts.ltx2 import OUTPUTS, LTX2Denoiser, Sizes, Streams, small_inputs, small_transformer
from guidance_core.methods.requests import Branch
from guidance_core.run import Run
from guidance_core.steps.bound_branch import BoundBranch


@attrs.frozen
class Spent:
    """What one rank ran and sent, in one step."""

    forwards: int
    rows: int
    "Samples in these forwards."
    collectives: int
    bytes: int
    exchanges: int
    control: float
    "Seconds."
    cpu: float
    "Seconds of processor time."


@attrs.frozen
class Seen:
    """What one rank saw of a contender."""

    took_part: bool
    seconds: tuple[float, ...]
    spent: tuple[Spent, ...]
    bits: str
    "Digest of the first result; empty where there is none."
    difference: float
    "Largest difference of the first result to the serial one, on rank 0."


class Contenders:
    """The contenders of a job on this rank. A step's number is its argument; each has its own sample and level."""

    def __init__(self, group: dist.ProcessGroup, job: Job, sizes: Sizes, steps: int) -> None:
        self._job, self._sizes, self._sigmas = job, sizes, falling(steps)
        self.model = small_transformer(sizes)
        self.model.register_forward_hook(self._forwarded)
        self.inputs = small_inputs(sizes, batch=job.batch)
        self.forwards = self.rows = 0
        guidance = Guidance.from_spec(job.spec)
        self._executors: dict[str, Executor] = {
            SERIAL: SerialExecutor(),
            GATHER: AllGatherExecutor(_like(group), **job.options),
            REDUCE: AllReduceExecutor(_like(group), **job.options),
        }
        self._runs = {
            name: start(guidance, self.inputs.conditions, each, steps) for name, each in self._executors.items()
        }
        plan = self._runs[SERIAL].plan(0, self.inputs.sample)
        self._engines = engines(group, plan.branches, job)
        self._own = self._placed(plan.branches, plan.layout.branches, group, job)

    @staticmethod
    def _placed(
        bound: Sequence[BoundBranch], branches: Sequence[Branch], group: dist.ProcessGroup, job: Job
    ) -> list[BoundBranch]:
        """Return what the executors run on this rank."""
        shares_rows = job.options.get("split_rows", False)
        placement = (
            place_rows(branches, job.batch, group.size()) if shares_rows else place_branches(branches, group.size())
        )
        units = placement.units[group.rank()]
        return [bound[u.branch] if u.rows is None else bound[u.branch].for_rows(slice(*u.rows)) for u in units]

    def _forwarded(self, _: Any, __: Any, made: tuple[Tensor, ...]) -> None:
        self.forwards += 1
        self.rows += made[0].shape[0]

    def drawn(self, number: int) -> Streams:
        """Return the sample of a step."""
        return small_inputs(self._sizes, batch=self._job.batch, seed=number).sample

    def step(self, name: str, number: int, sample: Streams) -> Sequence[Tensor]:
        """Make one step and return its result."""
        sigma = self._sigmas[number]
        denoise = LTX2Denoiser(self.model, sample, sigma, self.inputs.grid)
        if name == FORWARDS:
            self._together(denoise, self._own)
            return ()
        if name in self._engines:
            return self._engines[name].step(sample, sigma, denoise)
        result: tuple[Tensor, ...] = self._runs[name].step(number, sample, denoise)
        return result

    def _together(self, denoise: LTX2Denoiser, branches: list[BoundBranch]) -> None:
        if self._job.options.get("batched", False) and branches:
            denoise.batch(branches)
            return
        for branch in branches:
            denoise(branch)

    def spent(self, name: str) -> Spent:
        """Return what was spent so far."""
        executor = self._executors.get(name)
        if isinstance(executor, DistributedExecutor):
            counts = executor.counts
            sent = (counts.payload_collectives, counts.payload_bytes, counts.control_exchanges, counts.control_seconds)
        else:
            engine = self._engines.get(name)
            sent = (0, 0, 0, 0.0) if engine is None else (engine.collectives, engine.bytes, 0, 0.0)
        return Spent(self.forwards, self.rows, *sent, time.process_time())


def _like(group: dist.ProcessGroup) -> dist.ProcessGroup:
    """Return another group of all ranks, so that a run has its group to itself, as in a program of its own."""
    if group.size() < dist.get_world_size():  # for what is only counted, in runs of one step
        return group
    made: dist.ProcessGroup = dist.new_group()
    return made


def engines(group: dist.ProcessGroup, branches: Sequence[BoundBranch], job: Job) -> dict[str, Dispatch]:
    """Return the engines' ways to spread branches, by name."""
    ways = {BASELINE: RoundRobin, PACKED: PackedReduces, PADDED: PaddedGathers}
    return {name: way(group, branches, job.strengths, PHI) for name, way in ways.items()}


class Known:
    """A denoiser whose forwards return at once."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        self._known = known

    def __call__(self, branch: BoundBranch) -> Any:
        """Return the branch's prediction."""
        return self._known[branch.name]

    def batch(self, branches: Sequence[BoundBranch]) -> list[Any]:
        """Return those of several branches."""
        return [self._known[branch.name] for branch in branches]


def start(guidance: Guidance, conditions: Mapping[str, Any], executor: Executor, steps: int) -> Run:
    """Start a run of `steps`."""
    return guidance.start(
        conditions=conditions, sigmas=falling(steps), prediction_type="flow", outputs=OUTPUTS, executor=executor
    )


def observe(group: dist.ProcessGroup, job: Job, sizes: Sizes, rounds: int, warmup: int) -> dict[str, Seen]:
    """Make the steps of every contender in turn, another one first in each round."""
    with torch.inference_mode():
        contenders = Contenders(group, job, sizes, warmup + rounds)
        names = CONTENDERS
        seconds: dict[str, list[float]] = {name: [] for name in names}
        spent: dict[str, list[Spent]] = {name: [] for name in names}
        first: dict[str, Sequence[Tensor]] = {}
        for number in range(warmup + rounds):
            turn, sample = number % len(names), contenders.drawn(number)
            for name in (*names[turn:], *names[:turn]):
                takes_part = _takes_part(group, name)
                dist.barrier(group)
                before, begun = contenders.spent(name), time.perf_counter()
                result = contenders.step(name, number, sample) if takes_part else ()
                ended, after = time.perf_counter(), contenders.spent(name)
                first.setdefault(name, result)
                if number >= warmup:
                    seconds[name].append(ended - begun if takes_part else 0.0)
                    spent[name].append(_difference(after, before))
        dist.barrier(group)
    return {
        name: Seen(
            _takes_part(group, name),
            tuple(seconds[name]),
            tuple(spent[name]),
            bits_of(first[name]),
            max((float((a - b).abs().max()) for a, b in zip(first[name], first[SERIAL], strict=False)), default=0.0),
        )
        for name in names
    }


def observe_overhead(group: dist.ProcessGroup, job: Job, sizes: Sizes, rounds: int) -> dict[str, list[float]]:
    """Make steps whose forwards return at once; return the seconds by dispatch."""
    inputs = small_inputs(sizes, batch=job.batch)
    guidance = Guidance.from_spec(job.spec)
    executors: dict[str, Executor] = {
        SERIAL: SerialExecutor(),
        GATHER: AllGatherExecutor(_like(group)),
        GATHER + WITHOUT_CONTROL: AllGatherExecutor(_like(group), control=False),
        REDUCE: AllReduceExecutor(_like(group)),
        REDUCE + WITHOUT_CONTROL: AllReduceExecutor(_like(group), control=False),
    }
    with torch.inference_mode():
        runs = {name: start(guidance, inputs.conditions, executor, rounds) for name, executor in executors.items()}
        branches = runs[SERIAL].plan(0, inputs.sample).branches
        others, sigmas = engines(group, branches, job), falling(rounds)

        def drawn(number: int) -> tuple[Streams, Known]:
            sample, *made = (
                small_inputs(sizes, batch=job.batch, seed=seed).sample for seed in _seeds(number, branches)
            )
            return sample, Known({branch.name: each for branch, each in zip(branches, made, strict=True)})

        def step(name: str, number: int, sample: Streams, denoise: Known) -> None:
            if name in others:
                others[name].step(sample, sigmas[number], denoise)
            else:
                runs[name].step(number, sample, denoise)

        seconds: dict[str, list[float]] = {name: [] for name in (SERIAL, *others, *list(executors)[1:])}
        names = list(seconds)
        for number in range(rounds):
            turn, (sample, denoise) = number % len(names), drawn(number)
            for name in (*names[turn:], *names[:turn]):
                dist.barrier(group)
                begun = time.perf_counter()
                step(name, number, sample, denoise)
                seconds[name].append(time.perf_counter() - begun)
        dist.barrier(group)
    return seconds


def _seeds(number: int, branches: Sequence[BoundBranch]) -> range:
    """Return the seeds of a step's sample and of its predictions, which no other step has."""
    return range(number * (len(branches) + 1), (number + 1) * (len(branches) + 1))


def _difference(after: Spent, before: Spent) -> Spent:
    pairs = zip(attrs.astuple(after), attrs.astuple(before), strict=True)
    return Spent(*(one - other for one, other in pairs))


def _takes_part(group: dist.ProcessGroup, name: str) -> bool:
    return name != SERIAL or group.rank() == 0


def bits_of(result: Sequence[Tensor]) -> str:
    """Return a digest of a result's bits; empty where there is none."""
    parts = (tensor.contiguous().view(torch.uint8).numpy().tobytes() for tensor in result)
    return hashlib.sha256(b"".join(parts)).hexdigest() if result else ""
