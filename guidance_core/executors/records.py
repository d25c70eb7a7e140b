"""What one rank tells the others in an agreement, and what follows from what all of them say."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping, Sequence

import attrs
import torch

from guidance_core import errors
from guidance_core.algebra.digest import PARTS
from guidance_core.errors import (
    ExecutorError,
    GuidanceError,
    PlanMismatchError,
    RankFailedError,
    RankLostError,
    notes_of,
    text_of,
)

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
START, PLANNED, BEFORE, AFTER, LOST, OTHER, DETAIL = range(7)
PHASES = ("starts", "plans", "runs", "finishes", "lost a payload in", "turns to", "compares")
"""What ends with an exchange: a run's start, a plan (in lockstep), the forwards, what is made of the payload.

`OTHER` stands in the place of `AFTER`, on a rank that does not make the step which was announced. In `DETAIL`, ranks
that have seen a difference say what exactly they have.
"""
LAYOUT = struct.Struct(f"={6 + len(PARTS)}q{OUTPUTS}s{TEXT}s")
"Phase, error, whether it is late, lengths of text and dtypes, inputs; fingerprint; dtypes; text."
BLANK = b"\xff" * LAYOUT.size
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
    inputs: int = 0
    "What stands for the sample and the conditions it was given, in steps that compare them."

    def encode(self, phase: int) -> bytearray:
        """Return the record as bytes, marked with the part of a step it belongs to."""
        text = self.text.encode(errors="backslashreplace")[:TEXT]
        codes = bytes(DTYPES.index(dtype) + 1 for dtype in self.dtypes)
        head = (phase, self.error, self.is_late, len(text), len(codes), self.inputs, *self.fingerprint)
        return bytearray(LAYOUT.pack(*head, codes, text))

    @classmethod
    def decode(cls, record: bytearray) -> tuple[int, Record]:
        """Return the part of a step it belongs to, and the record."""
        phase, error, is_late, length, count, inputs, *fingerprint, codes, text = LAYOUT.unpack(record)
        dtypes = tuple(DTYPES[code - 1] for code in codes[:count])
        said = text[:length].decode(errors="replace")
        return phase, cls(tuple(fingerprint), dtypes, said, error, bool(is_late), inputs)


def failure(error: BaseException, rank: int, where: str, *, is_late: bool = False) -> Record:
    """Return the record that tells the others how this rank failed."""
    cls = next((each for each in type(error).__mro__ if each in ERRORS), GuidanceError)
    known = cls not in (GuidanceError, RankLostError)  # the ranks of this group are there; the denoiser lost another's
    notes = "".join(f" ({note})" for note in notes_of(error))
    what = text_of(error) if known else f"{type(error).__name__}: {text_of(error)}"
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


def check_same_plan(records: Sequence[Record], ask: Callable[[], Sequence[Mapping[str, str]]] = tuple) -> None:
    """Raise `PlanMismatchError` on every rank unless all fingerprints are equal.

    Args:
        records: of all ranks.
        ask: returns what each rank has, in words, by name; called on all ranks, and only if they differ.
    """
    differing = {rank: record for rank, record in enumerate(records) if record.fingerprint != records[0].fingerprint}
    if not differing:
        return
    rank, other = next(iter(differing.items()))
    pairs = zip(PARTS, records[0].fingerprint, other.fingerprint, strict=True)
    parts = [part for part, one, two in pairs if one != two]
    shown = _apart(ask())
    raise PlanMismatchError(
        f"the ranks are about to do different things; they differ in {', '.join(parts)}. Rank 0: {records[0].text}. "
        f"Rank {rank}: {other.text}. {shown}Every rank must be given the same methods, parameters, sigmas and sample "
        "shape, and the same executor with the same options."
    )


def _apart(told: Sequence[Mapping[str, str]]) -> str:
    """Say what differs, by rank."""
    said = []
    for name in dict.fromkeys(name for each in told for name in each):
        ranks = _ranks_by_value(told, name, "nothing")
        if len(ranks) > 1:
            listed = ", ".join(f"{text} on rank {', '.join(map(str, which))}" for text, which in ranks.items())
            said.append(f"{name}: {listed}")
    return f"What differs is {'; '.join(said)}. " if said else ""


def check_same_versions(told: Sequence[Mapping[str, str]]) -> None:
    """Raise `PlanMismatchError` where ranks have different versions of a distribution, which it names."""
    said = []
    for name in sorted({name for each in told for name in each}):
        found = _ranks_by_value(told, name, "not installed as a distribution")
        if len(found) > 1:
            shown = "; ".join(f"rank {', '.join(map(str, ranks))}: {version}" for version, ranks in found.items())
            said.append(f"{name} ({shown})")
    if said:
        raise PlanMismatchError(
            f"the ranks have different versions of {', '.join(said)}. Install the same version on every rank."
        )


def _ranks_by_value(told: Sequence[Mapping[str, str]], name: str, otherwise: str) -> dict[str, list[int]]:
    """Return which ranks say what of `name`; those that say nothing stand under `otherwise`."""
    found: dict[str, list[int]] = {}
    for rank, each in enumerate(told):
        found.setdefault(each.get(name, otherwise), []).append(rank)
    return found


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
