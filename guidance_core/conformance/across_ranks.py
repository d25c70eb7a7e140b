"""Comparing what several ranks made with what one process makes."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from guidance_core.conformance.case import Case, Host
from guidance_core.conformance.case_runs import Results
from guidance_core.conformance.jobs import Made, bits
from guidance_core.conformance.violation import Violation, first_difference, require
from guidance_core.run import Run

EPS = 2.0**-23
CORRECTED = 64.0
"How many times the bound of the sum a result may differ after corrections, which pass an error on and add their own."


def compare_ranks(made: Sequence[Made], what: str, bounds: Results | None = None, *, evaluations: int = 1) -> None:
    """Raise `Violation` unless every rank's results are the serial ones: the same bits, or within bounds."""
    for rank, each in enumerate(made):
        for number, (mine, other) in enumerate(zip(each.results, made[0].serial, strict=True)):
            step = number // evaluations
            require(mine.keys() == other.keys(), f"{what}\nStep {step} has outputs {', '.join(mine)} on rank {rank}.")
            for output, tensor in mine.items():
                wanted = other[output]
                if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
                    raise Violation(
                        f"{what}\nStep {step}, output {output!r} on rank {rank} is {tensor.dtype} "
                        f"{list(tensor.shape)}, not {wanted.dtype} {list(wanted.shape)}."
                    )
                allowed = 0.0 if bounds is None else bounds[number][output]
                place = first_difference(tensor, wanted, allowed, step=step, output=output)
                if place is not None:
                    raise Violation(what, attrs.evolve(place, rank=rank))


def same_bits(made: Sequence[Made], *, evaluations: int = 1) -> None:
    """Raise `Violation` unless every rank has the bits of rank 0."""
    for number in range(min(len(each.results) for each in made)):
        step = number // evaluations
        found = [bits(each.results[number]) for each in made]
        odd = next((rank for rank, each in enumerate(found) if each != found[0]), None)
        require(odd is None, f"Step {step} has other bits on rank {odd} of {len(made)} than on rank 0.")


def sum_bounds(run: Run, case: Case) -> Results:
    """Return how far each element may be from the serial result where ranks add up in another order.

    `n·2⁻²³·Σ|wᵢ·pᵢ|` for n branches, 64 times the largest of that in the sample after corrections, and one
    rounding of the result's dtype. Makes the steps of `run`.
    """
    bounds: Results = []
    for step, levels in case.moments:
        plan = run.plan(step, case.sample(step), **levels)
        host = Host(case, step)
        made = {branch.name: case.named(host(branch)) for branch in plan.branches}
        result = case.named(run.finish(plan, {name: case.structured(named) for name, named in made.items()}))
        bound = {}
        for output, layout in plan.layout.outputs.items():
            size = result[output].double().abs()
            narrow = case.dtype in ("float16", "bfloat16")
            info = torch.finfo(case.torch_dtype)
            rounding = info.eps * size + info.smallest_normal * info.eps if narrow else torch.zeros_like(size)
            if layout.held:  # an earlier result, converted
                bound[output] = rounding + CORRECTED * EPS * _spread(size)
                continue
            terms = [
                (made[name][output].double() * weight).abs() for name, weight in layout.weights(plan.samples[output])
            ]
            allowed: Tensor = len(plan.branches) * EPS * torch.stack(terms).sum(0)
            if layout.all_acting:
                allowed = CORRECTED * (_spread(allowed) + EPS * _spread(size))
            bound[output] = allowed + rounding
        bounds.append(bound)
    return bounds


def _spread(each: Tensor) -> Tensor:
    """Return the largest value of each sample, everywhere in it: statistics spread an error over the sample."""
    largest = each.flatten(1).amax(1)
    return largest.view(-1, *(1,) * (each.ndim - 1)).expand_as(each)
