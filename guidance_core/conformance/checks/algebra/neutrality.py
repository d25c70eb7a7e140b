"""Parameters that ask for nothing, and zero as a value like any other."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from guidance_core.conformance.candidates import same
from guidance_core.conformance.case import Case
from guidance_core.conformance.case_runs import (
    Passes,
    Results,
    agree,
    played,
    predictions_of,
    recorded,
)
from guidance_core.conformance.registry import check
from guidance_core.conformance.strategies import cases
from guidance_core.conformance.subject import Subject
from guidance_core.conformance.violation import NotApplicable, Violation, require
from guidance_core.errors import GuidanceError
from guidance_core.guidance import Guidance
from guidance_core.methods.requests import BASE

NEXT_TO_ONE = 1.0000000000000002
NEAR = 1e-6


def _asks_for_branches(subject: Subject) -> str | None:
    return None if subject.branches else "it asks for no branch of its own"


@check(
    "neutral",
    "With neutral parameters (a scale of 1, a strength of 0) one pass runs, and its prediction is the result, bit "
    "for bit.",
    draw=cases(varied=False, dtypes=("float32", "bfloat16")),
    applies=_asks_for_branches,
    share=0.25,
)
def neutral(subject: Subject, case: Case) -> None:
    changed = subject.neutral
    if changed is None and hasattr(subject.cls, "neutral"):
        raise NotApplicable("it says that it has no neutral parameters")
    if changed is None:
        if not any(values for values in subject.alternatives.values()):
            raise NotApplicable("it has no parameter that could be neutral")
        still = next((each for each in subject.at_zero_or_one if subject.left_of(each) == ({BASE}, True)), None)
        if still:
            raise Violation(
                f"With {still} only `cond` is asked for, but its {' and '.join(subject.acting_hooks)} is still called. "
                "Return [] from build_branches where it is neutral: the plugin is then off for the step."
            )
        raise Violation(
            "No single parameter at 0 or 1 makes it run `cond` alone: a user cannot switch it off without paying for "
            "its passes. Leave the branch out (or at strength 0, not required) where the scale is neutral; if other "
            "values are neutral, declare them as a class attribute, `neutral = {'scale': ...}`, or None if there are "
            "none."
        )
    near = {name: NEXT_TO_ONE if name in subject.numeric and value == 1 else value for name, value in changed.items()}
    for one in (changed, near):
        plugin = subject.changed(one)
        run = subject.start(case, Guidance([plugin]))
        for step in range(case.steps):
            plan = run.plan(step, case.sample(step))
            names = [branch.name for branch in plan.branches]
            require(names == [BASE], f"With {one} step {step} runs {', '.join(names)}; it should run cond alone.")
            run.finish(plan, {BASE: case.prediction(BASE, step)})
        agree(
            played(subject, case, Guidance([plugin])),
            predictions_of(case),
            f"With {one} the result is not the base prediction.",
        )


@check(
    "zero-is-a-value",
    "A parameter given as 0 is 0, not `not given`.",
    draw=cases(varied=False, steps=(2, 2), batch=(1, 1), smallest=4, varied_structure=False),
    share=0.2,
)
def zero_is_a_value(subject: Subject, case: Case) -> None:
    default = _seen(subject, case, {})
    for name, values in subject.alternatives.items():
        own = getattr(subject.plugin, name)
        if not any(same(0.0, value) for value in values):
            continue
        try:
            at_zero, at_near = _seen(subject, case, {name: 0.0}), _seen(subject, case, {name: NEAR})
        except (GuidanceError, ValueError):  # it is refused; bad-parameters looks at how
            continue
        if isinstance(own, float) and not _acts(subject, case, name, own, default):
            continue  # its own value does nothing here, like a limit that is not reached
        require(
            not _equal(at_zero, default) or _equal(at_near, default),
            f"{name}=0 gives what leaving {name} out gives, but {name}={NEAR:g} gives something else: a test such as "
            f"`self.{name} or default` takes 0 for `not given`.",
        )


def _acts(subject: Subject, case: Case, name: str, own: float, default: tuple[Results, Passes]) -> bool:
    """Whether a value of twice the size, or half where that is not allowed, gives another result."""
    for factor in (2.0, 0.5):
        with contextlib.suppress(GuidanceError, ValueError):
            return not _equal(_seen(subject, case, {name: factor * own}), default)
    return True


def _seen(subject: Subject, case: Case, changed: dict[str, Any]) -> tuple[Results, Passes]:
    """Return the results and passes of a run with changed parameters."""
    return recorded(subject, case, Guidance(subject.stacked(subject.changed(changed))))


def _equal(one: tuple[Results, Passes], other: tuple[Results, Passes]) -> bool:
    return one[1] == other[1] and all(
        torch.equal(mine[output], theirs[output])
        for mine, theirs in zip(one[0], other[0], strict=True)
        for output in mine
    )
