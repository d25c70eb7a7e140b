"""In a process started anew, and on several ranks: real processes, real collectives."""

from __future__ import annotations

from guidance_core.conformance import shared_ranks as shared
from guidance_core.conformance.across_ranks import compare_ranks, same_bits, sum_bounds
from guidance_core.conformance.case import Case
from guidance_core.conformance.fresh_process import asked, cases_for
from guidance_core.conformance.jobs import Made, digests, on_rank, other_plan
from guidance_core.conformance.registry import check
from guidance_core.conformance.strategies import cases
from guidance_core.conformance.subject import Subject, unreachable
from guidance_core.conformance.violation import Violation, require


def _adds_up(subject: Subject) -> str | None:
    return unreachable(subject) or (
        "its combine looks at predictions; that it is refused is checked instead"
        if (subject.looks_at_predictions)
        else None
    )


def on_ranks(subject: Subject, case: Case, count: int, executor: object) -> list[Made]:
    """Have `count` ranks run a case; raise `Violation` if it fails on one that serially works."""
    made: list[Made] = shared.run(on_rank, subject, case, executor, ranks=count)
    for rank, each in enumerate(made):
        if each.error is not None:
            trace = f"\n{each.trace}" if each.trace else ""
            raise Violation(f"On rank {rank} of {count} it fails: {each.error_type}: {each.error}{trace}")
    return made


@check(
    "same-plan-on-every-rank",
    "Every rank plans the same passes and strengths.",
    draw=cases(steps=(1, 3), batch=(1, 2)),
    applies=unreachable,
    processes=True,
    several_ranks=True,
    share=0.4,
)
def same_plan_on_every_rank(subject: Subject, case: Case, count: int) -> None:
    made = on_ranks(subject, case, count, "serial")
    for rank, each in enumerate(made):
        for step, (mine, first) in enumerate(zip(each.plans, made[0].plans, strict=True)):
            different = other_plan(mine, first)
            require(not different, f"At step {step} rank {rank} of {count} plans {different}, compared with rank 0.")


@check(
    "all-gather-equals-serial",
    "The all-gather executor gives the serial executor's bits, on every rank, on one rank and on several.",
    draw=cases(steps=(1, 3), batch=(1, 2), dtypes=("float32", "bfloat16")),
    applies=unreachable,
    processes=True,
    several_ranks=True,
    share=0.8,
    differentiating=False,
)
def all_gather_equals_serial(subject: Subject, case: Case, count: int) -> None:
    made = on_ranks(subject, case, count, "all_gather")
    compare_ranks(made, f"On {count} ranks all-gather gives another result than serial.")
    same_bits(made)


@check(
    "all-reduce-within-bound",
    "Where it only names branches or corrects, the all-reduce executor is within `n·2⁻²³·Σ|w·p|` of the serial one (64 "
    "times that after corrections) plus one rounding, with the same bits on every rank.",
    draw=cases(steps=(1, 3), batch=(1, 2), dtypes=("float32", "bfloat16"), smallest=4),
    applies=_adds_up,
    processes=True,
    several_ranks=True,
    share=0.8,
)
def all_reduce_within_bound(subject: Subject, case: Case, count: int) -> None:
    made = on_ranks(subject, case, count, "all_reduce")
    bounds = sum_bounds(subject.start(case), case)
    compare_ranks(made, f"On {count} ranks all-reduce is further from serial than float32 sums explain.", bounds)
    same_bits(made)


@check(
    "all-reduce-refused",
    "Where its `combine` looks at predictions, the all-reduce executor refuses it at start, naming it.",
    draw=cases(steps=(1, 1), batch=(1, 1), varied=False, varied_structure=False),
    applies=lambda subject: unreachable(subject) if subject.looks_at_predictions else "it has no combine",
    processes=True,
    several_ranks=True,
    share=0.1,
)
def all_reduce_refused(subject: Subject, case: Case, count: int) -> None:
    made: list[Made] = shared.run(on_rank, subject, case, "all_reduce", ranks=count)
    for rank, each in enumerate(made):
        require(
            each.error is not None and subject.name in each.error,
            f"On rank {rank} of {count} all_reduce does not refuse it by name: {each.error}",
        )


@check(
    "same-in-a-fresh-process",
    "A process started anew, with another order of hashes, plans the same passes and computes the same bits.",
    processes=True,
    applies=unreachable,
    autograd=False,
)
def same_in_a_fresh_process(subject: Subject) -> None:
    answer = asked(subject)
    if answer["error"]:
        raise Violation(f"In a fresh process it fails:\n{answer['error']}")
    for case, there in zip(cases_for(subject), answer["digests"], strict=True):
        for step, (mine, other) in enumerate(zip(digests(subject, case), there, strict=True)):
            different = other_plan(other["plan"], mine["plan"])
            require(
                not different,
                f"In a fresh process step {step} of {case!r} plans {different}, compared with here: something depends "
                "on the order of a set, or on what was imported before.",
            )
            require(mine["bits"] == other["bits"], f"In a fresh process step {step} of {case!r} gives other bits.")
