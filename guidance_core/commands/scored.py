"""How scores and their intervals are written: in tables and in JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from guidance_core.models.intervals import Score, plainly

PLACES = 4
"Decimals in JSON."


def score_table(scores: Sequence[Mapping[str, Score]], shares: Iterable[str], labels: Iterable[str]) -> Table:
    """Return a table of scores with a row for each stack: values, and below them half the length of their intervals.

    Args:
        scores: of each stack, all with the same names.
        shares: names of those that are shown in percent.
        labels: short names of the stacks.
    """
    table = Table("", *scores[0], box=SIMPLE, pad_edge=False)
    percent = set(shares)
    for label, row in zip(labels, scores, strict=True):
        table.add_row(label, *(_cell(score, percent=name in percent) for name, score in row.items()))
    return table


def _cell(score: Score, *, percent: bool) -> str:
    if not score.is_known:
        return "–"
    value = f"{100 * score.value:.1f} %" if percent else plainly(score.value)
    if not score.has_interval:
        return value
    half = (score.high - score.low) / 2
    return f"{value}\n" + (f"±{100 * half:.1f}" if percent else f"±{plainly(half, 2)}")


def as_data(scores: Mapping[str, Score]) -> dict[str, Any]:
    """Return scores for JSON; what is unknown is null."""

    def known(number: float) -> float | None:
        return None if math.isnan(number) else round(number, PLACES)

    return {
        name: {"value": known(score.value), "interval": [known(score.low), known(score.high)]}
        for name, score in scores.items()
    }
