"""What the ranks saw, put together."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import attrs

from guidance_core.bench.parallel.jobs import GATHER, SERIAL, WITHOUT_CONTROL, Job
from guidance_core.bench.parallel.on_ranks import Seen
from guidance_core.bench.parallel.report import Line, Outcome, Overhead, TimedLine


def by_contender(found: Sequence[Mapping[str, Seen]]) -> list[tuple[str, list[tuple[Seen, str]]]]:
    """Return each contender with what every rank saw of it, beside the bits of the serial result."""
    expected = found[0][SERIAL].bits
    return [(name, [(rank[name], expected) for rank in found]) for name in found[0]]


def line_of(name: str, seen: Sequence[tuple[Seen, str]]) -> Line:
    """Return what the ranks saw of one contender, each with the bits of the serial result."""
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


def timed_outcome(job: Job, rounds: int, found: Sequence[Mapping[str, Seen]]) -> Outcome:
    """Return one job with its times; a step takes as long as its slowest rank."""
    serial: float | None = None
    lines = []
    for name, seen in by_contender(found):
        line = line_of(name, seen)
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


def overhead_of(found: Sequence[Mapping[str, Sequence[float]]], timed: Outcome) -> Overhead:
    """Return what dispatches cost beside the forwards."""
    medians = {
        name: round(statistics.median(map(max, zip(*(rank[name] for rank in found), strict=True))) * 1e3, 3)
        for name in found[0]
    }
    cost = medians[GATHER] - medians[GATHER + WITHOUT_CONTROL]
    return Overhead(medians, round(cost, 3), round(cost / timed.of(GATHER).median_ms, 5))
