"""What was measured, as text and as data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from guidance_core.bench.parallel.jobs import LABELS


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
class Saving:
    """Whole runs with a method that saves passes, in one process and on ranks."""

    method: str
    spec: str
    steps: int
    passes: int
    "Of a run."
    forwards: tuple[int, ...]
    "Of a run on ranks, by rank."
    serial_ms: float
    "Median of a run in one process."
    all_gather_ms: float
    "Median of a run on the ranks."
    equal_to_serial: bool
    rounds: int


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
    savings: tuple[Saving, ...]
    "The first is without any."
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
        text += self._shown_savings()
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

    def _shown_savings(self) -> list[str]:
        plain = self.savings[0]
        text = [
            f"\nsaved passes: runs of {plain.steps} steps with four branches ({plain.rounds} rounds, interleaved)",
            f"  {'':<34}passes    serial  all_gather  over plain all_gather  over the same serial  forwards by rank",
        ]
        for each in self.savings:
            over_plain, over_serial = plain.all_gather_ms / each.all_gather_ms, each.serial_ms / each.all_gather_ms
            text.append(
                f"  {each.method:<34}{each.passes:>6}  {each.serial_ms:>5.0f} ms  {each.all_gather_ms:>7.0f} ms  "
                f"{over_plain:>21.2f}  {over_serial:>20.2f}  {_shown(each.forwards):>16}"
            )
        text.append(
            "  An engine that switches the method off on ranks has the first row; one that runs it in one process,"
        )
        text.append("  the column serial.")
        return text


def _shown(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))
