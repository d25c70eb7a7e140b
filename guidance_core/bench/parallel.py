"""What spreading branches over ranks gains, costs and sends, with LTX-2's architecture.

Every contender makes the same steps of the same model in the same processes, in turn. Before each
step all ranks meet at a barrier; the step takes as long as its slowest rank. The serial step runs on
one rank while the others wait at the next barrier.

The control exchanges' time in a step is that of the rank that waited least, since the others' includes
waiting for a slower rank's forward. What a dispatch costs altogether is measured apart, in steps whose
forwards return at once: with control exchanges and without, their difference being all that these cost.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
import torch.distributed as dist
from torch import Tensor

from guidance_core.bench.round_robin import RoundRobin
from guidance_core.executors import AllGatherExecutor, AllReduceExecutor, Executor, SerialExecutor
from guidance_core.executors.distributed import DistributedExecutor
from guidance_core.executors.placement import place_branches, place_rows
from guidance_core.guidance import Guidance
from guidance_core.hosts.ltx2 import OUTPUTS, SMALL, Grid, LTX2Denoiser, Sizes, small_inputs, small_transformer
from guidance_core.methods.requests import Branch
from guidance_core.ranks import Ranks
from guidance_core.run import Run
from guidance_core.steps.bound_branch import BoundBranch

RANKS = 2
"Ranks of the timed steps."
COUNTED = (3, 4, 5, 6)
"Ranks of the steps that are only counted."
SIGMA, PHI, STEPS = 0.7, 0.7, 64
TINY = Sizes(2, heads=2, head_dim=16, audio_head_dim=8, channels=8, caption_channels=16, grid=Grid(2, 2, 2, 4))
"For steps that are only counted."
SERIAL, FORWARDS, BASELINE, GATHER, REDUCE = "serial", "forwards", "baseline", "all_gather", "all_reduce"
CONTENDERS = (SERIAL, FORWARDS, BASELINE, GATHER, REDUCE)
WITHOUT_CONTROL = " without control"
LABELS = {
    SERIAL: "serial, one rank",
    FORWARDS: "forwards alone, nothing sent",
    GATHER: "all_gather",
    REDUCE: "all_reduce",
    BASELINE: "the engines' dispatch (baseline)",
}


@attrs.frozen
class Job:
    """What every contender does."""

    title: str
    spec: str
    strengths: Mapping[str, tuple[float, ...]]
    "The same in the baseline's words, by output."
    batch: int = 1
    options: Mapping[str, bool] = attrs.field(factory=dict)
    "Of the distributed executors."


_SPEC = "ltx2:cfg_scale={video: 3, audio: 7},stg_scale=1,rescale_scale=0.7,stg_blocks=1,modality_scale="
FOUR = Job("four branches, one sample", f"{_SPEC}3", {"video": (2.0, 1.0, 2.0), "audio": (6.0, 1.0, 2.0)})
THREE = Job(
    "three branches, two samples, rows shared out",
    f"{_SPEC}1",
    {"video": (2.0, 1.0), "audio": (6.0, 1.0)},
    batch=2,
    options={"split_rows": True, "batched": True},
)


# On every rank.


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
    """The contenders of a job on this rank. A step's number is its argument."""

    def __init__(self, group: dist.ProcessGroup, job: Job, sizes: Sizes) -> None:
        self._job = job
        self.model = small_transformer(sizes)
        self.model.register_forward_hook(self._forwarded)
        self.inputs = small_inputs(sizes, batch=job.batch)
        self.forwards = self.rows = 0
        guidance = Guidance.from_spec(job.spec)
        self._executors: dict[str, Executor] = {
            SERIAL: SerialExecutor(),
            GATHER: AllGatherExecutor(group, **job.options),
            REDUCE: AllReduceExecutor(group, **job.options),
        }
        self._runs = {name: start(guidance, self.inputs.conditions, each) for name, each in self._executors.items()}
        plan = self._runs[SERIAL].plan(0, self.inputs.sample)
        self._baseline = RoundRobin(group, plan.branches, job.strengths, PHI)
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

    def step(self, name: str, number: int) -> Sequence[Tensor]:
        """Make one step and return its result."""
        denoise = LTX2Denoiser(self.model, self.inputs.sample, SIGMA, self.inputs.grid)
        if name == FORWARDS:
            self._together(denoise, self._own)
            return ()
        if name == BASELINE:
            return self._baseline.step(self.inputs.sample, SIGMA, denoise)
        result: tuple[Tensor, ...] = self._runs[name].step(number % STEPS, self.inputs.sample, denoise)
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
            sent = (self._baseline.collectives, self._baseline.bytes, 0, 0.0) if name == BASELINE else (0, 0, 0, 0.0)
        return Spent(self.forwards, self.rows, *sent, time.process_time())


def start(guidance: Guidance, conditions: Mapping[str, Any], executor: Executor) -> Run:
    """Start a run of many equal steps."""
    sigmas = [SIGMA] * (STEPS + 1)
    return guidance.start(
        conditions=conditions, sigmas=sigmas, prediction_type="flow", outputs=OUTPUTS, executor=executor
    )


def observe(group: dist.ProcessGroup, job: Job, sizes: Sizes, rounds: int, warmup: int) -> dict[str, Seen]:
    """Make the steps of every contender in turn, another one first in each round."""
    with torch.inference_mode():
        contenders = Contenders(group, job, sizes)
        names = CONTENDERS
        seconds: dict[str, list[float]] = {name: [] for name in names}
        spent: dict[str, list[Spent]] = {name: [] for name in names}
        first: dict[str, Sequence[Tensor]] = {}
        for number in range(warmup + rounds):
            turn = number % len(names)
            for name in (*names[turn:], *names[:turn]):
                takes_part = _takes_part(group, name)
                dist.barrier(group)
                before, begun = contenders.spent(name), time.perf_counter()
                result = contenders.step(name, number) if takes_part else ()
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
            _bits(first[name]),
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
        GATHER: AllGatherExecutor(group),
        GATHER + WITHOUT_CONTROL: AllGatherExecutor(group, control=False),
        REDUCE: AllReduceExecutor(group),
        REDUCE + WITHOUT_CONTROL: AllReduceExecutor(group, control=False),
    }
    with torch.inference_mode():
        runs = {name: start(guidance, inputs.conditions, executor) for name, executor in executors.items()}
        branches = runs[SERIAL].plan(0, inputs.sample).branches
        known = {branch.name: small_inputs(sizes, batch=job.batch, seed=i).sample for i, branch in enumerate(branches)}
        baseline = RoundRobin(group, branches, job.strengths, PHI)

        def denoise(branch: BoundBranch) -> Any:
            return known[branch.name]

        def step(name: str, number: int) -> None:
            if name == BASELINE:
                baseline.step(inputs.sample, SIGMA, denoise)
            else:
                runs[name].step(number % STEPS, inputs.sample, denoise)

        seconds: dict[str, list[float]] = {name: [] for name in (SERIAL, BASELINE, *list(executors)[1:])}
        for number in range(rounds):
            for name, times in seconds.items():
                dist.barrier(group)
                begun = time.perf_counter()
                step(name, number)
                times.append(time.perf_counter() - begun)
        dist.barrier(group)
    return seconds


def _difference(after: Spent, before: Spent) -> Spent:
    pairs = zip(attrs.astuple(after), attrs.astuple(before), strict=True)
    return Spent(*(one - other for one, other in pairs))


def _takes_part(group: dist.ProcessGroup, name: str) -> bool:
    return name != SERIAL or group.rank() == 0


def _bits(result: Sequence[Tensor]) -> str:
    parts = (tensor.contiguous().view(torch.uint8).numpy().tobytes() for tensor in result)
    return hashlib.sha256(b"".join(parts)).hexdigest() if result else ""


# What the ranks saw together.


@attrs.frozen
class Line:
    """One contender of a job."""

    dispatch: str
    ranks: int
    forwards: tuple[int, ...]
    "Per step, by rank, those whose result is thrown away included."
    rows: tuple[int, ...]
    "Samples in these forwards."
    payload_collectives: int
    "Per step."
    payload_bytes: int
    "Per step, what each rank hands to collectives."
    control_exchanges: int
    equal_to_serial: bool | None
    "Whether every rank has the serial result, bit for bit; None where there is no result."
    same_on_all_ranks: bool | None
    largest_difference_to_serial: float


@attrs.frozen
class TimedLine(Line):
    """One contender of a job, timed."""

    median_ms: float
    quartiles_ms: tuple[float, float]
    fastest_ms: float
    "What others on the machine do only adds time, so this one was disturbed least."
    speedup: float
    "Median of the serial step over this one's."
    efficiency: float
    "Speedup over ranks."
    control_ms: float
    "Median time in control exchanges, on the rank that waited least."
    control_share: float
    "Of the median step."
    cpu_ms: float
    "Median processor time of the busiest rank: on a machine that others use too, steadier than the step."
    times_ms: tuple[float, ...]


@attrs.frozen
class Outcome:
    """One job's contenders."""

    job: str
    lines: tuple[Line, ...]
    rounds: int = 0
    "0 where nothing was timed."

    def of(self, dispatch: str) -> Any:
        """Return the line of one contender."""
        return next(line for line in self.lines if line.dispatch == dispatch)


@attrs.frozen
class Target:
    """Something to reach, and what was measured."""

    what: str
    wanted: str
    measured: float
    reached: bool


@attrs.frozen
class Overhead:
    """What a dispatch costs beside the forwards: a step's time where these return at once."""

    medians_ms: Mapping[str, float]
    control_cost_ms: float
    "What control exchanges add to an all-gather step."
    control_share: float
    "Of the median all-gather step with the model's forwards."


@attrs.frozen
class ParallelReport:
    """Everything measured. `str()` gives text, `to_dict()` plain data."""

    torch: str
    load: float
    "Processes that ran on the machine on average in the minute before."
    tokens: tuple[int, int]
    timed: tuple[Outcome, ...]
    overhead: Overhead
    counted: tuple[Outcome, ...]
    targets: tuple[Target, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        data = attrs.asdict(self)
        head = {"benchmark": "parallel", "torch": data.pop("torch"), "threads": 1, "cores": os.cpu_count()}
        return {**head, **data}

    def __str__(self) -> str:
        """Return the report as text."""
        video, audio = self.tokens
        text = [
            f"parallel: medians, one thread a rank, torch {self.torch}",
            f"on {os.cpu_count()} cores, with a load of {self.load:g} before",
            f"LTX-2's architecture, {video} video and {audio} audio tokens, float32",
        ]
        for outcome in self.timed:
            text.append(f"\n{outcome.job} ({outcome.rounds} rounds, interleaved)")
            columns = f"{'step':>10}  {'quartiles':>16}  fastest  speedup  efficiency  forwards  collectives      bytes"
            columns += "  control  processor"
            text.append(f"  {'':<34}{columns}")
            for line in outcome.lines:
                assert isinstance(line, TimedLine)
                low, high = line.quartiles_ms
                text.append(
                    f"  {LABELS[line.dispatch]:<34}{line.median_ms:>7.1f} ms  {low:>7.1f} to {high:>5.1f}  "
                    f"{line.fastest_ms:>7.1f}  {line.speedup:>7.2f}  {line.efficiency:>10.0%}  "
                    f"{_shown(line.forwards):>8}  {line.payload_collectives:>11}  {line.payload_bytes:>9,}  "
                    f"{line.control_share:>7.2%}  {line.cpu_ms:>6.0f} ms"
                )
        text.append("\nbeside the forwards: the same steps where these return at once")
        for name, median in self.overhead.medians_ms.items():
            text.append(f"  {LABELS.get(name, name):<34}{median:>7.2f} ms")
        text.append(
            f"  control exchanges add {self.overhead.control_cost_ms:.2f} ms, "
            f"{self.overhead.control_share:.2%} of an all_gather step with forwards"
        )
        text.append("\ncounted, on more ranks than there may be cores (a tiny model, nothing timed)")
        job = ""
        for outcome in self.counted:
            if outcome.job != job:
                job = outcome.job
                text.append(f"  {job:<36}ranks  {'forwards by rank':<18}{'rows by rank':<18}collectives  bytes")
            for line in outcome.lines:
                text.append(
                    f"    {LABELS[line.dispatch]:<34}{line.ranks:>5}  {_shown(line.forwards):<18}"
                    f"{_shown(line.rows):<18}{line.payload_collectives:>11}  {line.payload_bytes:>5}"
                )
        text.append("\ntargets")
        for target in self.targets:
            reached = "reached" if target.reached else "NOT reached"
            text.append(f"  {target.what:<64}{target.wanted:>8}: {target.measured:<6g} {reached}")
        return "\n".join(text)


def measure(
    rounds: int,
    *,
    sizes: Sizes = SMALL,
    warmup: int = 2,
    overhead_rounds: int = 200,
    counted: Sequence[int] = COUNTED,
) -> ParallelReport:
    """Time on two ranks and count on more.

    Raises:
        ConfigurationError: diffusers is not installed.
        RankError: a rank failed or died.
    """
    small_transformer(TINY)  # says what is missing before anything starts
    load = round(os.getloadavg()[0], 2)
    imports = ["diffusers.models.transformers.transformer_ltx2"]
    with Ranks(max((RANKS, *counted)), imports=imports) as ranks:
        timed = tuple(
            _timed(job, rounds, ranks.run(observe, job, sizes, rounds, warmup, ranks=RANKS)) for job in (FOUR, THREE)
        )
        overhead = _overhead(ranks.run(observe_overhead, FOUR, sizes, overhead_rounds, ranks=RANKS), timed[0])
        more = tuple(
            Outcome(
                job.title,
                tuple(_line(name, seen) for name, seen in _by_contender(found) if name not in (SERIAL, FORWARDS)),
            )
            for job in (FOUR, THREE)
            for count in counted
            for found in [ranks.run(observe, job, TINY, 1, 0, ranks=count)]
        )
    return ParallelReport(torch.__version__, load, sizes.grid.tokens, timed, overhead, more, _targets(timed, more))


def _by_contender(found: Sequence[Mapping[str, Seen]]) -> list[tuple[str, list[tuple[Seen, str]]]]:
    """Return each contender with what every rank saw of it, beside the bits of the serial result."""
    expected = found[0][SERIAL].bits
    return [(name, [(rank[name], expected) for rank in found]) for name in found[0]]


def _line(name: str, seen: Sequence[tuple[Seen, str]]) -> Line:
    ranks = [each for each, _ in seen]
    taking_part = [each for each in ranks if each.took_part]
    bits = {each.bits for each in taking_part}
    return Line(
        dispatch=name,
        ranks=len(taking_part),
        forwards=tuple(_each_step(each, "forwards") for each in taking_part),
        rows=tuple(_each_step(each, "rows") for each in taking_part),
        payload_collectives=_on_each(taking_part, "collectives"),
        payload_bytes=_on_each(taking_part, "bytes"),
        control_exchanges=_on_each(taking_part, "exchanges"),
        equal_to_serial=bits == {seen[0][1]} if any(bits) else None,
        same_on_all_ranks=len(bits) == 1 if any(bits) else None,
        largest_difference_to_serial=ranks[0].difference,
    )


def _each_step(seen: Seen, what: str) -> int:
    """Return a count that is the same in all steps."""
    (count,) = {getattr(spent, what) for spent in seen.spent}
    return int(count)


def _on_each(ranks: Sequence[Seen], what: str) -> int:
    """Return a count that is the same on all ranks."""
    (count,) = {_each_step(each, what) for each in ranks}
    return count


def _timed(job: Job, rounds: int, found: Sequence[Mapping[str, Seen]]) -> Outcome:
    serial: float | None = None
    lines = []
    for name, seen in _by_contender(found):
        line = _line(name, seen)
        ranks = [each for each, _ in seen if each.took_part]
        times = [max(each) * 1e3 for each in zip(*(rank.seconds for rank in ranks), strict=True)]
        spent = list(zip(*(rank.spent for rank in ranks), strict=True))
        control = [min(step.control for step in steps) * 1e3 for steps in spent]
        cpu = [max(step.cpu for step in steps) * 1e3 for steps in spent]
        median = statistics.median(times)
        serial = median if serial is None else serial  # it comes first
        low, _, high = statistics.quantiles(times, n=4)
        lines.append(
            TimedLine(
                **attrs.asdict(line, recurse=False),
                median_ms=round(median, 3),
                quartiles_ms=(round(low, 3), round(high, 3)),
                fastest_ms=round(min(times), 3),
                speedup=round(serial / median, 3),
                efficiency=round(serial / median / line.ranks, 3),
                control_ms=round(statistics.median(control), 3),
                control_share=round(statistics.median(control) / median, 5),
                cpu_ms=round(statistics.median(cpu), 3),
                times_ms=tuple(round(each, 3) for each in times),
            )
        )
    return Outcome(job.title, tuple(lines), rounds)


def _overhead(found: Sequence[Mapping[str, Sequence[float]]], timed: Outcome) -> Overhead:
    medians = {
        name: round(statistics.median(map(max, zip(*(rank[name] for rank in found), strict=True))) * 1e3, 3)
        for name in found[0]
    }
    cost = medians[GATHER] - medians[GATHER + WITHOUT_CONTROL]
    return Overhead(medians, round(cost, 3), round(cost / timed.of(GATHER).median_ms, 5))


def _targets(timed: Sequence[Outcome], counted: Sequence[Outcome]) -> tuple[Target, ...]:
    four, three = timed
    targets = []

    def at_least(what: str, wanted: float, measured: float) -> None:
        targets.append(Target(what, f">= {wanted:g}", round(measured, 3), measured >= wanted))

    def exactly(what: str, wanted: int, measured: int) -> None:
        targets.append(Target(what, f"= {wanted}", measured, measured == wanted))

    for name in (GATHER, REDUCE):
        at_least(f"{name}: speedup on {RANKS} ranks over serial", 1.9, four.of(name).speedup)
    for name in (GATHER, REDUCE):
        ratio = four.of(BASELINE).median_ms / four.of(name).median_ms
        at_least(f"{name}: speedup over the baseline on {RANKS} ranks", 1.0, ratio)
    for name in (GATHER, REDUCE):
        ratio = three.of(BASELINE).median_ms / three.of(name).median_ms
        at_least(f"{name}: speedup over the baseline, 3 branches of 2 samples", 1.25, ratio)
    for name, wanted in ((GATHER, 1), (REDUCE, 1), (BASELINE, 4)):
        exactly(f"{name}: payload collectives a step on {RANKS} ranks", wanted, four.of(name).payload_collectives)
    for outcome in counted:
        if outcome.job == FOUR.title and outcome.lines[0].ranks == 5:
            for name, wanted in ((GATHER, 0), (REDUCE, 0), (BASELINE, 1)):
                spare = sum(outcome.of(name).forwards) - 4
                exactly(f"{name}: forwards on 5 ranks whose result is thrown away", wanted, spare)
    return tuple(targets)


def _shown(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))
