"""What an executor owes the runs it serves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
from hypothesis import strategies as st

from guidance_core.conformance import shared_ranks as shared
from guidance_core.conformance.across_ranks import compare_ranks, same_bits, sum_bounds
from guidance_core.conformance.case import STRUCTURES, Case
from guidance_core.conformance.executor_subject import EXTRAS, ExecutorSubject, Looks
from guidance_core.conformance.jobs import Fault, ForwardError, Made, executor_on_rank
from guidance_core.conformance.registry import Function, check
from guidance_core.conformance.violation import NotApplicable, Violation, require
from guidance_core.errors import RankError

SECONDS = 5.0
"How long an error may take to reach every rank: a second by promise, more on a busy machine."

_STRENGTHS = (0.5, 2.0, -1.0, 0.25, 6.5)


def _cases(
    *, beside: tuple[str, ...] = EXTRAS, branches: tuple[int, int] = (0, 5), steps: tuple[int, int] = (1, 3)
) -> Any:
    def draw(subject: ExecutorSubject) -> st.SearchStrategy[Case]:
        return st.builds(
            _case,
            structure=st.sampled_from(STRUCTURES),
            samples=st.integers(1, 3).map(lambda count: tuple(range(count))),
            shape=st.sampled_from([(2,), (3, 4), (1,), (2, 3, 4), (64, 80), (80, 64), (4, 32, 48)]),
            steps=st.integers(*steps),
            evaluations=st.integers(1, 2),
            dtype=st.sampled_from(["float32", "bfloat16", "float16", "float64"]),
            seed=st.integers(0, 2**16),
            count=st.integers(*branches),
            beside=st.sampled_from(beside),
        )

    return draw


def _case(structure: str, count: int, beside: str, **given: Any) -> Case:
    outputs = () if structure == "tensor" else ("video", "audio")
    parameters = {"strengths": _STRENGTHS[:count], "beside": beside}
    return Case(structure=structure, outputs=outputs, parameters=parameters, **given)


def _of_executors(name: str, sentence: str, **settings: Any) -> Callable[[Function], Function]:
    return check(name, sentence, subject="executor", processes=True, several_ranks=True, **settings)


def made_by(subject: ExecutorSubject, case: Case, count: int, **how: Any) -> list[Made]:
    """Have an executor run a case, on `count` ranks if it takes a group, and return what each made."""
    if not subject.takes_group:
        return [executor_on_rank(None, subject, case, **how)]
    try:
        made: list[Made] = shared.run(executor_on_rank, subject, case, ranks=count, **how)
    except RankError as error:
        raise Violation(f"On {count} ranks: {error}") from error
    if any(each.is_late(SECONDS) for each in made):
        shared.close()  # a rank may still be inside a collective
    return made


def _worked(made: list[Made]) -> None:
    for rank, each in enumerate(made):
        if each.error is not None:
            shared.close()
            trace = f"\n{each.trace}" if each.trace else ""
            raise Violation(f"On rank {rank} of {len(made)} it fails: {each.error_type}: {each.error}{trace}")


def _compare(subject: ExecutorSubject, case: Case, made: list[Made]) -> None:
    bounds = None if subject.gathers else sum_bounds(subject.start(case), case)
    compare_ranks(made, "It gives another result than the serial executor.", bounds, evaluations=case.evaluations)


@check(
    "describes-itself",
    "It describes in one line, which holds its name, how branches are run.",
    subject="executor",
    processes=True,
)
def describes_itself(subject: ExecutorSubject) -> None:
    made = made_by(subject, Case(), 1)
    _worked(made)
    text = made[0].description
    require(text.strip() and "\n" not in text.strip(), f"describe() is not one line: {text!r}.")
    require(subject.cls.name in text, f"describe() does not say its name {subject.cls.name!r}: {text!r}.")


@_of_executors(
    "equals-serial",
    "It gives the serial executor's bits on every rank; one that only adds up is within `n·2⁻²³·Σ|w·p|` (64 times that "
    "after corrections) plus one rounding.",
    draw=_cases(),
)
def equals_serial(subject: ExecutorSubject, case: Case, count: int) -> None:
    # An executor may compute large predictions in another way, so each case is also tried with a large sample.
    large = attrs.evolve(case, shape=(64, 80), steps=1, evaluations=1)
    for each in (case, large) if math.prod(case.shape) < math.prod(large.shape) else (case,):
        made = made_by(subject, each, count)
        _worked(made)
        _compare(subject, each, made)


@_of_executors(
    "same-bits-on-every-rank",
    "Every rank gets the same bits.",
    draw=_cases(),
    applies=lambda subject: None if subject.takes_group else "it runs in one process",
)
def same_bits_on_every_rank(subject: ExecutorSubject, case: Case, count: int) -> None:
    made = made_by(subject, case, count)
    _worked(made)
    same_bits(made, evaluations=case.evaluations)


@_of_executors(
    "each-branch-once",
    "Every branch of a step is run once, by one rank (or each of its rows is, where rows are shared out), and nothing "
    "else is run: a rank without a branch runs no forward.",
    draw=_cases(),
)
def each_branch_once(subject: ExecutorSubject, case: Case, count: int) -> None:
    made = made_by(subject, case, count)
    _worked(made)
    for number, (step, _) in enumerate(case.moments):
        wanted = {name: list(range(len(case.samples))) for name in made[0].plans[number][0]}
        ran: dict[str, list[int]] = {}
        for name, rows in (forward for each in made for forward in each.forwards[number]):
            require(len(rows) > 0, f"Step {step} on {len(made)} ranks runs {name} on no rows.")
            ran.setdefault(name, []).extend(rows)
        require(
            {name: sorted(rows) for name, rows in ran.items()} == wanted,
            f"Step {step} on {len(made)} ranks plans {', '.join(wanted) or 'nothing'}, for {len(case.samples)} samples "
            f"each, and runs {_listed(ran)}.",
        )


def _listed(ran: dict[str, list[int]]) -> str:
    """Say what was run on which rows."""
    shown = [f"{name} on rows {', '.join(map(str, sorted(rows)))}" for name, rows in sorted(ran.items())]
    return "; ".join(shown) or "nothing"


@_of_executors(
    "predictions-for-combine",
    "A method whose `combine` looks at predictions gets those of every branch, bit for bit; an executor that only adds "
    "up refuses it at start, by name.",
    draw=_cases(beside=("nothing", "corrects")),
)
def predictions_for_combine(subject: ExecutorSubject, case: Case, count: int) -> None:
    made = made_by(subject, case, count, extra=Looks())
    if subject.gathers:
        _worked(made)
        what = "With a method that looks at predictions it gives another result than serial."
        compare_ranks(made, what, evaluations=case.evaluations)
        return
    for rank, each in enumerate(made):
        require(
            each.error is not None and "looks" in each.error,
            f"On rank {rank} of {len(made)} a method that looks at predictions is not refused by name: {each.error}",
        )


def _failing(subject: ExecutorSubject, case: Case, count: int, fault: Fault) -> list[Made]:
    """Have a step fail and the next one work; return what each rank made."""
    made = made_by(subject, case, count, fault=fault)
    size = len(made)
    for rank, each in enumerate(made):
        require(
            each.fault_error is not None,
            f"Rank {rank} of {size} raised nothing, though the forward of {fault.branch!r} {fault.happened}.",
        )
        require(
            not each.is_late(SECONDS),
            f"Rank {rank} of {size} heard of it after {each.fault_seconds:.1f} s; every rank should at once.",
        )
    kinds = sorted({each.fault_type or "" for each in made})
    require(len(kinds) == 1, f"The ranks raise different errors: {', '.join(kinds)}.")
    _worked(made)
    _compare(subject, case, made)
    return made


@_of_executors(
    "failing-forward",
    "A forward that raises on one rank is an error on all of them within seconds, which names the branch; the next "
    "step works.",
    draw=_cases(branches=(1, 4), steps=(1, 2), beside=("nothing",)),
    share=0.4,
)
def failing_forward(subject: ExecutorSubject, case: Case, count: int) -> None:
    branches = ["cond", *(f"b{number}" for number in range(len(case.parameters["strengths"])))]
    for branch in branches:  # an executor may treat the last of many in another way than the first
        for rank, each in enumerate(_failing(subject, case, count, Fault("raises", branch))):
            require(
                ForwardError.TEXT in (each.fault_error or ""),
                f"The error on rank {rank} lacks what the forward raised, {ForwardError.TEXT!r}: {each.fault_error}",
            )
            require(
                branch in (each.fault_error or ""),
                f"The error on rank {rank} does not name the branch {branch!r}: {each.fault_error}\n"
                "guidance_core.run_branch(branch, denoise) calls the denoiser and adds a note that names it.",
            )


@_of_executors(
    "bad-prediction",
    "A prediction of another shape, structure or dtype than it should have is a named error on every rank; the next "
    "step works.",
    draw=_cases(branches=(1, 4), steps=(1, 2), beside=("nothing",)),
    share=0.4,
)
def bad_prediction(subject: ExecutorSubject, case: Case, count: int) -> None:
    kind = ("shape", "none", "whole numbers")[case.seed % 3]
    for rank, each in enumerate(_failing(subject, case, count, Fault(kind, "b0"))):
        require("b0" in (each.fault_error or ""), f"The error on rank {rank} does not name 'b0': {each.fault_error}")


@_of_executors(
    "different-plans",
    "Ranks that plan different things all raise PlanMismatchError.",
    draw=_cases(branches=(1, 3), steps=(1, 1), beside=("nothing",)),
    applies=lambda subject: None if subject.takes_group else "it runs in one process",
    share=0.4,
)
def different_plans(subject: ExecutorSubject, case: Case, count: int) -> None:
    if count == 1:
        raise NotApplicable("one rank plans what it plans")
    made = made_by(subject, case, count, fault=Fault("other strengths"))
    for rank, each in enumerate(made):
        require(
            each.fault_type == "PlanMismatchError",
            f"With another strength on rank 1, rank {rank} of {count} raises {each.fault_type}: {each.fault_error}",
        )


@_of_executors(
    "serves-several-runs",
    "One executor serves interleaved runs, each as it would alone.",
    draw=_cases(steps=(2, 3)),
    share=0.5,
)
def serves_several_runs(subject: ExecutorSubject, case: Case, count: int) -> None:
    made = made_by(subject, case, count, interleaved=True)
    _worked(made)
    _compare(subject, case, made)


@_of_executors(
    "one-collective",
    "A step makes at most one collective of predictions, and pickles nothing in it.",
    draw=_cases(branches=(1, 4)),
    applies=lambda subject: None if subject.takes_group else "it runs in one process",
    share=0.5,
)
def one_collective(subject: ExecutorSubject, case: Case, count: int) -> None:
    # Large enough to tell a prediction from a record of control.
    case = attrs.evolve(case, shape=(64, 64), dtype="float32")
    made = made_by(subject, case, count, watched=True)
    _worked(made)
    for rank, each in enumerate(made):
        for (step, _), (collectives, pickled) in zip(case.moments, each.traffic, strict=True):
            require(
                collectives <= 1,
                f"Step {step} makes {collectives} collectives of predictions on rank {rank} of {count}; pack them.",
            )
            require(
                not pickled,
                f"Step {step} pickles objects to send them on rank {rank} of {count} ({pickled}).",
            )


@_of_executors(
    "predictions-unchanged",
    "It leaves samples and predictions as they are.",
    draw=_cases(),
    share=0.5,
)
def predictions_unchanged(subject: ExecutorSubject, case: Case, count: int) -> None:
    made = made_by(subject, case, count)
    _worked(made)
    for rank, each in enumerate(made):
        require(not each.changed, f"On rank {rank} of {len(made)} it changes {each.changed} in place.")
