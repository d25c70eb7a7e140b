"""Branches: the same names and contents at every step and in every process, whatever the data."""

from __future__ import annotations

import attrs

from guidance_core.conformance.case import Case, Host, unedited_key_of
from guidance_core.conformance.registry import check
from guidance_core.conformance.strategies import cases
from guidance_core.conformance.subject import Subject, follows_predictions
from guidance_core.conformance.violation import require


@check(
    "stable-branches",
    "A branch name, with what amends its passes, stands for the same pass at every step: hosts key their caches on it.",
    draw=cases(steps=(4, 8), batch=(1, 1), varied_structure=False, long=50, evaluations=2),
)
def stable_branches(subject: Subject, case: Case) -> None:
    run = subject.start(case)
    first: dict[tuple[str, ...], tuple[int, str, str]] = {}
    for step, levels in case.moments:
        plan = run.plan(step, case.sample(step), **levels)
        for branch in plan.branches:
            perturbations = ", ".join(map(str, branch.perturbations)) or "no perturbation"
            content = f"inputs {dict(branch.inputs)}, {perturbations}, model {branch.model}"
            earlier, held, key = first.setdefault(
                (branch.name, *branch.amended_by), (step, content, unedited_key_of(branch))
            )
            require(
                key == unedited_key_of(branch),
                f"Branch {branch.name!r} is {held} at step {earlier} and {content} at step {step}"
                f"{', evaluated again' if levels else ''}; give another pass another name.",
            )
        run.finish(plan, {branch.name: Host(case, step)(branch) for branch in plan.branches})


@check(
    "data-independent-plan",
    "Which passes a step runs, and with which strengths, does not depend on the sample or on predictions, so that "
    "every rank plans the same.",
    draw=cases(steps=(2, 4)),
    applies=follows_predictions,
    share=0.5,
)
def data_independent_plan(subject: Subject, case: Case) -> None:
    other = attrs.evolve(case, seed=case.seed + 1, magnitude=100.0)
    guidance = subject.guidance(case)
    runs = [subject.start(each, guidance) for each in (case, other)]
    for step in range(case.steps):
        plans = [run.plan(step, each.sample(step)) for run, each in zip(runs, (case, other), strict=True)]
        names = [[branch.name for branch in plan.branches] for plan in plans]
        require(names[0] == names[1], f"Step {step} runs {names[0]} for one sample and {names[1]} for another.")
        strengths = [plan.layout.fingerprint for plan in plans]
        require(strengths[0] == strengths[1], f"The strengths of step {step} depend on the sample.")
        for plan, run, each in zip(plans, runs, (case, other), strict=True):
            run.finish(plan, {branch.name: Host(each, step)(branch) for branch in plan.branches})
