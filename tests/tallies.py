"""What parallel examples showed, for the summary at the end of the tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

tallies: dict[str, list[float]] = {}
"By kind of example: how many, the largest error in units of its bound, and in bf16 ulps."


def tally(what: str, found: Iterable[Any]) -> None:
    """Note one parallel example."""
    kept = tallies.setdefault(what, [0, 0.0, 0.0])
    kept[0] += 1
    for rank in found:
        kept[1] = max(kept[1], rank.in_bounds)
        kept[2] = max(kept[2], rank.ulps)
