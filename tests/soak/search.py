"""Plays examples on ranks until there are enough, and checks what all ranks of an example saw together."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import attrs

from guidance_core import GuidanceError
from guidance_core.ranks import Ranks
from soak import executors, failing
from soak.examples import MOVES, OPTIONS, TYPES, drawn
from soak.faults import FAULTS
from soak.table import Table
from soak.usage import TOLERANCE, Usage, of_rank

MOST = 4
"Ranks, the first 2 and 3 of which have groups of their own."
LATE = 1.0
"Seconds after the last forward by which all ranks have raised."
CHUNK = 10
"Examples that are played at once on as many ranks."


class WrongError(Exception):
    """The search found a mistake; says in which example, and how to play it again."""


@attrs.define
class Search:
    """Both searches over one pool of ranks, with what they have seen."""

    pool: Ranks
    seed: int
    plant: str = ""
    table: Table = attrs.field(factory=lambda: Table(_known()))
    examples: int = 0
    steps: int = 0
    faults: int = 0
    units: float = 0.0
    "Largest error of all-reduce, in units of what is allowed."
    latest: float = 0.0
    "Longest time from the last forward to an error on all ranks, in seconds."

    # What to play.

    def executors(self, examples: int) -> None:
        """Play as many examples serially and in another way."""
        for numbers in _chunks(range(examples)):
            for found in self._played("executors", numbers):
                self._check_executors(found)

    def failing(self, steps: int, faults: int) -> list[list[Usage]]:
        """Make steps, some of which fail, until there are enough of both; return what each rank held meanwhile.

        It is looked at after a first part, in the middle, and at the end.
        """
        first, usages = self.steps, []
        marks = [0.1, 0.55, 1.0]
        for numbers in _chunks(count()):
            for found in self._played("faults", numbers):
                self._check_faults(found)
            done = min((self.steps - first) / steps, self.faults / faults)
            while marks and done >= marks[0]:
                marks.pop(0)
                usages.append(self.pool.run(of_rank))
            if not marks:
                return usages
        raise AssertionError

    def only(self, search: str, number: int) -> None:
        """Play one example."""
        for found in self._played(search, [number]):
            {"executors": self._check_executors, "faults": self._check_faults}[search](found)

    def _played(self, search: str, numbers: Sequence[int]) -> Iterator[list[Any]]:
        """Play examples on as many ranks as the first needs; yield what the ranks saw of each."""
        job = {"executors": executors.search, "faults": failing.search}[search]
        ranks = drawn(self.seed, numbers[0], search).ranks
        with tempfile.TemporaryDirectory() as notes:
            try:
                self.pool.start(job, self.seed, numbers, notes, self.plant, ranks=ranks)
                by_rank = self.pool.results(seconds=120 + 10 * len(numbers))
            except GuidanceError as error:
                at = sorted({int(note.read_text()) for note in Path(notes).iterdir()})
                raise self._wrong(search, at[0] if at else numbers[0], f"the ranks broke: {error}") from None
        yield from map(list, zip(*by_rank, strict=False))

    # What to check.

    def _check_executors(self, found: list[executors.Found]) -> None:
        number = found[0].number
        self._check_same("executors", found)
        self.examples += 1
        self.steps += found[0].steps
        self.units = max(self.units, *(each.units for each in found))
        self.table.add(drawn(self.seed, number, "executors").seen)
        self.table.add(("move", move) for move in found[0].moves)

    def _check_faults(self, found: list[failing.Found]) -> None:
        self._check_same("faults", found)
        self.steps += found[0].steps
        for events in zip(*(each.events for each in found), strict=True):
            if any(event.error for event in events):
                self._check_fault(found[0].number, events)
            elif FAULTS[events[0].fault].always:
                raise self._wrong("faults", found[0].number, f"nothing came of {events[0].fault!r}")

    def _check_same(self, search: str, found: Sequence[Any]) -> None:
        """Raise what is wrong on a rank, or between ranks."""
        number = found[0].number
        wrong = [f"rank {rank}: {each.wrong}" for rank, each in enumerate(found) if each.wrong]
        if wrong:
            raise self._wrong(search, number, "\n".join(wrong))
        if any(each.outcomes != found[0].outcomes for each in found):
            raise self._wrong(search, number, "the ranks have different results")

    def _check_fault(self, number: int, events: Sequence[failing.Event]) -> None:
        """Check that all ranks raised one named error, and soon."""
        fault, victim = FAULTS[events[0].fault], events[0].victim
        others = [event for rank, event in enumerate(events) if not (fault.own and rank == victim)]
        said = {f"{event.error}: {event.text}" for event in others}
        shown = f"{events[0].fault!r} on rank {victim}: {'; '.join(sorted(said))}"
        if len(said) > 1 or others[0].error not in fault.raises:
            raise self._wrong("faults", number, f"not one of {', '.join(fault.raises)} on all ranks: {shown}")
        if fault.own and events[victim].error != fault.own:
            raise self._wrong("faults", number, f"rank {victim} raised {events[victim].error}, not {fault.own}")
        if fault.names_rank and f"rank {victim}" not in others[0].text:
            raise self._wrong("faults", number, f"the rank is not named: {shown}")
        late = max(event.raised for event in events) - max(event.forward for event in events)
        self.latest = max(self.latest, late)
        if late > LATE:
            raise self._wrong("faults", number, f"{late:.2f} s after the last forward: {shown}")
        self.faults += 1
        self.table.add([("fault", events[0].fault), ("phase", fault.phase)])
        self.table.add([("failing step", "announced" if events[0].announced else "not announced")])

    def _wrong(self, search: str, number: int, what: str) -> WrongError:
        planted = f" PLANT={self.plant}" if self.plant else ""
        return WrongError(
            f"{what}\n\nThe example: {drawn(self.seed, number, search)}\n"
            f"The same again: make soak SEED={self.seed} ONLY={search}:{number}{planted}"
        )


def check_flat(usages: list[list[Usage]]) -> None:
    """Raise if a rank grew, by more than is tolerated, from one look at it to the next."""
    for since, now in zip(usages, usages[1:], strict=False):
        for rank, (before, after) in enumerate(zip(since, now, strict=True)):
            grown = after.grown(before)
            if any(more > most for more, most in zip(attrs.astuple(grown), attrs.astuple(TOLERANCE), strict=True)):
                raise WrongError(f"rank {rank} grew by {grown} from {before}; tolerated is {TOLERANCE}")


def _chunks(numbers: Any) -> Iterator[list[int]]:
    """Yield the numbers in parts, each of examples on as many ranks."""
    waiting: dict[int, list[int]] = {}
    for number in numbers:
        kept = waiting.setdefault(number % 3, [])
        kept.append(number)
        if len(kept) == CHUNK:
            yield waiting.pop(number % 3)
    yield from waiting.values()
