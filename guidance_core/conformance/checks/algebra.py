"""What every method owes the algebra `guided = cond + Σ strength·(cond − branch) + Σ deltas`."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from guidance_core.algebra.spaces import Noise, affine
from guidance_core.conformance.candidates import same
from guidance_core.conformance.case import Case, Host
from guidance_core.conformance.case_runs import (
    ROUNDING_ONLY,
    Passes,
    Results,
    agree,
    kind,
    played,
    predictions_of,
    recorded,
    steps_of,
)
from guidance_core.conformance.registry import check
from guidance_core.conformance.strategies import cases
from guidance_core.conformance.subject import Subject
from guidance_core.conformance.violation import NotApplicable, Place, Violation, first_difference, require
from guidance_core.errors import GuidanceError, PluginError
from guidance_core.guidance import Guidance
from guidance_core.methods.requests import BASE
from guidance_core.run import Run

NEXT_TO_ONE = 1.0000000000000002
NEAR = 1e-6


def _asks_for_branches(subject: Subject) -> str | None:
    return None if subject.branches else "it asks for no branch of its own"


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
        still = subject.still_acting
        if still:
            raise Violation(
                f"With {still} only `cond` is asked for, but its {' and '.join(subject.acting_hooks)} is still called. "
                "Return [Needs(outputs=())] from build_branches where it is neutral: no hook is called for no output."
            )
        raise Violation(
            "No parameter value of 0 or 1 makes it run `cond` alone: a user cannot switch it off without paying for "
            "its passes. Leave the branch out (or at strength 0, not required) where the scale is neutral; if neutral "
            "is another value, declare it as a class attribute, `neutral = {'scale': ...}`, or None if there is none."
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


class _Changed(Host):
    """A host whose predictions are changed by a function of the case, the step and the output."""

    def __init__(self, case: Case, step: int, change: Any) -> None:
        super().__init__(case, step)
        self.change = change

    def __call__(self, branch: Any) -> Any:
        named = self.case.named(super().__call__(branch))
        return self.case.structured(
            {output: self.change(self.step, output, tensor) for output, tensor in named.items()}
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
    shifted = steps_of(run, case, lambda case, step: _Changed(case, step, shift))
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
)
def space_invariance(subject: Subject, case: Case) -> None:
    count = case.steps
    sigmas = [0.9 - 0.8 * step / max(count - 1, 1) for step in range(count)] + [0.0]
    levels: dict[str, Any] = {"sigmas": sigmas, "alphas": [1 - sigma for sigma in sigmas]}
    noises = [Noise(sigma, 1 - sigma) for sigma in sigmas]

    def converted(source: str, target: str, step: int, sample: Tensor, tensor: Tensor) -> Tensor:
        conversion = affine(source, target, noises[step])
        return conversion.a * sample + conversion.b * tensor

    def change(step: int, output: str, tensor: Tensor) -> Tensor:
        return converted("flow", case.prediction_type, step, case.named(case.sample(step))[output], tensor)

    guidance = subject.guidance(case)
    own = subject.start(case, guidance, prediction_type=case.prediction_type, **levels)
    outputs = [output for layout in own.layouts for output in layout.outputs.values()]
    if any(acting.needs.space is None for output in outputs for acting in output.all_acting):
        return  # with these parameters it works in the model's own space
    flow = steps_of(subject.start(case, guidance, prediction_type="flow", **levels), case)
    other = steps_of(own, case, lambda case, step: _Changed(case, step, change))
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


class _NarrowTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the dtypes narrower than float32 that anything is computed in."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_floating_point() and result.itemsize < 4:
            self.found.add(str(result.dtype).removeprefix("torch."))
        return result


@check(
    "accumulation",
    "Sums are accumulated in float32 and rounded once: the error against the same in float64 is of that size.",
    draw=cases(dtypes=("float32", "bfloat16", "float16"), smallest=8, batch=(1, 2)),
)
def accumulation(subject: Subject, case: Case) -> None:
    run = subject.start(case)
    exact = _in_float64(run, case)
    dtype = case.torch_dtype
    with _NarrowTensors() as narrow:
        mine = played(subject, case)
    require(
        dtype is not torch.float32 or not narrow.found,
        f"With float32 predictions a hook makes tensors of {', '.join(sorted(narrow.found))}; compute in the dtype of "
        "the predictions it gets, which is float32 or wider.",
    )
    moved: list[Results] = []
    for step, named in enumerate(exact):
        for output, tensor in named.items():
            if run.layouts[step].outputs[output].held:
                continue  # an earlier result, which was rounded
            size = max(float(tensor.abs().max()), 8.0)
            rounding = 0.5 * torch.finfo(dtype).eps * tensor.abs() if dtype is not torch.float32 else 0.0
            allowed = rounding + 2.0**-14 * size
            if _beyond(mine[step][output], tensor, allowed, step, output) is None:
                continue
            # Where the method jumps, as a quantile does between equal values, so does the exact result beside it.
            moved = moved or [_in_float64(subject.start(case), case, moved_by=seed) for seed in (1, 2, 3)]
            jump = torch.stack([(each[step][output] - tensor).abs() for each in moved]).amax(0)
            place = _beyond(mine[step][output], tensor, allowed + 16 * jump, step, output)
            if place is not None:
                raise Violation(
                    "The result is further from the same in float64 than rounding float32 sums once allows.", place
                )


def _in_float64(run: Run, case: Case, moved_by: int | None = None) -> Results:
    """Return the results with all that is given in float64, perhaps moved by about what float32 rounds to."""

    def widened(step: int, output: str, tensor: Tensor) -> Tensor:
        wide = tensor.double()
        if moved_by is None:
            return wide
        generator = torch.Generator().manual_seed(moved_by)
        return wide * (1 + 2.0**-22 * torch.randn(wide.shape, generator=generator, dtype=wide.dtype))

    results = []
    for step in range(case.steps):
        sample = {name: widened(step, name, each) for name, each in case.named(case.sample(step)).items()}
        results.append(case.named(run.step(step, case.structured(sample), _Changed(case, step, widened))))
    return results


def _beyond(got: Tensor, expected: Tensor, allowed: Tensor | float, step: int, output: str) -> Place | None:
    place = first_difference(got, expected, allowed, step=step, output=output)
    return place if place is not None and math.isfinite(place.expected) else None


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
