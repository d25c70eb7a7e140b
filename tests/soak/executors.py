"""The first search: an example played serially and in another way, on every rank."""

from __future__ import annotations

import traceback
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
    "What is not as it should be, first."
    trace: str = ""
    "Where it was raised."


def search(group: Any, seed: int, number: int, plant: str = "") -> Found:
    """Play an example serially and in its way."""
    with planted(plant, group.rank()):
        return _played(group, seed, number)


def _played(group: Any, seed: int, number: int) -> Found:
    example, found = drawn(seed, number, "executors"), Found(number)
    where = "the start"
    try:
        serial = Player(example, "serial")
        other = Player(example, example.way.make(group), in_halves=example.way.in_halves)
        bounds = Bounds(example) if example.way.adds_up else None
        for at, move in enumerate(example.moves):
            where = f"move {at} ({move.kind})"
            expected, given = serial.play(at, move), other.play(at, move)
            found.moves.append("refused" if expected.error == "refused" else move.kind)
            found.outcomes.append(given.digest)
            found.steps += given.result is not None
            if bounds is not None:
                found.units = max(found.units, units := bounds.units(at, move, given, expected))
                if units > 1:
                    found.wrong = found.wrong or f"{where} is {units:.3g} times as far from serial as all-reduce may be"
            elif given.digest != expected.digest:
                found.wrong = found.wrong or f"{where} differs from serial"
    except Exception as error:
        found.wrong, found.trace = f"{where} raised {type(error).__name__}: {error}", traceback.format_exc()
    return found
