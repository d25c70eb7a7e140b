"""Structure, shapes and dtypes of results."""

from __future__ import annotations

import attrs
from torch import Tensor

from guidance_core.conformance.case import Case, Host
from guidance_core.conformance.case_runs import (
    agree,
    kind,
    played,
)
from guidance_core.conformance.registry import check
from guidance_core.conformance.strategies import cases
from guidance_core.conformance.subject import Subject
from guidance_core.conformance.violation import Violation, require
from guidance_core.errors import PluginError
from guidance_core.methods.requests import BASE


@check(
    "structure-and-dtype",
    "The result has the structure, shapes, dtype and device that the denoiser returned, in float16, bfloat16, float32 "
    "and float64.",
    draw=cases(),
    share=0.5,
)
def structure_and_dtype(subject: Subject, case: Case) -> None:
    for dtype in ("float32", "bfloat16", "float16", "float64"):
        each = attrs.evolve(case, dtype=dtype)
        run = subject.start(each)
        for step in range(case.steps):
            given = each.prediction(BASE, step)
            try:
                result = run.step(step, each.sample(step), Host(each, step))
            except PluginError as error:
                raise Violation(f"With {dtype} predictions it fails: {error}") from error
            require(
                type(result) is type(given), f"The denoiser returns a {type(given).__name__}, the step another type."
            )
            for output, tensor in each.named(result).items():
                wanted = each.named(given)[output]
                same = (tensor.shape, tensor.dtype, tensor.device) == (wanted.shape, wanted.dtype, wanted.device)
                require(same, f"Output {output!r} is {kind(tensor)}, predicted {kind(wanted)}.")


@check(
    "one-structure-as-another",
    "One set of values gives one result, whether the host returns it as a tuple, as a dict, or as dicts of another "
    "order.",
    draw=cases(varied=True),
)
def one_structure_as_another(subject: Subject, case: Case) -> None:
    names = case.outputs or ("output",)
    expected = played(subject, attrs.evolve(case, structure="dict", outputs=names))
    for other in (
        attrs.evolve(case, structure="tuple", outputs=names),
        *([attrs.evolve(case, structure="tensor", outputs=())] if len(names) == 1 and not case.outputs else []),
    ):
        agree(played(subject, other), expected, f"As a {other.structure} the result is another than as a dict.")
    reverse = attrs.evolve(case, structure="dict", outputs=names)
    run = subject.start(reverse)
    got = []
    for step in range(case.steps):
        plan = run.plan(step, _turned(reverse.sample(step)))
        host = Host(reverse, step)
        made = {branch.name: _turned(host(branch)) for branch in reversed(plan.branches)}
        got.append(reverse.named(run.finish(plan, made)))
    agree(got, expected, "With the host's dicts in another order the result is another.")


def _turned(named: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(reversed(named.items()))
