"""Markdown: tables, rows of the tables that other pages hold, and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

ARXIV = re.compile(r"(?<!\[)arXiv:(\d{4}\.\d{4,5})")


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table; a bar inside a cell is escaped."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(each.replace('|', chr(92) + '|') for each in line)} |" for line in lines)


def wrapped(text: str) -> str:
    """Return a block of text whose lines may be broken, as specs may."""
    return f"```{{code-block}} text\n:class: wrapped\n\n{text}\n```"


def between(path: Path, mark: str) -> str:
    """Return what a page holds between `<!-- mark -->` and `<!-- end of mark -->`."""
    return path.read_text(encoding="utf-8").partition(f"<!-- {mark} -->")[2].partition(f"<!-- end of {mark} -->")[0]


def rows(text: str) -> Iterator[list[str]]:
    """Return the cells of each row of the tables in a text, without their headers."""
    for line in text.splitlines():
        if line.startswith("|") and not line.startswith("|---"):
            cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
            yield [each.strip() for each in cells]


def linked(text: str) -> str:
    """Return the text with each arXiv number as a link."""
    return ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


@attrs.frozen
class Told:
    """What the docstring of a method says, taken apart."""

    summary: str
    formulas: str
    "The lines that are indented, which stand for formulas."
    text: str
    "The paragraphs."
    source: str


def told(docstring: str) -> Told:
    """Take apart the docstring of a method."""
    text = inspect.cleandoc(docstring).partition("\n\nArgs:\n")[0]
    summary, *parts = text.split("\n\n")
    formulas = [each for each in parts if each.startswith("    ")]
    source = [each for each in parts if each.startswith("Source: ")]
    rest = [each for each in parts if each not in formulas and each not in source]
    plain = " ".join(" ".join(source).removeprefix("Source: ").split())
    return Told(" ".join(summary.split()), "\n\n".join(formulas), "\n\n".join(rest), plain)
