"""Which checks fail for which mistake, as a page of the documentation."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from guidance_core.conformance import Options, all_checks, runner
from guidance_core.conformance import shared_ranks as shared
from guidance_core.conformance.outcome import FAILED
from guidance_core.conformance.runner import run_check
from zoo.everything import ZOO

PAGE = Path(__file__).parents[2] / "docs" / "conformance-matrix.md"
PATIENCE = 10.0
"Seconds that ranks wait for each other: longer than an error may take, shorter than usual."

EXAMPLES, SEED = 10, 0
"Half as many examples as usual, always the same."

HEADER = """# What the conformance checks find

A check is worth what it finds. These are {entries} broken plugins and executors, each with one mistake that an
author could make and otherwise sound, with the check that is meant for the mistake and the checks that fail besides.
Every check of the suite is meant for at least one of them. The classes are in `tests/zoo`; the sound methods from which
the plugins differ in that one thing are in `tests/zoo/sound.py`, and pass every check.

Printed by

    cd tests && python -m zoo

and written here with `--write`.
"""


def be_quick() -> None:
    """Make no failing example simpler, and have ranks that wait for nobody give up soon."""
    runner.SIMPLIFYING = 0.0
    shared.TIMEOUT = PATIENCE


def failing(number: int) -> list[str]:
    """Return the names of all checks that fail for one entry."""
    be_quick()
    entry = ZOO[number]
    with entry.installed():
        subject = entry.subject
        options = Options(max_examples=EXAMPLES, seed=SEED, replay=False)
        outcomes = [run_check(check, subject, options) for check in all_checks(subject.kind)]
    return [outcome.check.name for outcome in outcomes if outcome.status == FAILED]


def matrix(processes: int = 2) -> list[list[str]]:
    """Return the failing checks of every entry."""
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(failing, range(len(ZOO))))


def page(found: list[list[str]]) -> str:
    """Return the page as Markdown."""
    lines = [HEADER.format(entries=len(ZOO))]
    for title, kind in (("Plugins", "plugin"), ("Executors", "executor")):
        lines += [f"## {title}", "", "| name | mistake | found by | and by |", "|---|---|---|---|"]
        for entry, names in zip(ZOO, found, strict=True):
            if entry.kind == kind:
                others = ", ".join(f"`{name}`" for name in names if name != entry.caught_by) or "–"
                lines.append(f"| {entry.cls.__name__} | {entry.mistake} | `{entry.caught_by}` | {others} |")
        lines.append("")
    return "\n".join(lines)


def listed(text: str) -> list[tuple[str, str, str]]:
    """Return the name, the mistake and the check meant for it of every row of a page."""
    rows = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [(name.strip(), mistake, check.strip("`")) for name, mistake, check, _ in rows if name.strip() != "name"]
