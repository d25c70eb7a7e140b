"""Sums in float32, rounded once."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from guidance_core.conformance.case import Case
from guidance_core.conformance.case_runs import (
    Results,
    played,
)
from guidance_core.conformance.changed_host import ChangedHost
from guidance_core.conformance.registry import check
from guidance_core.conformance.strategies import cases
from guidance_core.conformance.subject import Subject
from guidance_core.conformance.violation import Place, Violation, first_difference, require
from guidance_core.run import Run


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
    differentiating=False,
)
def accumulation(subject: Subject, case: Case) -> None:
    run = subject.start(case)
    exact = _in_float64(run, case)
    dtype = case.torch_dtype
    with _NarrowTensors() as narrow:
        mine = played(subject, case)
    told = bool(getattr(subject.cls, "rounds_as_told", False))
    coarsest = max((torch.finfo(getattr(torch, name)).eps for name in narrow.found), default=0.0) if told else 0.0
    require(
        told or dtype is not torch.float32 or not narrow.found,
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
            allowed = rounding + (2.0**-14 + 4 * coarsest) * size
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
        results.append(case.named(run.step(step, case.structured(sample), ChangedHost(case, step, widened))))
    return results


def _beyond(got: Tensor, expected: Tensor, allowed: Tensor | float, step: int, output: str) -> Place | None:
    place = first_difference(got, expected, allowed, step=step, output=output)
    return place if place is not None and math.isfinite(place.expected) else None
