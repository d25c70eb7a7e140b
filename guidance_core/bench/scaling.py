"""The time of a step on several ranks: a formula, beside what ranks with sleeping forwards measure.

With `n` branches on `N` ranks the busiest rank runs `m = ⌈n/N⌉` of them, each in `F` seconds. A step takes `D` beside
its forwards, and every further rank adds `λ`: a small record each way, and a message of the payload. A prediction has
`B` bytes, a sum in float32 `S`, and `W` bytes travel in a second.

    one process  n·F
    all_gather   m·F + D + (N − 1)·(λ + m·B/W)
    all_reduce   m·F + D + (N − 1)·(λ + 2·S/(N·W))

The payload goes round in a ring: `N − 1` messages of what a rank sends, or `2·(N − 1)` of a part of the sum.

Sleeping forwards take no processor, so that more ranks than cores do not slow each other's down; what ranks do beside
the forwards still shares the cores.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from math import ceil
from typing import Any

import attrs
import torch
import torch.distributed as dist
from torch import Tensor

from guidance_core.errors import ConfigurationError, brief
from guidance_core.executors import AllGatherExecutor, AllReduceExecutor, Executor, SerialExecutor
from guidance_core.guidance import Guidance
from guidance_core.ranks import Ranks
from guidance_core.steps.bound_branch import BoundBranch

MOST_BRANCHES, MOST_RANKS = 16, 32
LEAD = 3
"Untimed steps at the beginning of a run."
SERIAL, GATHER, REDUCE = "serial", "all_gather", "all_reduce"


@attrs.frozen
class Constants:
    """What the formula is given."""

    branches: int
    forward: float
    "Seconds of one forward."
    dispatch: float
    "Seconds that a step takes beside forwards and messages."
    latency: float
    "Seconds that every further rank adds."
    bandwidth: float
    "Bytes a second."
    prediction: int
    "Bytes of one prediction."
    sum: int
    "Bytes of a sum in float32."


def step_seconds(executor: str, ranks: int, given: Constants) -> float:
    """Return what a step takes by the formula, in seconds."""
    if executor == SERIAL or ranks == 1:
        return given.branches * given.forward
    most = ceil(given.branches / ranks)
    sent = most * given.prediction if executor == GATHER else 2 * given.sum / ranks
    return most * given.forward + given.dispatch + (ranks - 1) * (given.latency + sent / given.bandwidth)


@attrs.frozen
class Line:
    """One number of ranks."""

    ranks: int
    most: int
    "Passes of the busiest rank."
    predicted_ms: dict[str, float]
    measured_ms: dict[str, float]
    "Medians, by executor."


@attrs.frozen
class ScalingReport:
    """The formula beside what was measured. `str()` gives text, `to_dict()` plain data."""

    torch: str
    load: float
    rounds: int
    constants: Constants
    given: tuple[str, ...]
    "The constants that were supplied; the others were measured, in steps whose forwards return at once."
    lines: tuple[Line, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        data = attrs.asdict(self)
        head = {"benchmark": "scaling", "torch": data.pop("torch"), "threads": 1, "cores": os.cpu_count()}
        return {**head, **data}

    def __str__(self) -> str:
        """Return the report as text."""
        held = self.constants
        text = [
            f"scaling: {held.branches} branches, medians of {self.rounds} steps, one thread a rank, torch {self.torch}",
            f"on {os.cpu_count()} cores, with a load of {self.load:g} before; forwards sleep {held.forward * 1e3:g} ms",
            f"dispatch {held.dispatch * 1e3:.2f} ms, latency {held.latency * 1e3:.2f} ms, "
            f"bandwidth {held.bandwidth / 1e9:.2f} GB/s (supplied: {', '.join(self.given) or 'none'})",
            f"a prediction has {held.prediction:,} bytes, a sum {held.sum:,}",
            "",
            f"  ranks  passes of the busiest  {'all_gather: formula':>20}  measured  speedup"
            f"  {'all_reduce: formula':>20}  measured  speedup",
        ]
        one = self.lines[0].measured_ms[SERIAL]
        for line in self.lines:
            cells = f"  {line.ranks:>5}  {line.most:>21}"
            for name in (GATHER, REDUCE):
                which = SERIAL if line.ranks == 1 else name
                measured = line.measured_ms[which]
                cells += f"  {line.predicted_ms[which]:>17.2f} ms  {measured:>5.2f} ms  {one / measured:>7.2f}"
            text.append(cells)
        return "\n".join(text)


class _Sleeping:
    """A denoiser whose forwards take time and no processor."""

    def __init__(self, seconds: float, made: dict[str, Tensor]) -> None:
        self._seconds = seconds
        self._made = made

    def __call__(self, branch: BoundBranch) -> Tensor:
        """Return the branch's prediction after a while."""
        if self._seconds:
            time.sleep(self._seconds)
        return self._made[branch.name]


def _guidance(branches: int) -> Guidance:
    others = [{"plugin": "stg", "branch": f"b{number}", "blocks": [number]} for number in range(1, branches)]
    return Guidance.from_dict({"guidance": others})


def observe(
    group: dist.ProcessGroup, branches: int, forward: float, elements: int, rounds: int
) -> dict[str, list[float]]:
    """Make steps with every executor; return the seconds of each on this rank."""
    sample = torch.zeros(1, elements)
    names = ["cond", *(f"b{number}" for number in range(1, branches))]
    denoise = _Sleeping(forward, {name: torch.full((1, elements), float(i)) for i, name in enumerate(names)})
    executors: dict[str, Executor] = {SERIAL: SerialExecutor()}
    if group.size() > 1:
        executors = {GATHER: AllGatherExecutor(group), REDUCE: AllReduceExecutor(group)}
    sigmas = [1 - i / (rounds + LEAD) for i in range(rounds + LEAD + 1)]
    seconds: dict[str, list[float]] = {}
    with torch.inference_mode():
        for name, executor in executors.items():
            run = _guidance(branches).start(
                conditions={"positive": {}}, sigmas=sigmas, prediction_type="flow", executor=executor
            )
            for index in range(rounds + LEAD):
                dist.barrier(group)
                begun = time.perf_counter()
                run.step(index, sample, denoise)
                if index >= LEAD:
                    seconds.setdefault(name, []).append(time.perf_counter() - begun)
    return seconds


def observe_bandwidth(group: dist.ProcessGroup, large: int, rounds: int) -> float:
    """Send small and large messages to and fro between two ranks; return bytes a second."""
    taken = []
    for size in (1024, large):
        message, each = torch.zeros(size, dtype=torch.uint8), []
        for _ in range(rounds):
            dist.barrier(group)
            begun = time.perf_counter()
            for source in range(2):
                dist.broadcast(message, source, group=group)
            each.append((time.perf_counter() - begun) / 2)
        taken.append(statistics.median(each))
    small, big = taken
    return large / max(big - small, 0.1 * big)


def measure(
    *,
    branches: int = 4,
    forward: float = 0.05,
    elements: int = 65536,
    ranks: int = 6,
    dispatch: float | None = None,
    latency: float | None = None,
    bandwidth: float | None = None,
    rounds: int = 15,
) -> ScalingReport:
    """Time steps on 1 to `ranks` ranks, beside the formula.

    Args:
        branches: of a step.
        forward: seconds of one forward, which sleeps.
        elements: of a prediction, float32.
        ranks: up to how many.
        dispatch: seconds of a step beside forwards and messages; measured if not given.
        latency: seconds that every further rank adds; measured if not given.
        bandwidth: bytes a second; measured if not given.
        rounds: steps to time of each.

    Raises:
        ConfigurationError: a number is out of range.
        RankError: a rank failed or died.
    """
    for name, value, low, high in (
        ("branches", branches, 2, MOST_BRANCHES),
        ("ranks", ranks, 3, MOST_RANKS),
        ("forward", forward, 0, 60),
        ("elements", elements, 1, 2**28),
        ("dispatch", dispatch, 0, 60),
        ("latency", latency, 0, 60),
        ("bandwidth", bandwidth, 1, 1e15),
    ):
        if value is not None and not low <= value <= high:
            raise ConfigurationError(f"{name} must lie between {low:g} and {high:g}; got {brief(value)}.")
    given = {"dispatch": dispatch, "latency": latency, "bandwidth": bandwidth}
    load = round(os.getloadavg()[0], 2)
    with Ranks(ranks) as started:
        wide = started.run(observe_bandwidth, max(4 * elements, 2**24), 10, ranks=2)[0]
        few, many = (
            _median(started.run(observe, branches, 0.0, 1, 3 * rounds, ranks=count), GATHER) for count in (2, ranks)
        )
        found = [
            started.run(observe, branches, forward, elements, rounds, ranks=count) for count in range(1, ranks + 1)
        ]
    each = max(many - few, 0.0) / (ranks - 2)
    constants = Constants(
        branches=branches,
        forward=forward,
        dispatch=max(few - each, 0.0) if dispatch is None else dispatch,
        latency=each if latency is None else latency,
        bandwidth=wide if bandwidth is None else bandwidth,
        prediction=4 * elements,
        sum=4 * elements,
    )
    lines = tuple(_line(count, by_rank, constants) for count, by_rank in enumerate(found, start=1))
    supplied = tuple(name for name, value in given.items() if value is not None)
    return ScalingReport(str(torch.__version__), load, rounds, constants, supplied, lines)


def _median(by_rank: Sequence[dict[str, list[float]]], name: str) -> float:
    """Return the median of the steps, each as long as on its slowest rank."""
    slowest = [max(each) for each in zip(*(rank[name] for rank in by_rank), strict=True)]
    return float(statistics.median(slowest))


def _line(ranks: int, by_rank: Sequence[dict[str, list[float]]], given: Constants) -> Line:
    measured = {name: round(_median(by_rank, name) * 1e3, 3) for name in by_rank[0]}
    predicted = {name: round(step_seconds(name, ranks, given) * 1e3, 3) for name in measured}
    return Line(ranks, ceil(given.branches / ranks), predicted, measured)
