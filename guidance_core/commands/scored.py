"""How scores and their intervals are written: in tables, in pictures' captions and in JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Column, Table

from guidance_core.models.intervals import Score

PLACES = 4
"Decimals in JSON."


def score_table(scores: Iterable[Mapping[str, Score]], shares: Iterable[str], labels: Iterable[str]) -> Table:
    """Return a table of scores with a row for each stack; a share is in percent, an unknown score is a dash."""
    rows, shares = list(scores), set(shares)
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(Column("guidance", overflow="fold"), *names)
    for label, row in zip(labels, rows, strict=True):
        table.add_row(label, *(row[name].written(percent=name in shares).replace(" [", "\n[") for name in names))
    return table


def as_data(scores: Mapping[str, Score]) -> dict[str, Any]:
    """Return scores for JSON; what is unknown is null."""

    def known(number: float) -> float | None:
        return None if number != number else round(number, PLACES)  # nan alone differs from itself

    return {
        name: {"value": known(score.value), "interval": [known(score.low), known(score.high)]}
        for name, score in scores.items()
    }
