"""Making the runs that checks compare, and comparing them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from guidance_core.conformance.case import Case, Host
from guidance_core.conformance.subject import Subject
from guidance_core.conformance.violation import Violation, first_difference
from guidance_core.executors.base import Executor
from guidance_core.guidance import Guidance
from guidance_core.run import Run
from guidance_core.steps.plan import Plan

Results: TypeAlias = list[dict[str, Tensor]]
"Guided predictions by step and output."

ROUNDING_ONLY = 2.0**20
"""Allowance, in units in the last place of float64, where only the order of operations may differ.

Corrections may make much of a difference in the last place, as where they divide by a small spread; what
really differs does so by far more than 2·10⁻¹⁰ of the largest value.
"""

PARAMETER_ROUNDING = 2.0**34
"The same where a parameter is a tensor, which is held in float32: 4·10⁻⁶ of the largest value."


def played(
    subject: Subject,
    case: Case,
    guidance: Guidance | None = None,
    executor: str | Executor = "serial",
    **settings: Any,
) -> Results:
    """Run all steps of a case and return the results."""
    return steps_of(subject.start(case, guidance, executor, **settings), case)


def steps_of(run: Run, case: Case, host: Callable[[Case, int], Any] = Host) -> Results:
    """Make every evaluation of a run with the case's own sample and predictions."""
    return [case.named(run.step(step, case.sample(step), host(case, step), **levels)) for step, levels in case.moments]


def halves_of(run: Run, case: Case) -> Iterator[tuple[Plan, dict[str, Tensor]]]:
    """Make every evaluation of a run by its halves, `plan` and `finish`; yield plan and result of each."""
    for step, levels in case.moments:
        plan, host = run.plan(step, case.sample(step), **levels), Host(case, step)
        result = run.finish(plan, {branch.name: host(branch) for branch in plan.branches})
        yield plan, case.named(result)


Passes: TypeAlias = list[list[tuple[str, str]]]
"The passes of each evaluation: the branch, and what stands for its content."


def recorded(subject: Subject, case: Case, guidance: Guidance | None = None) -> tuple[Results, Passes]:
    """Run all steps of a case and return the results, and what was run for them."""
    hosts: list[Host] = []

    def host(case: Case, step: int) -> Host:
        hosts.append(Host(case, step))
        return hosts[-1]

    results = steps_of(subject.start(case, guidance), case, host)
    return results, [[(made.branch, made.key) for made in host.passes] for host in hosts]


def agree(
    got: Results,
    expected: Results,
    what: str,
    *,
    ulps: float = 0.0,
    beside: Results | None = None,
    evaluations: int = 1,
) -> None:
    """Raise `Violation` unless two results are equal.

    Args:
        got: what the promise is about.
        expected: what it should be.
        what: a sentence for the case that it is not.
        ulps: how far they may differ, in units in the last place (of `got`'s dtype) of the largest value of
            the tensor; 0 for the same bits.
        beside: tensors whose values count in that too.
        evaluations: how many results each step has.
    """
    for number, (mine, other) in enumerate(zip(got, expected, strict=True)):
        step = number // evaluations
        for output, tensor in mine.items():
            wanted = other[output]
            if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
                raise Violation(f"{what}\nOutput {output!r} of step {step} is {kind(tensor)}, not {kind(wanted)}.")
            allowed = 0.0
            if ulps:
                size = _largest([wanted, *([beside[number][output]] if beside else [])])
                allowed = ulps * torch.finfo(tensor.dtype).eps * size
            place = first_difference(tensor, wanted, allowed, step=step, output=output)
            if place is not None:
                raise Violation(what, place)


def _largest(tensors: Iterable[Tensor]) -> float:
    return max((float(tensor.double().abs().nan_to_num(0.0, 0.0, 0.0).max()) for tensor in tensors), default=0.0)


def only(results: Results, rows: Sequence[int]) -> Results:
    """Return some samples of results."""
    chosen = list(rows)
    return [{output: tensor[chosen] for output, tensor in step.items()} for step in results]


def kind(tensor: Tensor) -> str:
    """Return shape and dtype in words."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def predictions_of(case: Case) -> Results:
    """Return what the base branch predicts at each step."""
    return [case.named(case.prediction("cond", step)) for step in range(case.steps)]
