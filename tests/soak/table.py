"""How often each feature and each fault occurred."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

LEAST = 0.01
"The share of its kind that every feature and fault must have."


class Table:
    """Counts by kind and name; the names are known before, so that what never occurs is seen."""

    def __init__(self, known: Iterable[tuple[str, str]]) -> None:
        """Begin with nothing of each."""
        self.counts: Counter[tuple[str, str]] = Counter(dict.fromkeys(known, 0))

    def add(self, seen: Iterable[tuple[str, str]]) -> None:
        """Count what was seen."""
        self.counts.update(seen)

    def of(self, kind: str) -> dict[str, int]:
        """Return the counts of a kind, the largest first."""
        named = {name: count for (each, name), count in self.counts.items() if each == kind}
        return dict(sorted(named.items(), key=lambda each: -each[1]))

    def total(self, kind: str) -> int:
        """Return how many of a kind there were."""
        return sum(self.of(kind).values())

    @property
    def kinds(self) -> list[str]:
        """The kinds, in the order in which they came."""
        return list(dict.fromkeys(kind for kind, _ in self.counts))

    @property
    def rare(self) -> list[str]:
        """What has less than its share."""
        return [
            f"{kind} {name!r}: {count} of {self.total(kind)}"
            for kind in self.kinds
            for name, count in self.of(kind).items()
            if count < LEAST * self.total(kind)
        ]

    def __str__(self) -> str:
        width = max((len(name) for _, name in self.counts), default=0)
        lines = []
        for kind in self.kinds:
            total = self.total(kind)
            lines.append(f"{kind} ({total:,})")
            lines += [
                f"    {name:{width}} {count:8,} {count / max(total, 1):6.1%}" for name, count in self.of(kind).items()
            ]
        return "\n".join(lines)
