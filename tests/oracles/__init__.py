"""Every shipped method against its formula, written out in float64; one module for each method.

A module holds `ORACLE`, and is found by itself. `test_oracles.py` plays them all.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from hypothesis import strategies as st
from torch import Tensor

from guidance_core import Guidance

COUNT = 4
"Steps of a run."
SIGMAS = tuple(1 - index / COUNT for index in range(COUNT + 1))
ALPHAS = tuple(1 - sigma for sigma in SIGMAS)
CONDITIONS = {name: {"text": torch.zeros(1, 3)} for name in ("positive", "negative")}


@attrs.frozen
class Facts:
    """What a formula may use besides the predictions: numbers in float64."""

    index: int
    x: Tensor
    "The noisy sample, `[B, ...]`."
    memory: dict[str, Any]
    "Kept between the steps of a run, empty at first."
    count: int = COUNT

    @property
    def sigma(self) -> float:
        return SIGMAS[self.index]

    @property
    def next_sigma(self) -> float:
        return SIGMAS[self.index + 1]


@attrs.frozen
class Oracle:
    """How one method is compared with its formula."""

    stack: Callable[..., list[Any]]
    "Given the parameters by name, the plugins to run: the method, after or before what it needs."
    formula: Callable[..., Tensor]
    "Given `Facts`, the predictions by branch in float64 and the parameters by name, the result in float64."
    parameters: st.SearchStrategy[dict[str, Any]]
    branches: tuple[str, ...] = ("cond", "uncond")
    prediction_type: str = "x0"
    conditions: Mapping[str, Mapping[str, Any]] = attrs.field(default=CONDITIONS)
    shapes: tuple[tuple[int, ...], ...] = ((1, 16, 8), (2, 4, 8, 8), (3, 2, 3, 4, 4))
    units: float = 16.0
    "Of float32 rounding of the largest number in the formula: how far a result in float32 may be."
    needs: Callable[[Mapping[str, Tensor]], bool] = lambda _: True
    "Whether the method is defined for these predictions (a pole of the formula is no place to compare at)."
    aside: float = 0.0
    "What share of the values may lie beside the formula, for a method that chooses: rounding may choose otherwise."
    "What share of the values may lie beside the formula, of a method that chooses: rounding may choose otherwise."


def oracles() -> dict[str, Oracle]:
    """Return all, by module."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names if not name.startswith("_")}
    return {name: module.ORACLE for name, module in modules.items()}


def predicted(oracle: Oracle, seed: int, shape: tuple[int, ...], apart: float, dtype: torch.dtype) -> list[Any]:
    """Return a sample and the predictions of each branch for every step; `apart` is how far those are from cond."""
    generator = torch.Generator().manual_seed(seed)
    steps = []
    for _ in range(COUNT):
        x, c, *others = (torch.randn(shape, generator=generator) for _ in range(1 + len(oracle.branches)))
        given = {"cond": c, **{name: c + apart * d for name, d in zip(oracle.branches[1:], others, strict=True)}}
        steps.append((x.to(dtype), {name: each.to(dtype) for name, each in given.items()}))
    return steps


def played(oracle: Oracle, steps: list[Any], parameters: Mapping[str, Any]) -> list[Tensor]:
    """Return what the library makes of the predictions."""
    given = {} if oracle.prediction_type in ("flow", "x0") else {"alphas": ALPHAS}
    run = Guidance(oracle.stack(**parameters)).start(
        conditions=oracle.conditions, sigmas=SIGMAS, prediction_type=oracle.prediction_type, seeds=7, **given
    )
    return [
        run.step(index, x, lambda branch, all_=predictions: all_[branch.name].clone())
        for index, (x, predictions) in enumerate(steps)
    ]


def written_out(oracle: Oracle, steps: list[Any], parameters: Mapping[str, Any]) -> list[Tensor]:
    """Return what the formula makes of them, in float64."""
    memory: dict[str, Any] = {}
    results = []
    for index, (x, predictions) in enumerate(steps):
        exact = {name: each.double() for name, each in predictions.items()}
        results.append(oracle.formula(Facts(index, x.double(), memory), exact, **parameters))
    return results


def per_sample(x: Tensor, like: Tensor) -> Tensor:
    """Return one number for each sample, `[B]`, so that it broadcasts."""
    return x.view(-1, *(1,) * (like.ndim - 1))


def inner(x: Tensor, y: Tensor) -> Tensor:
    """Return the inner product of each sample, `[B, 1, ...]`."""
    return per_sample((x * y).flatten(1).sum(1), x)


def norm(x: Tensor) -> Tensor:
    """Return the norm of each sample, `[B, 1, ...]`."""
    return inner(x, x).sqrt()
