"""What was measured, as text and as data."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from guidance_core.bench.hosts.on_ranks import ALL, OURS, OWN, RANKS, SeenHost


@attrs.frozen
class HostRow:
    """One host."""

    host: str
    version: str = ""
    missing: str = ""
    "Why there is nothing else."
    steps: int = 0
    ms: Mapping[str, float] = attrs.field(factory=dict)
    "By contender, milliseconds a step; medians of whole runs."
    fastest_ms: Mapping[str, float] = attrs.field(factory=dict)
    "The same of the fastest run."
    passes: Mapping[str, int] = attrs.field(factory=dict)
    "Samples through the model in a run, by contender; those of all ranks together."
    ratios: Mapping[str, float] = attrs.field(factory=dict)
    "How many times as fast as the host's own guidance with as many threads each contender is; medians over rounds."
    speedup: float | None = None
    "Of two ranks over ours in one process with one thread, by round."
    difference: float | None = None
    "Largest relative difference of our result to the host's own."
    specs: Mapping[str, str] = attrs.field(factory=dict)

    @classmethod
    def nothing(cls, host: str, why: str) -> HostRow:
        """Return the row of a host that cannot be measured."""
        return cls(host, missing=why)

    @classmethod
    def of(cls, ranks: Sequence[SeenHost]) -> HostRow:
        """Return the row of what the ranks saw."""
        here = ranks[0]
        if here.missing:
            return cls.nothing(here.name, here.missing)
        seconds = {name: _slowest([rank.seen[name].seconds for rank in ranks]) for name in here.seen}
        ratios = {
            name: _ratio(seconds[OWN + ALL if name.endswith(ALL) else OWN], taken)
            for name, taken in seconds.items()
            if not name.startswith(OWN)
        }
        return cls(
            here.name,
            here.version,
            steps=here.steps,
            ms={name: _ms(statistics.median(taken), here.steps) for name, taken in seconds.items()},
            fastest_ms={name: _ms(min(taken), here.steps) for name, taken in seconds.items()},
            passes={name: sum(rank.seen[name].rows for rank in ranks) for name in here.seen},
            ratios=ratios,
            speedup=_ratio(seconds[OURS], seconds[RANKS]) if RANKS in seconds else None,
            difference=here.seen[OURS].difference,
            specs=here.specs,
        )


def _slowest(by_rank: Sequence[tuple[float, ...]]) -> list[float]:
    """Return the seconds of each run, those of the slowest rank that took part."""
    return [max(each) for each in zip(*(taken for taken in by_rank if taken), strict=True)]


def _ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """Return how many times as long one takes as another: the median over rounds, whose runs met the same load."""
    return round(statistics.median(a / b for a, b in zip(one, other, strict=True)), 3)


def _ms(seconds: float, steps: int) -> float:
    return round(1e3 * seconds / steps, 3)


@attrs.frozen
class HostsReport:
    """All hosts. `str()` gives text, `to_dict()` plain data."""

    torch: str
    load: float
    "Of the machine before the measurement."
    load_after: float
    rounds: int
    rows: tuple[HostRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        return {"benchmark": "hosts", "cores": os.cpu_count(), **attrs.asdict(self)}

    def __str__(self) -> str:
        """Return the report as text."""
        lines = [
            f"hosts: milliseconds a step, medians of {self.rounds} runs in turn, one thread where nothing is said, "
            f"torch {self.torch}",
            f"on {os.cpu_count()} cores, with a load of {self.load:g} before and {self.load_after:g} after",
        ]
        for row in self.rows:
            lines.append(f"\n{row.host} {row.version}".rstrip() + (f": {row.missing}" if row.missing else ""))
            for name, taken in row.ms.items():
                against = f"   {row.ratios[name]:5.2f} times as fast as own" if name in row.ratios else ""
                lines.append(f"  {name:<18} {taken:9.2f} ms  {row.passes[name]:4d} passes{against}")
            if row.speedup is not None:
                lines.append(f"  2 ranks over one process with one thread: {row.speedup:.2f}")
            if row.difference is not None:
                lines.append(f"  largest difference of the results: {row.difference:.1e}")
        return "\n".join(lines)
