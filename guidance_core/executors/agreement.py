"""What ranks tell each other before a payload moves, so that none waits for what will never come.

Each rank sends every other one record of fixed size: whether it failed and how, a fingerprint of its
plan, the dtypes of its predictions. The records travel point to point over a CPU group, so a rank that
does not answer is known by name. Nothing is pickled and no device is waited for.
"""

from __future__ import annotations

import datetime
import struct
import time
from collections.abc import Callable, Hashable
from typing import Any, TypeAlias
from weakref import ReferenceType, WeakKeyDictionary, WeakSet

import attrs
import torch

from guidance_core.errors import PlanMismatchError, RankLostError
from guidance_core.executors.groups import control_group, is_alive, timeout_of
from guidance_core.executors.records import (
    BEFORE,
    BLANK,
    DETAIL,
    LOST,
    PHASES,
    PLANNED,
    START,
    TEXT,
    Record,
    check_all_well,
)
from guidance_core.executors.turns import Turns
from guidance_core.steps.settings import RunIdentity

TAG = 29063
"Of the control messages; a model's own point-to-point messages use others."
_Listening: TypeAlias = tuple[list[bytearray], list[tuple[int, Any]], dict[int, str]]
"Memory for every rank's record, what is waited for by rank, and why some ranks are silent."


class Agreement:
    """Exchanges records between the ranks of a group, in the same order on each."""

    def __init__(self, group: Any, shared: Shared | None = None) -> None:
        """Take a Gloo group, or its backend, and what executors of its group have in common."""
        self.group = group
        self.shared = shared or Shared()
        self.rank = group.rank()
        self.size = group.size()
        self.exchanges = 0
        self.timeout = timeout_of(group)
        self._interrupt: BaseException | None = None
        self.seconds = 0.0
        "Time spent in exchanges, waiting for slower ranks included."

    def exchange(self, mine: Record, phase: int) -> list[Record]:
        """Send `mine` to all ranks and return every rank's record, in order.

        Raises:
            RankLostError: a rank did not answer within the group's timeout.
            PlanMismatchError: a rank is in another part of its step.
        """
        self._check_group()
        start = time.perf_counter()
        self.exchanges += 1
        decoded, silent = self._swapped(mine, phase, self.timeout)
        self.seconds += time.perf_counter() - start
        if silent:
            raise self._own(lost_ranks(silent, self.size))
        broken = [rank for rank, (other, _) in enumerate(decoded) if other == LOST]
        if broken:
            why = f"rank {broken[0]} says that {decoded[broken[0]][1].text}"
            raise self._own(payload_lost(why, self.size))
        if any(record.error >= 0 and not record.is_late for _, record in decoded):
            return [record for _, record in decoded]  # wherever it happened; a late one may follow from it
        if any(other != phase for other, _ in decoded):
            raise PlanMismatchError(
                "the ranks are not at the same point: "
                + "; ".join(f"rank {rank} {PHASES[each]} {record.text}" for rank, (each, record) in enumerate(decoded))
                + ". Every rank must make the same steps."
            )
        return [record for _, record in decoded]

    def told_in_full(self, text: str) -> list[str]:
        """Return every rank's text, of any length; all ranks must call it."""
        sent = text.encode("ascii", errors="backslashreplace").decode()
        told, number, count = [""] * self.size, 0, 1
        parts = (-(-len(sent) // TEXT),)
        while number < count:
            piece = sent[number * TEXT : (number + 1) * TEXT]
            records = self.exchange(Record(parts + Record().fingerprint[1:], text=piece), DETAIL)
            check_all_well(records)
            told = [before + record.text for before, record in zip(told, records, strict=True)]
            count = max(record.fingerprint[0] for record in records)
            number += 1
        return told

    def take_interrupt(self) -> BaseException | None:
        """Return what interrupted an exchange, once."""
        interrupt, self._interrupt = self._interrupt, None
        return interrupt

    def raise_interrupt(self) -> None:
        """Raise what interrupted an exchange, which was made all the same, now that the others can be told."""
        interrupt = self.take_interrupt()
        if interrupt is not None:
            raise interrupt

    def wait_for_payload(self, work: Any) -> None:
        """Wait for a payload on the CPU, until it is there or a rank has given it up.

        That is a little less than the group's own timeout, which would close all connections and leave nobody to ask
        who is missing. A rank that began to wait later hears of those that gave up, and answers them in time.

        Raises:
            RuntimeError: it did not come.
        """
        until = time.monotonic() + 0.8 * self.timeout
        while True:
            left = until - time.monotonic()
            try:
                work.wait(datetime.timedelta(seconds=max(min(left, self.patience / 4), 0.001)))
                return
            except RuntimeError:
                if work.is_completed() or left <= 0:
                    raise
            for rank, record in enumerate(self.listen()[0]):
                phase = struct.unpack_from("=q", record)[0]
                if phase == LOST:
                    raise RuntimeError(f"rank {rank} waited for it in vain")
                if phase in (START, PLANNED, BEFORE):  # it is elsewhere, or had its part of the payload
                    until = min(until, time.monotonic() + self.patience)

    def roll_call(self, why: str) -> RankLostError:
        """Return the error for a payload that did not arrive, having asked which ranks still answer.

        Where one answers that it failed before it sent anything, that is raised.
        """
        self._check_group()
        records, silent = self._swapped(Record(text=why), LOST, self.patience)
        check_all_well([record for _, record in records])
        return self._own(lost_ranks(silent, self.size) if silent else payload_lost(why, self.size))

    def _own(self, error: RankLostError) -> RankLostError:
        """Mark the loss of this group's rank, after which there is nobody to tell; a denoiser may raise another's."""
        error._group = self.group
        self.shared.lost = self.shared.lost or error
        return error

    def _check_group(self) -> None:
        """Raise again what was raised when the group broke: its connections are closed since, to healthy ranks too."""
        lost = self.shared.lost
        if lost is not None:
            again = RankLostError(str(lost))
            again.ranks, again._group = lost.ranks, lost._group
            raise again

    @property
    def patience(self) -> float:
        """Seconds to wait for the others once it is known that something is lost."""
        return min(max(0.15 * self.timeout, 0.5), 10.0)

    def listen(self) -> _Listening:
        """Be ready for what the others send in the next exchange, which will come; without waiting for it.

        A record that arrives before somebody is ready for it costs another message.
        """
        if self.shared.listening is not None:
            return self.shared.listening
        received = [bytearray(BLANK) for _ in range(self.size)]
        waiting: list[tuple[int, Any]] = []
        silent: dict[int, str] = {}
        self.shared.listening = received, waiting, silent
        for rank, record in enumerate(received):
            if rank != self.rank:
                try:
                    work = self.group.recv([torch.frombuffer(record, dtype=torch.uint8)], rank, TAG)
                    waiting.append((rank, work))
                except RuntimeError as error:
                    silent[rank] = _reason(error)
        return self.shared.listening

    def _swapped(self, mine: Record, phase: int, seconds: float) -> tuple[list[tuple[int, Record]], dict[int, str]]:
        """Swap records with every rank; return them with their phases, and why some did not come."""
        until = time.monotonic() + seconds
        received, waiting, silent = self.listen()
        self.shared.listening = None
        received[self.rank] = sent = mine.encode(phase)
        receiving = [work for _, work in waiting]
        outgoing = torch.frombuffer(sent, dtype=torch.uint8)
        for rank in range(self.size):
            if rank == self.rank:
                continue
            try:
                waiting.append((rank, self.group.send([outgoing], rank, TAG)))
            except RuntimeError as error:
                silent.setdefault(rank, _reason(error))
        for rank, work in waiting:
            has_come = False
            while not has_come:
                try:
                    work.wait(datetime.timedelta(seconds=max(until - time.monotonic(), 0.001)))
                except RuntimeError as error:
                    silent.setdefault(rank, _reason(error))
                    until = min(until, time.monotonic() + self.patience)
                    break
                except BaseException as error:  # an interrupt or a time limit: it is raised once the others know
                    self._interrupt = error
                # Python interrupts a wait before it began or after it ended; to wait for a record twice is to hang.
                has_come = work not in receiving or received[rank] != BLANK
            if received[rank] != BLANK and Record.decode(received[rank])[0] == LOST:
                until = min(until, time.monotonic() + self.patience)
        blank = (phase, Record())  # what a silent rank sent is not known
        return [blank if rank in silent else Record.decode(record) for rank, record in enumerate(received)], silent


@attrs.frozen(eq=False)
class Announced:
    """The step that all ranks of a group said they would make next.

    It needs no agreement of its own before its payload: whoever fails, or makes another step, moves the payload all the
    same, and says so afterwards.
    """

    identity: ReferenceType[RunIdentity]
    "Of the run, which may be gone by then."
    form: Hashable
    "What `Plan.form` is if the plan is that of the step."
    payload: Any
    "What moves, with the memory for it."
    move: Callable[[], None]
    "Moves the payload with nothing of this rank in it."


@attrs.define(eq=False)
class Shared:
    """What executors of one group have in common."""

    announced: Announced | None = None
    surprising: WeakSet[RunIdentity] = attrs.field(factory=WeakSet)
    "Runs that did not make the step they announced, and announce none any more."
    turns: Turns = attrs.field(factory=Turns)
    "Which thread uses the group."
    listening: _Listening | None = None
    """What waits for the others' records of the next exchange, whichever executor makes it.

    If each had its own, one that only moves what it announced would take the record that another waits for.
    """
    lost: RankLostError | None = None
    "Why the group cannot be used any more."
    form: Hashable = None
    "Of the last payload, where it moved without an agreement."
    begun: int = 0
    "How many runs were started."
    seed: int | None = None
    "Of the next run, if nobody gives one; the first rank drew it."
    numbers: WeakKeyDictionary[RunIdentity, int] = attrs.field(factory=WeakKeyDictionary)
    "Which of them each run is."


_shared: dict[Any, Shared] = {}


def agreement_of(group: Any) -> Agreement:
    """Return the agreement of a process group, with what its executors have in common."""
    for gone in [each for each in _shared if not is_alive(each)]:
        del _shared[gone]
    return Agreement(control_group(group), _shared.setdefault(group, Shared()))


def lost_ranks(silent: dict[int, str], size: int) -> RankLostError:
    """Return the error for ranks that did not answer, with what was seen of the first."""
    return _lost(tuple(silent), next(iter(silent.values())), size)


def payload_lost(why: str, size: int) -> RankLostError:
    """Return the error for a payload that did not arrive from an unidentified rank."""
    return _lost((), why, size)


def _lost(ranks: tuple[int, ...], why: str, size: int) -> RankLostError:
    named = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}" if ranks else "a rank"
    error = RankLostError(
        f"{named} of {size} {'do' if len(ranks) > 1 else 'does'} not answer: the process died, its connection broke or "
        f"the group's timeout passed ({why}). The group cannot be used any more; restart the ranks."
    )
    error.ranks = ranks
    return error


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0].rpartition("] ")[2].partition(". ")[0][:200] or type(error).__name__
