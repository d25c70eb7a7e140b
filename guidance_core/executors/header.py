"""What goes in front of a payload where no agreement does, so that nobody takes one step's bytes for another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from guidance_core.algebra.digest import digest_of_text
from guidance_core.errors import PlanMismatchError, RankError, RankFailedError
from guidance_core.steps.plan import Plan

LENGTH = 8
"Numbers of a header: whether all is well, run, step, evaluation, and four pieces of a fingerprint."
_SMALL = 2**24
"Whole numbers below it are exact in float32, also where zeros are added to them."


@attrs.frozen
class Header:
    """Which payload this is, in numbers that survive a sum in float32."""

    run: int
    step: int
    evaluation: int
    fingerprint: int
    "Of the plan, and of the inputs where they are compared. Shapes and dtypes are those of the last agreement."
    is_well: bool = True
    "Whether it holds predictions, and not what a rank sends that failed."

    @classmethod
    def of(cls, plan: Plan, run: int, others: tuple[int, ...], *, is_well: bool) -> Header:
        """Return the header of a plan, with further numbers that must be equal on all ranks."""
        moment = plan.moment
        levels = [(noise.sigma, -1.0 if noise.alpha is None else noise.alpha) for noise in moment.noise.values()]
        model = 0 if moment.model is None else digest_of_text(moment.model)
        # Hashes of numbers are equal in all processes, and take a tenth of the time of a digest.
        mixed = hash((*plan.identity.fingerprint, *plan.layout.fingerprint, *levels, model, *others))
        return cls(run, moment.index, moment.evaluation, mixed, is_well)

    @property
    def numbers(self) -> list[int]:
        """The header as whole numbers from 0 to 2^24."""
        pieces = [self.fingerprint >> shift & 0xFFFF for shift in (0, 16, 32, 48)]
        return [2 - self.is_well, self.run % _SMALL, self.step % _SMALL, self.evaluation % _SMALL, *pieces]

    def check(self, rows: Sequence[Sequence[float]], senders: Sequence[int]) -> None:
        """Compare with what ranks sent.

        Raises:
            PlanMismatchError: another step, or one that differs.
            RankFailedError: a rank failed before it had anything to send.
        """
        mine = self.numbers
        if all(row == mine for row in rows):
            return
        said = {rank: [int(number) for number in row] for rank, row in zip(senders, rows, strict=True)}
        failed = [rank for rank, row in said.items() if row[0] != 1]
        if failed:
            error: RankError = RankFailedError(
                f"rank {', '.join(map(str, failed))} failed in this step, step {self.step}, and sent nothing; its own "
                "error says why. With control=True it would be raised here."
            )
            error.ranks = tuple(failed)
            raise error
        shown = "; ".join(f"rank {rank}: {_shown(row)}" for rank, row in said.items())
        raise PlanMismatchError(
            f"the ranks sent payloads of different steps, or of steps that differ in branches, sample or dtype. "
            f"This rank: {_shown(mine)}. {shown}. Every rank must make the same steps in the same order; "
            "control=True tells what differs."
        )


def _shown(row: Sequence[int]) -> str:
    _, run, step, evaluation, *pieces = row
    again = f", evaluation {evaluation}" if evaluation else ""
    return f"step {step} of run {run}{again} (#{''.join(f'{piece:04x}' for piece in reversed(pieces))})"


@attrs.frozen(eq=False)
class Unread:
    """Headers that are on their way from a device; the step's result is NaN if they differ."""

    header: Header
    rows: Tensor
    senders: Sequence[int]
    arrived: Any

    def check(self) -> bool:
        """Compare them if they are there, and return whether they are; raises what `Header.check` does."""
        if not self.arrived.query():
            return False
        self.header.check(self.rows.tolist(), self.senders)
        return True


def read(header: Header, rows: Tensor, senders: Sequence[int], payload: Tensor) -> Unread | None:
    """Compare a header with those that came with a payload; on a GPU without waiting for them.

    Args:
        header: this rank's.
        rows: those that came, `[senders, LENGTH]`.
        senders: the ranks that sent them.
        payload: bytes that came with them; on a GPU they become NaN if a header differs.

    Returns:
        What is to be looked at later; None where it was done.
    """
    if rows.device.type != "cuda":
        header.check(rows.tolist(), senders)
        return None
    there = torch.empty(rows.shape, dtype=rows.dtype, device="cpu", pin_memory=True)
    there.copy_(rows, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(rows.device))
    expected = torch.tensor(header.numbers, dtype=rows.dtype, device="cpu").to(rows.device, non_blocking=True)
    differs = (rows != expected).any()
    payload.bitwise_or_(differs.to(torch.uint8) * 0xFF)  # all bits set are NaN, in float8_e4m3fnuz the largest number
    return Unread(header, there, senders, arrived)
