"""What was measured of some stacks: one source for the table in the terminal, the page and JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import attrs
from rich.box import SIMPLE
from rich.table import Table

from guidance_core.models.intervals import Score, difference

PLACES = 4
"Decimals in JSON."
UNGUIDED = "no guidance"
"What stands for the empty stack."


@attrs.frozen
class Row:
    """One stack, and what was found of it."""

    spec: str
    passes_per_step: float
    seconds: float
    scores: Mapping[str, Score]
    trace: Any = None
    "What each step did, where that was asked for."

    @property
    def name(self) -> str:
        """The stack, as people read it."""
        return self.spec or UNGUIDED

    def as_data(self, first: Row | None) -> dict[str, Any]:
        """Return the row for JSON, with how it differs from the first one, unless it is that."""
        base = None if first is None or first is self else first.scores
        return {
            "guidance": self.spec,
            "passes_per_step": self.passes_per_step,
            "seconds": round(self.seconds, 3),
            "scores": as_data(self.scores, base),
            **({} if self.trace is None else {"trace": self.trace.to_dict()["steps"]}),
        }


@attrs.frozen
class Measured:
    """The rows of one command, which start from the same noise, so that they can be compared in pairs."""

    rows: Sequence[Row]
    headings: Mapping[str, str]
    "Of the scores that are shown, in order, by their names in JSON."
    shares: frozenset[str]
    "The scores that are shown in percent."
    explained: str
    "What the scores are."
    beside: Mapping[str, Mapping[str, Score]] = attrs.field(factory=dict)
    "Scores of the data and the like, which no stack made, by a name."

    def as_data(self) -> list[dict[str, Any]]:
        """Return the rows for JSON."""
        return [row.as_data(self.rows[0]) for row in self.rows]

    def table(self) -> Table:
        """Return a table for the terminal: a line for each score and row, so that rows stand below one another."""
        table = Table("", "row", "measured", *self._compared("minus row 1"), box=SIMPLE, pad_edge=False)
        for heading, lines in self._groups():
            for number, line in enumerate(lines):
                table.add_row("" if number else heading, *line)
        return table

    def lines(self) -> str:
        """Return the same for a terminal that is too narrow for the table."""
        found = []
        for heading, lines in self._groups():
            found.append(heading)
            for row, value, *apart in lines:
                found.append(f"  {row}: {value}")
                found += [f"     minus row 1: {each}" for each in apart if each]
        return "\n".join(found)

    def html(self) -> str:
        """Return the same table for a page."""
        heads = "".join(f"<th>{escape(name)}</th>" for name in ("", "row", "measured", *self._compared("minus row 1")))
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in ("" if number else heading, *line)) + "</tr>"
            for heading, lines in self._groups()
            for number, line in enumerate(lines)
        )
        rows = "".join(f"<li><code>{escape(row.name)}</code></li>" for row in self.rows)
        return (
            f'<h2>Measured</h2><ol>{rows}</ol><div class="wide"><table><tr>{heads}</tr>{body}</table></div>'
            f"<p>{escape(self.legend)}</p>"
        )

    @property
    def legend(self) -> str:
        """What the table shows."""
        compared = " " + COMPARED if len(self.rows) > 1 else ""
        return f"In brackets: 95 % intervals.{compared} {self.explained}"

    def _compared(self, *cells: str) -> tuple[str, ...]:
        """Return cells of the column for differences, which one row alone does not have."""
        return cells if len(self.rows) > 1 else ()

    def _groups(self) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
        """Yield what stands in the table, by score."""
        facts = {
            "passes per step": [f"{row.passes_per_step:.2f}" for row in self.rows],
            "seconds": [f"{row.seconds:.2f}" for row in self.rows],
        }
        for name, values in facts.items():
            yield name, [(str(number), each, *self._compared("")) for number, each in enumerate(values, 1)]
        first = self.rows[0].scores
        for name, heading in self.headings.items():
            percent = name in self.shares
            lines = [
                (what, scores[name].written(percent=percent), *self._compared(""))
                for what, scores in self.beside.items()
            ]
            for number, row in enumerate(self.rows, 1):
                apart = "" if number == 1 else difference(row.scores[name], first[name]).written(percent, signed=True)
                lines.append((str(number), row.scores[name].written(percent=percent), *self._compared(apart)))
            yield heading, lines


COMPARED = (
    "Minus row 1: the difference on the same noise; while its interval holds 0, neither row is shown to have more. "
    "For a difference from another row, give that one first; more samples (--per-class) narrow the intervals."
)


def as_data(scores: Mapping[str, Score], first: Mapping[str, Score] | None = None) -> dict[str, Any]:
    """Return scores for JSON, with how they differ from those of the first row; what is unknown is null."""
    found = {}
    for name, score in scores.items():
        found[name] = _as_data(score)
        if first is not None:
            found[name]["minus_row_1"] = _as_data(difference(score, first[name]))
    return found


def _as_data(score: Score) -> dict[str, Any]:
    return {"value": _known(score.value), "interval": [_known(score.low), _known(score.high)]}


def _known(number: float) -> float | None:
    return None if math.isnan(number) else round(number, PLACES)
