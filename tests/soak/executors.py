"""The first search: an example played serially and in another way, on every rank."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from soak.bounds import Bounds
from soak.examples import drawn
from soak.plants import planted
from soak.player import Player


@attrs.define
class Found:
    """What one rank saw of an example."""

    number: int
    steps: int = 0
    units: float = 0.0
    "Largest error of all-reduce, in units of what is allowed."
    moves: list[str] = attrs.field(factory=list)
    outcomes: list[str] = attrs.field(factory=list)
    "Equal on all ranks."
    wrong: str = ""
    "What is not as it should be."


def search(group: Any, seed: int, numbers: Sequence[int], notes: str, plant: str = "") -> list[Found]:
    """Play examples; stop at the first that is wrong here."""
    found = []
    with planted(plant, group.rank()):
        for number in numbers:
            Path(notes, str(group.rank())).write_text(str(number))
            found.append(played(group, seed, number))
            if found[-1].wrong:
                break
    return found


def played(group: Any, seed: int, number: int) -> Found:
    """Play an example serially and in its way."""
    example, found = drawn(seed, number, "executors"), Found(number)
    where = "the start"
    try:
        serial = Player(example, "serial")
        other = Player(example, example.way.make(group), in_halves=example.way.in_halves)
        bounds = Bounds(example) if example.way.adds_up else None
        for at, move in enumerate(example.moves):
            where = f"move {at} ({move.kind})"
            expected, given = serial.play(at, move), other.play(at, move)
            found.moves.append(move.kind + (", refused" if expected.error == "refused" else ""))
            found.outcomes.append(given.digest)
            found.steps += given.result is not None
            if bounds is not None:
                found.units = max(found.units, units := bounds.units(at, move, given, expected))
                if units > 1:
                    found.wrong = f"{where}: the error is {units:.3g} times what all-reduce allows"
                    break
            elif given.digest != expected.digest:
                found.wrong = f"{where} differs from serial: {given.digest} instead of {expected.digest}"
                break
    except Exception:
        found.wrong = f"{where} raised\n{traceback.format_exc()}"
    return found
