"""What ranks tell each other before a payload moves, so that none waits for what will never come.

Each rank sends every other one record of fixed size: whether it failed and how, a fingerprint of its
plan, the dtypes of its predictions. The records travel point to point over a CPU group, so a rank that
does not answer is known by name. Nothing is pickled and no device is waited for.
"""

from __future__ import annotations

import datetime
import re
import struct
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, WeakSet

import attrs
import torch

from guidance_core import errors
from guidance_core.algebra.digest import PARTS
from guidance_core.errors import ExecutorError, GuidanceError, PlanMismatchError, RankFailedError, RankLostError
from guidance_core.executors.base import StartedT
from guidance_core.executors.groups import control_group, is_alive, timeout_of
from guidance_core.steps.settings import RunIdentity

TAG = 29063
"Of the control messages; a model's own point-to-point messages use others."
TEXT = 960
"Bytes of text in a record."
OUTPUTS = 32
"Outputs a run may have."

DTYPES = tuple(
    sorted({each for each in vars(torch).values() if isinstance(each, torch.dtype) and each.is_floating_point}, key=str)
)
ERRORS = tuple(
    sorted(
        (each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, GuidanceError)),
        key=lambda each: each.__name__,
    )
)
START, PLANNED, BEFORE, AFTER, LOST, OTHER = range(6)
PHASES = ("starts", "plans", "runs", "finishes", "lost a payload in", "turns to")
"""What ends with an exchange: a run's start, a plan (in lockstep), the forwards, what is made of the payload.

`OTHER` stands in the place of `AFTER`, on a rank that does not make the step which was announced.
"""
_LAYOUT = struct.Struct(f"={5 + len(PARTS)}q{OUTPUTS}s{TEXT}s")
"Phase, error, whether it is late, lengths of text and dtypes; fingerprint; dtypes; text."
_BLANK = b"\xff" * _LAYOUT.size
"No record looks like this."


@attrs.frozen
class Record:
    """What one rank says of itself."""

    fingerprint: tuple[int, ...] = (0,) * len(PARTS)
    dtypes: tuple[torch.dtype, ...] = ()
    "Of its predictions by output; empty where it made none."
    text: str = ""
    "What it is about to do, or its error."
    error: int = -1
    "Index of the error's class in `ERRORS`; -1 where nothing failed."
    is_late: bool = False
    "Whether it failed on what others had sent, so that an earlier failure elsewhere may be the cause."

    def encode(self, phase: int) -> bytearray:
        """Return the record as bytes, marked with the part of a step it belongs to."""
        text = self.text.encode(errors="backslashreplace")[:TEXT]
        codes = bytes(DTYPES.index(dtype) + 1 for dtype in self.dtypes)
        head = (phase, self.error, self.is_late, len(text), len(codes), *self.fingerprint)
        return bytearray(_LAYOUT.pack(*head, codes, text))

    @classmethod
    def decode(cls, record: bytearray) -> tuple[int, Record]:
        """Return the part of a step it belongs to, and the record."""
        phase, error, is_late, length, count, *fingerprint, codes, text = _LAYOUT.unpack(record)
        dtypes = tuple(DTYPES[code - 1] for code in codes[:count])
        return phase, cls(tuple(fingerprint), dtypes, text[:length].decode(errors="replace"), error, bool(is_late))


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
        self._listening: tuple[list[bytearray], list[tuple[int, Any]], dict[int, str]] | None = None
        self.seconds = 0.0
        "Time spent in exchanges, waiting for slower ranks included."

    def exchange(self, mine: Record, phase: int) -> list[Record]:
        """Send `mine` to all ranks and return every rank's record, in order.

        Raises:
            RankLostError: a rank did not answer within the group's timeout.
            PlanMismatchError: a rank is in another part of its step.
        """
        start = time.perf_counter()
        self.exchanges += 1
        decoded, silent = self._swapped(mine, phase, self.timeout)
        self.seconds += time.perf_counter() - start
        if silent:
            raise lost_ranks(silent, self.size)
        broken = [rank for rank, (other, _) in enumerate(decoded) if other == LOST]
        if broken:
            raise payload_lost(f"rank {broken[0]} says that {decoded[broken[0]][1].text}", self.size)
        if any(record.error >= 0 and not record.is_late for _, record in decoded):
            return [record for _, record in decoded]  # wherever it happened; a late one may follow from it
        if any(other != phase for other, _ in decoded):
            raise PlanMismatchError(
                "the ranks are not at the same point: "
                + "; ".join(f"rank {rank} {PHASES[each]} {record.text}" for rank, (each, record) in enumerate(decoded))
                + ". Every rank must make the same steps."
            )
        return [record for _, record in decoded]

    def raise_interrupt(self) -> None:
        """Raise what interrupted an exchange, which was made all the same, now that the others can be told."""
        interrupt, self._interrupt = self._interrupt, None
        if interrupt is not None:
            raise interrupt

    def roll_call(self, why: str) -> RankLostError:
        """Return the error for a payload that did not arrive, having asked which ranks still answer.

        Where one answers that it failed before it sent anything, that is raised.
        """
        records, silent = self._swapped(Record(text=why), LOST, self.patience)
        check_all_well([record for _, record in records])
        return lost_ranks(silent, self.size) if silent else payload_lost(why, self.size)

    @property
    def patience(self) -> float:
        """Seconds to wait for the others once it is known that something is lost."""
        return min(max(0.15 * self.timeout, 0.5), 10.0)

    def listen(self) -> None:
        """Be ready for what the others send in the next exchange, which will come; without waiting for it.

        A record that arrives before somebody is ready for it costs another message.
        """
        if self._listening is not None:
            return
        received = [bytearray(_BLANK) for _ in range(self.size)]
        waiting: list[tuple[int, Any]] = []
        silent: dict[int, str] = {}
        self._listening = received, waiting, silent
        for rank, record in enumerate(received):
            if rank != self.rank:
                try:
                    work = self.group.recv([torch.frombuffer(record, dtype=torch.uint8)], rank, TAG)
                    waiting.append((rank, work))
                except RuntimeError as error:
                    silent[rank] = _reason(error)

    def _swapped(self, mine: Record, phase: int, seconds: float) -> tuple[list[tuple[int, Record]], dict[int, str]]:
        """Swap records with every rank; return them with their phases, and why some did not come."""
        until = time.monotonic() + seconds
        self.listen()
        (received, waiting, silent), self._listening = self._listening, None  # type: ignore[misc]
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
                has_come = work not in receiving or received[rank] != _BLANK
            if received[rank] != _BLANK and Record.decode(received[rank])[0] == LOST:
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
    begun: int = 0
    "How many runs were started."
    numbers: WeakKeyDictionary[RunIdentity, int] = attrs.field(factory=WeakKeyDictionary)
    "Which of them each run is."


_shared: dict[Any, Shared] = {}


def agreement_of(group: Any) -> Agreement:
    """Return the agreement of a process group, with what its executors have in common."""
    for gone in [each for each in _shared if not is_alive(each)]:
        del _shared[gone]
    return Agreement(control_group(group), _shared.setdefault(group, Shared()))


def set_aside(agreement: Agreement, instead: str) -> None:
    """Have all ranks give up the step that they announced, if they did, for something else.

    Raises:
        PlanMismatchError: some of them make it.
        GuidanceError: one failed.
    """
    shared = agreement.shared
    announced, shared.announced = shared.announced, None
    if announced is not None:
        identity = announced.identity()
        if identity is not None:
            shared.surprising.add(identity)
        announced.move()
        check_all_well(agreement.exchange(Record(text=instead), OTHER))


def begin_together(agreement: Agreement, own_part: int, make: Callable[[], StartedT]) -> StartedT:
    """Start a run on every rank, or on none: an error on one is raised on all.

    Raises:
        PlanMismatchError: methods, parameters or settings differ.
    """
    set_aside(agreement, "a new run")
    try:
        run = make()
        identity = run.identity
        fingerprint = identity.fingerprint
    except BaseException as error:
        shared = shared_error(agreement, error, "starting a run", START)
        if shared is error:
            raise
        raise shared from error
    number = agreement.shared.begun
    records = agreement.exchange(Record((*fingerprint, 0, 0, 0, 0, number, own_part), (), identity.summary), START)
    check_all_well(records)
    check_same_plan(records)
    agreement.shared.begun += 1
    agreement.shared.numbers[identity] = number
    agreement.raise_interrupt()
    return run


def shared_error(
    agreement: Agreement, error: BaseException, where: str, phase: int, *, is_late: bool = False
) -> BaseException:
    """Tell the others of an error; return the one that all of them raise, from the one that caused it.

    BaseExceptions such as KeyboardInterrupt are told to the others and stay as they are here.
    """
    try:
        check_all_well(agreement.exchange(failure(error, agreement.rank, where, is_late=is_late), phase))
    except Exception as shared:
        if isinstance(error, Exception):
            return shared
    return error


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


def failure(error: BaseException, rank: int, where: str, *, is_late: bool = False) -> Record:
    """Return the record that tells the others how this rank failed."""
    cls = next((each for each in type(error).__mro__ if each in ERRORS), GuidanceError)
    known = cls is not GuidanceError
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    what = str(error) if known else f"{type(error).__name__}: {error}"
    place = "" if re.search(rf"\b{where}\b", notes + what) else f", {where}"  # most errors of a step say which
    # what says where comes first: a long message is cut at its end
    number = ERRORS.index(cls if known else RankFailedError)
    return Record(text=f"rank {rank}{place}{notes}: {what}", error=number, is_late=is_late)


def check_all_well(records: Sequence[Record]) -> None:
    """Raise the same named error on every rank if any rank failed."""
    failed = [(rank, record) for rank, record in enumerate(records) if record.error >= 0]
    if not failed:
        return
    failed.sort(key=lambda each: each[1].is_late)
    rank, record = failed[0]
    others = ", ".join(str(other) for other, _ in failed[1:])
    also = f" (failed as well: rank {others})" if others else ""
    error = ERRORS[record.error](record.text + also)
    if isinstance(error, errors.RankError):
        error.ranks = (rank,)
    raise error


def check_same_plan(records: Sequence[Record]) -> None:
    """Raise `PlanMismatchError` on every rank unless all fingerprints are equal."""
    differing = {rank: record for rank, record in enumerate(records) if record.fingerprint != records[0].fingerprint}
    if not differing:
        return
    rank, other = next(iter(differing.items()))
    pairs = zip(PARTS, records[0].fingerprint, other.fingerprint, strict=True)
    parts = [part for part, one, two in pairs if one != two]
    raise PlanMismatchError(
        f"the ranks are about to do different things; they differ in {', '.join(parts)}. Rank 0: {records[0].text}. "
        f"Rank {rank}: {other.text}. Every rank must be given the same methods, parameters, sigmas and sample shape, "
        "and the same executor with the same options."
    )


def agreed_dtypes(records: Sequence[Record]) -> tuple[torch.dtype, ...]:
    """Return the dtype of every output's predictions, which the ranks that made some must share.

    Raises:
        DenoiserError: they differ.
    """
    stated = [(rank, record) for rank, record in enumerate(records) if record.dtypes]
    if not stated:
        return ()
    first, base = stated[0]
    for rank, record in stated[1:]:
        if record.dtypes != base.dtypes:
            raise errors.DenoiserError(
                f"the predictions of rank {rank} are {shown_dtypes(record.dtypes)}, those of rank {first} "
                f"{shown_dtypes(base.dtypes)}. Rank {first}: {base.text}. Rank {rank}: {record.text}."
            )
    return base.dtypes


def shown_dtypes(dtypes: Sequence[torch.dtype]) -> str:
    """Return dtypes in words."""
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


def check_output_count(count: int) -> None:
    """Raise `ExecutorError` for more outputs than a record can speak of."""
    if count > OUTPUTS:
        raise ExecutorError(f"a run on several ranks has at most {OUTPUTS} outputs; this one has {count}.")
