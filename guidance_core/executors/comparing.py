"""Whether ranks were given the same sample and conditions: a number in each record, and names where it differs."""

from __future__ import annotations

from collections.abc import Sequence

from guidance_core.algebra.digest import digest
from guidance_core.errors import PlanMismatchError
from guidance_core.executors.agreement import Agreement
from guidance_core.executors.payload import Placed
from guidance_core.executors.records import Record
from guidance_core.steps.inputs import differences, inputs_of, packed, unpacked
from guidance_core.steps.plan import Plan


def note_inputs(plan: Plan, *, is_first: bool) -> None:
    """Begin to compute what stands for what this rank was given, if this step of its run compares it."""
    settings = plan.identity.settings
    if is_first or settings.check_inputs == "always":
        plan.placed.inputs = inputs_of(settings, plan.samples, is_first=is_first)


def number_of(placed: Placed) -> int:
    """Return what stands for what this rank was given; 0 where that is not compared, or was."""
    return 0 if placed.inputs is None else digest([placed.inputs.numbers()])


def compare_inputs(plan: Plan, agreement: Agreement, records: Sequence[Record]) -> None:
    """Compare what came with the ranks' records, once a step.

    Raises:
        PlanMismatchError: a rank was given something else; the same error on all.
    """
    placed: Placed = plan.placed
    if placed.inputs is None:
        return
    if len({record.inputs for record in records}) > 1:
        told = agreement.told_in_full(packed(placed.inputs.numbers()))
        differing = differences([unpacked(each) for each in told])
        if differing:
            raise PlanMismatchError(
                f"the ranks were given different inputs for {plan.place}: {'; '.join(differing)}. Give every rank the "
                "same: seed noise equally or broadcast it. check_inputs='never' does not look."
            )
    placed.inputs = None
