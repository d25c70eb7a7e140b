"""Plays examples on ranks until there are enough, and checks what all ranks of an example saw together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, pairwise
from typing import Any

import attrs

from guidance_core import GuidanceError
from guidance_core.ranks import Ranks
from soak import executors, failing
from soak.examples import DTYPES, MOVES, OPTIONS, TYPES, drawn
from soak.faults import FAULTS
from soak.table import Table
from soak.usage import TOLERANCE, Usage, of_rank

MOST = 4
"Ranks, the first 2 and 3 of which have groups of their own."
LATE = 1.0
"Seconds after the last forward by which all ranks have raised."


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
        for number in range(examples):
            self._check_executors(self._played("executors", number))

    def failing(self, steps: int, faults: int) -> list[list[Usage]]:
        """Make steps, some of which fail, until there are enough of both; return what each rank held meanwhile.

        It is looked at after a first part, in the middle, and at the end.
        """
        first, usages = self.steps, []
        marks = [0.1, 0.55, 1.0]
        for number in count():
            self._check_in_time(self._played("faults", number))
            done = min((self.steps - first) / steps, self.faults / faults)
            while marks and done >= marks[0]:
                marks.pop(0)
                usages.append(self.pool.run(of_rank))
            if not marks:
                return usages
        raise AssertionError

    def only(self, search: str, number: int) -> None:
        """Play one example."""
        check = {"executors": self._check_executors, "faults": self._check_in_time}[search]
        check(self._played(search, number))

    def _played(self, search: str, number: int) -> list[Any]:
        """Play an example; return what each rank saw."""
        job = {"executors": executors.search, "faults": failing.search}[search]
        ranks = drawn(self.seed, number, search).ranks
        try:
            return self.pool.run(job, self.seed, number, self.plant, ranks=ranks)
        except GuidanceError as error:
            raise self._wrong(search, number, f"the ranks broke: {error}") from None

    # What to check.

    def _check_executors(self, found: list[executors.Found]) -> None:
        number = found[0].number
        self._check_same("executors", found)
        self.examples += 1
        self.steps += found[0].steps
        self.units = max(self.units, *(each.units for each in found))
        self.table.add(drawn(self.seed, number, "executors").seen)
        self.table.add(("move", move) for move in found[0].moves)

    def _check_in_time(self, found: list[failing.Found]) -> None:
        """Check an example with faults; one that was late is played once more, since the machine may have been busy."""
        number, late = found[0].number, self._check_faults(found)
        if late > LATE:
            late = self._check_faults(self._played("faults", number))
        self.latest = max(self.latest, late)
        if late > LATE:
            raise self._wrong("faults", number, f"{late:.2f} s passed from the last forward to the error on all ranks")

    def _check_faults(self, found: list[failing.Found]) -> float:
        """Check what became of each fault; return the longest time from the last forward to an error on all ranks."""
        self._check_same("faults", found)
        self.steps += found[0].steps
        late = 0.0
        for events in zip(*(each.events for each in found), strict=True):
            if any(event.error for event in events):
                self._check_fault(found[0].number, events)
                raised = max(event.raised for event in events)
                late = max(late, raised - max(event.forward for event in events))
            elif FAULTS[events[0].fault].always:
                raise self._wrong("faults", found[0].number, f"nothing came of {events[0].fault!r}")
        return late

    def _check_same(self, search: str, found: Sequence[Any]) -> None:
        """Raise what is wrong on a rank, or between ranks."""
        number = found[0].number
        wrong = [f"rank {rank}: {each.wrong}" for rank, each in enumerate(found) if each.wrong]
        if wrong:
            traces = [each.trace for each in found if each.trace]
            raise self._wrong(search, number, "\n".join([*wrong, *traces[:1]]))
        if any(each.outcomes != found[0].outcomes for each in found):
            raise self._wrong(search, number, "the ranks have different results")

    def _check_fault(self, number: int, events: Sequence[failing.Event]) -> None:
        """Check that all ranks raised one named error."""
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
    for since, now in pairwise(usages):
        for rank, (before, after) in enumerate(zip(since, now, strict=True)):
            grown = after.grown(before)
            if any(more > most for more, most in zip(attrs.astuple(grown), attrs.astuple(TOLERANCE), strict=True)):
                raise WrongError(f"rank {rank} grew by {grown} from {before}; tolerated is {TOLERANCE}")


def _known() -> list[tuple[str, str]]:
    """Return every feature and fault that should occur, by kind."""
    methods = (
        "none cfg stg weakened apg cfg-zero-star ltx2 rescale normalize interval gate blurred jittered correction "
        "adaptive classifier cads nag"
    )
    return [
        *(("ranks", str(ranks)) for ranks in (2, 3, 4)),
        *(("executor", name) for name in ("all_gather", "all_reduce", "batched")),
        *(("option", name) for name in OPTIONS),
        *(("forwards", how) for how in ("in one step", "in halves")),
        *(("method", name) for name in (*methods.split(), "form of cfg", "further condition", "first tokens")),
        *(("value", name) for name in ("number", "neutral", "tensor by sample", "by output")),
        *(("value", name) for name in ("linear", "cosine", "within", "table")),
        *(("dimensions", str(dimensions)) for dimensions in (2, 3, 4, 5)),
        *(("rows", str(rows)) for rows in (1, 2, 3, 4)),
        *(("structure", name) for name in ("tensor", "tuple", "dict")),
        *(("dtype", name) for name in DTYPES),
        *(("predictions", name) for name in ("of the sample's dtype", "of another dtype")),
        *(("prediction type", name) for name in TYPES),
        *(("runs", str(runs)) for runs in (1, 2)),
        *(("seeds", name) for name in ("int", "list")),
        *(("move", name) for name in (*MOVES, "refused")),
        *(("phase", phase) for phase in dict.fromkeys(fault.phase for fault in FAULTS.values())),
        *(("fault", name) for name in FAULTS),
        *(("failing step", how) for how in ("announced", "not announced")),
    ]
