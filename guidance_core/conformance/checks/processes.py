"""On several ranks: real processes, real collectives."""

from __future__ import annotations

import attrs

from guidance_core.conformance import ranks as shared
from guidance_core.conformance.case import Case
from guidance_core.conformance.jobs import Made, bits, on_rank
from guidance_core.conformance.playing import Results
from guidance_core.conformance.registry import check
from guidance_core.conformance.strategies import cases
from guidance_core.conformance.subject import Subject
from guidance_core.conformance.violation import Violation, first_difference, require

EPS = 2.0**-23
CORRECTED = 64.0
"How many times the bound of the sum a result may differ after corrections, which pass an error on and add their own."


def _linear_enough(subject: Subject) -> str | None:
    return "its combine looks at predictions; that it is refused is checked instead" if (
        subject.looks_at_predictions
    ) else None


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
    processes=True,
    share=0.4,
)
def same_plan_on_every_rank(subject: Subject, case: Case, count: int) -> None:
    made = on_ranks(subject, case, count, "serial")
    for rank, each in enumerate(made):
        for step, (mine, first) in enumerate(zip(each.plans, made[0].plans, strict=True)):
            require(
                mine == first,
                f"At step {step} rank {rank} of {count} plans {mine[0]}, rank 0 plans {first[0]}, or other strengths.",
            )


@check(
    "all-gather-equals-serial",
    "The all-gather executor gives the serial executor's bits, on every rank, on one rank and on several.",
    draw=cases(steps=(1, 3), batch=(1, 2), dtypes=("float32", "bfloat16")),
    processes=True,
    share=0.8,
)
def all_gather_equals_serial(subject: Subject, case: Case, count: int) -> None:
    made = on_ranks(subject, case, count, "all_gather")
    for rank, each in enumerate(made):
        _compare(each.results, made[0].serial, rank, f"On {count} ranks all-gather gives another result than serial.")
    _same_bits(made)


@check(
    "all-reduce-within-bound",
    "Where it only names branches or corrects, the all-reduce executor is within `n·2⁻²³·Σ|w·p|` of the serial one (64 "
    "times that after corrections) plus one rounding, with the same bits on every rank.",
    draw=cases(steps=(1, 3), batch=(1, 2), dtypes=("float32", "bfloat16"), smallest=4),
    applies=_linear_enough,
    processes=True,
    share=0.8,
)
def all_reduce_within_bound(subject: Subject, case: Case, count: int) -> None:
    made = on_ranks(subject, case, count, "all_reduce")
    bounds = _bounds(subject, case)
    for rank, each in enumerate(made):
        what = f"On {count} ranks all-reduce is further from serial than float32 sums explain."
        _compare(each.results, made[0].serial, rank, what, bounds)
    _same_bits(made)


@check(
    "all-reduce-refused",
    "Where its `combine` looks at predictions, the all-reduce executor refuses it at start, naming it.",
    draw=cases(steps=(1, 1), batch=(1, 1), varied=False, varied_structure=False),
    applies=lambda subject: None if subject.looks_at_predictions else "it has no combine",
    processes=True,
    share=0.1,
)
def all_reduce_refused(subject: Subject, case: Case, count: int) -> None:
    made: list[Made] = shared.run(on_rank, subject, case, "all_reduce", ranks=count)
    for rank, each in enumerate(made):
        require(
            each.error is not None and subject.name in each.error,
            f"On rank {rank} of {count} all_reduce does not refuse it by name: {each.error}",
        )


def _compare(got: Results, expected: Results, rank: int, what: str, bounds: Results | None = None) -> None:
    for step, (mine, other) in enumerate(zip(got, expected, strict=True)):
        for output, tensor in mine.items():
            allowed = 0.0 if bounds is None else bounds[step][output]
            place = first_difference(tensor, other[output], allowed, step=step, output=output)
            if place is not None:
                raise Violation(what, attrs.evolve(place, rank=rank))


def _same_bits(made: list[Made]) -> None:
    for step in range(len(made[0].results)):
        found = [bits(each.results[step]) for each in made]
        odd = next((rank for rank, each in enumerate(found) if each != found[0]), None)
        require(odd is None, f"Step {step} has other bits on rank {odd} than on rank 0.")


def _bounds(subject: Subject, case: Case) -> Results:
    """Return how far each element may be from the serial result."""
    run = subject.start(case)
    bounds: Results = []
    for step in range(case.steps):
        plan = run.plan(step, case.sample(step))
        made = {branch.name: case.named(case.prediction(_key(branch), step)) for branch in plan.branches}
        result = case.named(
            run.finish(plan, {name: case.structured(named) for name, named in made.items()})
        )
        bound = {}
        for output, layout in plan.layout.outputs.items():
            sample, size = plan.samples[output], result[output].double().abs()
            info = (case.torch_dtype, result[output])
            rounding = _rounding(*info) * size
            if layout.held:
                bound[output] = rounding + 1e-6
                continue
            terms = [made[name][output].double() * weight for name, weight in layout.weights(sample)]
            allowed = len(plan.branches) * EPS * sum(term.abs() for term in terms)
            if layout.all_acting:
                allowed = _through(allowed, size)
            bound[output] = allowed + rounding
        bounds.append(bound)
    return bounds


def _through(allowed, size):  # type: ignore[no-untyped-def]
    rows = allowed.flatten(1).amax(1)
    largest = size.flatten(1).amax(1) * EPS
    shape = (-1, *(1,) * (allowed.ndim - 1))
    return CORRECTED * (rows + largest).view(shape).expand_as(allowed)


def _rounding(dtype, tensor):  # type: ignore[no-untyped-def]
    import torch

    return 0.0 if dtype is torch.float32 else torch.finfo(dtype).eps


def _key(branch):  # type: ignore[no-untyped-def]
    from guidance_core.conformance.case import key_of

    return key_of(branch)
