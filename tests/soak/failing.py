"""The second search: steps on ranks, in which one of them fails; then the same step again, which must be right."""

from __future__ import annotations

import time
import traceback
from random import Random
from typing import Any

import attrs
import torch

from guidance_core import GuidanceError
from soak.examples import STEPS, Example, Move, drawn
from soak.faults import AT_START, FAULTS, IN_STEP, Breaks, BreaksInCombine, Trap, failing_executors, spoiling
from soak.host import CONDITIONS, Host, HostError, by_name, structured
from soak.plants import planted
from soak.player import Outcome, Player, Track

MOVES = {"next": 12, "again": 1, "by sigma": 1, "fork": 1, "select": 1}
"By kind of move, how often it is drawn. Most steps follow one another, as ranks announce them."
LENGTH = 10


@attrs.frozen
class Event:
    """How this rank fared when one of them was to fail."""

    fault: str
    victim: int
    announced: bool
    "Whether it was a step that all ranks had announced."
    error: str
    "Name of what was raised; empty where nothing was."
    text: str
    forward: float
    "When this rank's last forward ended."
    raised: float
    "When the error was raised here."


@attrs.define
class Found:
    """What one rank saw of an example."""

    number: int
    steps: int = 0
    events: list[Event] = attrs.field(factory=list)
    outcomes: list[str] = attrs.field(factory=list)
    wrong: str = ""
    "What is not as it should be, first."
    trace: str = ""
    "Where it was raised."


def search(group: Any, seed: int, number: int, plant: str = "") -> Found:
    """Play an example in which something fails."""
    with planted(plant, group.rank()):
        return Play(group, seed, number).played()


class Play:
    """One example of the search on this rank."""

    def __init__(self, group: Any, seed: int, number: int) -> None:
        """Draw the example, and what goes wrong in it."""
        self.group, self.found = group, Found(number)
        chosen = Random(f"{seed} what fails {number}")
        self.victim = chosen.randrange(group.size())
        self.here = group.rank() == self.victim
        self.trap = Trap()
        self.at_start = chosen.choice(AT_START) if chosen.random() < 0.2 else ""
        example = drawn(seed, number, "faults")
        kinds = [name for name in IN_STEP if name != "combine raises" or not example.way.adds_up]
        self.at, self.fault = chosen.randrange(LENGTH), chosen.choice(kinds)
        self.example = self._prepared(chosen, example)

    def _prepared(self, chosen: Random, example: Example) -> Example:
        """Return the example with methods that may fail, settings that show it, and moves of this search."""
        breaks = BreaksInCombine if self.fault == "combine raises" else Breaks
        looks = self.fault in ("build_branches raises", "another branch")
        stacks = []
        for stack in example.stacks:
            place = chosen.randint(0, len(stack))
            stacks.append((*stack[:place], breaks(self.trap, looks), *stack[place:]))
        settings = dict(example.settings)
        if self.fault in ("NaN", "a result that is not finite"):
            settings["check_finite"] = True
        if self.fault == "another sample":
            settings["check_inputs"] = "always"
        elif self.at_start == "another condition":
            settings["check_inputs"] = "first"
        kinds = chosen.choices(list(MOVES), list(MOVES.values()), k=LENGTH)
        kinds[self.at] = "next"
        moves = tuple(Move(kind, chosen.randrange(2), chosen.randrange(2**31)) for kind in kinds)
        return attrs.evolve(example, stacks=tuple(stacks), moves=moves, settings=settings)

    def played(self) -> Found:
        """Play it, and note what each rank must see alike."""
        example, found, where = self.example, self.found, "the start"
        try:
            serial = Player(example, "serial")
            executor = example.way.make(self.group, failing_executors(self.trap))
            if self.at_start:
                self._fails_at_start(executor)
            other = Player(example, executor, in_halves=example.way.in_halves)
            for at, move in enumerate(example.moves):
                where = f"move {at} ({move.kind})"
                given = None
                if at == self.at:
                    where += f", in which {self.fault!r} on rank {self.victim},"
                    given = self._fails(other, at, move, self.fault)
                if given is None:
                    given = other.play(at, move)
                expected = serial.play(at, move)
                found.steps += given.result is not None
                found.outcomes.append(given.digest)
                if not self._agree(given, expected):
                    found.wrong = found.wrong or f"{where} differs from serial"
        except Exception as error:
            found.wrong, found.trace = f"{where} raised {type(error).__name__}: {error}", traceback.format_exc()
        return found

    def _agree(self, given: Outcome, expected: Outcome) -> bool:
        """Whether two outcomes are equal; of all-reduce about equal, since the other search looks at its bound."""
        if not self.example.way.adds_up or given.result is None or expected.result is None:
            return given.digest == expected.digest
        tolerance = 2.0**-5 if torch.finfo(self.example.predicted).bits == 16 else 2.0**-12
        for name, one in expected.result.items():
            allowed = tolerance * (1 + one.double().abs().max())
            if not float((given.result[name].double() - one.double()).abs().max()) <= allowed:
                return False
        return True

    def _fails(self, other: Player, at: int, move: Move, fault: str) -> Outcome | None:
        """Make a move in which the victim does something wrong; return what it gave if nothing came of that."""
        track = other.track(move)
        announced = other.executor._shared.announced is not None
        index, levels = other.place(track, move)
        host, x = other.host(at, track), other.sample(at, track)
        act = lambda: other.step(track, index, x, host, levels)
        if FAULTS[fault].phase == "between":
            act = lambda: self._between(track.run, index, x, host, fault if self.here else "")
        elif self.here:
            act = self._turned(other, track, index, x, host, fault) or act
        if self.here:
            self.trap.fault, host.spoilt = fault, spoiling(self.trap, x)
        result = self._watched(act, fault, host, announced=announced)
        if result is None:
            return None
        track.last = index
        return Outcome(by_name(self.example, result))

    def _watched(self, act: Any, fault: str, host: Host | None, *, announced: bool = False) -> Any:
        """Call `act`, and note what came of it; return its result, None where it raised."""
        begun, result, error = time.monotonic(), None, None
        try:
            result = act()
        except (GuidanceError, HostError, KeyboardInterrupt) as raised:
            error = raised
        finally:
            self.trap.fault = ""
        forward = begun if host is None else max(begun, host.ended)
        name = "" if error is None else type(error).__name__
        event = Event(fault, self.victim, announced, name, str(error or ""), forward, time.monotonic())
        self.found.events.append(event)
        self.found.steps += error is not None
        return result

    def _between(self, run: Any, index: int, x: Any, host: Host, fault: str) -> Any:
        """Make a step in halves, with a host that fails in the middle."""
        with run.plan(index, x) as plan:
            made = {branch.name: host(branch) for branch in plan.own_branches}
            match fault:
                case "the host raises":
                    raise HostError("out of memory")
                case "the host is interrupted":
                    raise KeyboardInterrupt
                case "the host abandons":
                    plan.abandon(HostError("given up"))
                case "the host never finishes":
                    return None
            return plan.finish(made)

    def _turned(self, other: Player, track: Track, index: int, x: Any, host: Host, fault: str) -> Any:
        """Return what the victim does instead of the step, if that is something else."""
        run = track.run
        match fault:
            case "a sigma that cannot be":
                return lambda: run.step(index, x, host, sigma=-1.0)
            case "another sample":
                changed = {name: tensor + 1 for name, tensor in by_name(self.example, x).items()}
                return lambda: run.step(index, structured(self.example, changed), host)
            case "another sample shape":
                changed = {name: torch.cat([each, each]) for name, each in by_name(self.example, x).items()}
                return lambda: run.step(index, structured(self.example, changed), host)
            case "another step":
                elsewhere = index + 1 if index + 1 < STEPS else index - 1
                return lambda: run.step(elsewhere, x, host)
            case "another run":
                others = [each for each in other.tracks if each is not track]
                if not others:
                    return lambda: other.started(self.example.stacks[0])
                turned = others[0]
                to = min(turned.last + 1, STEPS - 1)
                return lambda: turned.run.step(to, other.sample(0, turned), other.host(0, turned))
            case "a new run":
                return lambda: other.started(self.example.stacks[0])
        return None

    def _fails_at_start(self, executor: Any) -> None:
        """Start runs that differ on the victim, and make a step, which shows the rest."""
        fault, example = self.at_start, self.example
        stack, changed = example.stacks[0], {}
        if self.here and fault == "another parameter":
            stack = (*stack, Breaks(self.trap))
        if self.here and fault == "another condition":
            changed = {"conditions": {name: {"text": torch.zeros(example.rows, 3, 4)} for name in CONDITIONS}}
        if self.here and fault == "a hook raises at the start":
            self.trap.fault = fault

        def act() -> Any:
            player = Player(attrs.evolve(example, stacks=()), executor)
            runs = [player.started(stack, **changed) for _ in range(2 if fault == "another order of runs" else 1)]
            track = Track(runs[-1] if self.here else runs[0], example.rows)
            return player.step(track, 0, player.sample(0, track), player.host(0, track), {})

        self._watched(act, fault, None)
