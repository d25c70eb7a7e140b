"""Finite predictions give finite results, whatever they are."""

from __future__ import annotations

from typing import Any

import attrs
import torch

from guidance_core.conformance.case import Case
from guidance_core.conformance.case_runs import Results, played
from guidance_core.conformance.registry import check
from guidance_core.conformance.strategies import at_edges, cases
from guidance_core.conformance.subject import Subject
from guidance_core.conformance.violation import Violation

DTYPES = ("float32", "bfloat16", "float16")
MAGNITUDES = (1.0, 100.0, 1e-3, 100.0, 1e-7, 100.0)
"Large ones more often: they find the most."


def _finite(subject: Subject, case: Case, given: str) -> None:
    exact: Results | None = None
    largest = torch.finfo(case.torch_dtype).max
    for step, named in enumerate(played(subject, case)):
        for output, tensor in named.items():
            if bool(torch.isfinite(tensor).all()):
                continue
            if exact is None:
                exact = played(subject, attrs.evolve(case, dtype="float64"))
            # what is too large for the dtype is not the method's fault
            size = exact[step][output].abs()
            wrong = ~torch.isfinite(tensor) & ~(torch.isfinite(size) & (size > 0.5 * largest))
            if bool(wrong.any()):
                index = wrong.nonzero()[0].tolist()
                raise Violation(
                    f"{given}, step {step} gives {float(tensor[tuple(index)])} in output {output!r} at {index} "
                    f"({int(wrong.sum())} of {wrong.numel()} elements are not finite). Where it divides, "
                    "guidance_core.ratio(a, b) gives 1 for a divisor of 0."
                )


@check(
    "finite",
    "Finite predictions give a finite result, small ones and large ones too.",
    draw=cases(dtypes=DTYPES, magnitudes=MAGNITUDES, firsts=(0.95, 1.0)),
)
def finite(subject: Subject, case: Case) -> None:
    _finite(subject, case, "With finite predictions")


@check(
    "zero-variance",
    "Predictions without spread (a constant per sample) give a finite result.",
    draw=cases(fills=("constant",), dtypes=DTYPES, magnitudes=(1.0, 100.0)),
)
def zero_variance(subject: Subject, case: Case) -> None:
    _finite(subject, case, "With predictions that are constant over each sample")


@check(
    "zero-norm",
    "Predictions that are all zero, or zero in every branch but `cond`, give a finite result.",
    draw=cases(fills=("zero", "zero others"), dtypes=DTYPES),
)
def zero_norm(subject: Subject, case: Case) -> None:
    _finite(subject, case, "With predictions that are 0")


@check(
    "parallel-branches",
    "Branches that predict the same as `cond`, or twice as much, give a finite result: a difference or its "
    "orthogonal part may be 0.",
    draw=cases(fills=("equal", "twice"), dtypes=DTYPES),
)
def parallel_branches(subject: Subject, case: Case) -> None:
    _finite(subject, case, f"With every branch {'equal to' if case.fill == 'equal' else 'twice'} cond")


EDGES: tuple[dict[str, Any], ...] = (
    *({"fill": fill} for fill in ("zero", "zero others", "equal", "twice", "constant")),
    *({"magnitude": magnitude} for magnitude in (1e30, 1e-30)),  # whose squares are not float32 numbers
    *({"magnitude": 1e4, "dtype": "float16"}, {"magnitude": 1e30, "fill": "constant"}),
)
"Predictions that are tried with every set of parameters."


@check(
    "finite-at-bounds",
    "Parameters at 0 and at their bounds, alone and together, give a finite result, whether predictions are 0, equal, "
    "tiny or huge.",
    draw=cases(
        fills=("zero", "zero others", "equal", "twice", "constant", "normal"),
        dtypes=("float32", "bfloat16"),
        magnitudes=(1.0, 1e30, 1e-30),
        edges=True,
    ),
    besides=lambda subject: at_edges(subject, EDGES),
)
def finite_at_bounds(subject: Subject, case: Case) -> None:
    _finite(subject, case, f"With {dict(case.parameters) or 'its own parameters'} and finite predictions")
