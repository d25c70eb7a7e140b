"""What a result does not depend on: a shift of all predictions, and what the model predicts."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from guidance_core.algebra.spaces import Noise, affine
from guidance_core.conformance.case import Case
from guidance_core.conformance.case_runs import (
    ROUNDING_ONLY,
    agree,
    played,
    steps_of,
)
from guidance_core.conformance.changed_host import ChangedHost
from guidance_core.conformance.registry import check
from guidance_core.conformance.strategies import cases
from guidance_core.conformance.subject import Subject


def _is_linear(subject: Subject) -> str | None:
    return (
        None
        if subject.is_linear
        else "it is not linear: it has "
        + ", ".join(
            f"a {name} wrapper" if wraps else name
            for name, wraps in subject.hooks.items()
            if wraps or name != "build_branches"
        )
    )


@check(
    "shift-equivariance",
    "A linear method moves along differences alone: adding one tensor to every prediction adds it to the result.",
    draw=cases(dtypes=("float64",)),
    applies=_is_linear,
)
def shift_equivariance(subject: Subject, case: Case) -> None:
    def shift(step: int, output: str, tensor: Tensor) -> Tensor:
        return tensor + case.drawn("shift", step, output)

    run = subject.start(case)
    shifted = steps_of(run, case, lambda case, step: ChangedHost(case, step, shift))
    plain = played(subject, case)
    expected = [
        {output: shift(step, output, tensor) for output, tensor in named.items()} for step, named in enumerate(plain)
    ]
    predicted = [  # an output that keeps its last x0 has nothing of this step's predictions
        {output: tensor for output, tensor in named.items() if not layout.outputs[output].held}
        for named, layout in zip(shifted, run.layouts, strict=True)
    ]
    agree(
        predicted,
        expected,
        "With one tensor added to every prediction, the result does not move by it.",
        ulps=ROUNDING_ONLY,
        beside=plain,
    )


def _space_is_clear(subject: Subject) -> str | None:
    if "flow" not in subject.prediction_types or len(subject.prediction_types) == 1:
        return f"it is made for {', '.join(subject.prediction_types)} alone; others are compared with flow"
    return "it works in the model's own space, whatever that is" if None in subject.spaces else None


@check(
    "space-invariance",
    "The result is the same whatever the model predicts (flow, x0, epsilon or v), for a linear method and for one "
    "that says in which space it works.",
    draw=cases(types=("x0", "epsilon", "v"), dtypes=("float64",), smallest=3),
    applies=_space_is_clear,
    differentiating=False,
)
def space_invariance(subject: Subject, case: Case) -> None:
    count = case.steps
    sigmas = [0.9 - 0.8 * step / max(count - 1, 1) for step in range(count)] + [0.0]
    levels: dict[str, Any] = {"sigmas": sigmas, "alphas": [1 - sigma for sigma in sigmas]}
    noises = [Noise(sigma, 1 - sigma) for sigma in sigmas]

    def converted(source: str, target: str, step: int, sample: Tensor, tensor: Tensor) -> Tensor:
        conversion = affine(source, target, noises[step])
        made: Tensor = conversion.a * sample + conversion.b * tensor
        return made

    def change(step: int, output: str, tensor: Tensor) -> Tensor:
        return converted("flow", case.prediction_type, step, case.named(case.sample(step))[output], tensor)

    guidance = subject.guidance(case)
    own = subject.start(case, guidance, prediction_type=case.prediction_type, **levels)
    outputs = [output for layout in own.layouts for output in layout.outputs.values()]
    if any(acting.needs.space is None for output in outputs for acting in output.all_acting):
        return  # with these parameters it works in the model's own space
    flow = steps_of(subject.start(case, guidance, prediction_type="flow", **levels), case)
    other = steps_of(own, case, lambda case, step: ChangedHost(case, step, change))
    back = [
        {
            output: converted(case.prediction_type, "flow", step, case.named(case.sample(step))[output], tensor)
            for output, tensor in named.items()
        }
        for step, named in enumerate(other)
    ]
    agree(
        back,
        flow,
        f"A model that predicts {case.prediction_type} gets another result than one that predicts flow.",
        ulps=ROUNDING_ONLY,
    )
