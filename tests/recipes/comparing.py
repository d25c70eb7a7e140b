"""Runs of recipes over drawn predictions, for the comparisons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st

from guidance_core import Guidance
from guidance_core.recipes import recipe_named

compared = settings(deadline=None, max_examples=25)
scales = st.floats(0.5, 12).map(lambda value: round(value, 2))
seeds = st.integers(0, 2**16)
videos = st.sampled_from([(1, 4, 3, 4, 4), (2, 2, 3, 4, 2), (3, 4, 1, 2, 2)])
"Shapes [B, C, F, H, W]."
tokens = st.sampled_from([(1, 16, 8), (2, 6, 4), (3, 1, 8)])
"Shapes [B, N, C]."

Prediction = torch.Tensor | dict[str, torch.Tensor]


def drawn(seed: int, shape: Sequence[int], *names: str) -> dict[str, torch.Tensor]:
    """Return a tensor for each name, around a common part, as the passes of one step are."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(tuple(shape), generator=generator)
    return {name: common + 0.5 * torch.randn(tuple(shape), generator=generator) for name in names}


def steps_of(seed: int, shape: Sequence[int], *names: str, steps: int = 4) -> list[dict[str, torch.Tensor]]:
    """Return the predictions of each step, by branch."""
    return [drawn(seed + i, shape, *names) for i in range(steps)]


def falling(steps: int) -> list[float]:
    """Return sigmas from 1 to 0."""
    return [1 - i / steps for i in range(steps + 1)]


def guided(
    recipe: str,
    predictions: Sequence[dict[str, Any]],
    *,
    sigmas: Sequence[float] | None = None,
    samples: Callable[[int], Any] | None = None,
    settings: dict[str, Any] | None = None,
    **parameters: Any,
) -> list[Any]:
    """Return what the recipe makes of the predictions, a dict by branch for each step.

    Args:
        recipe: its name; `parameters` are its own.
        predictions: of every step.
        sigmas: one more than steps; falling from 1 to 0 if not given.
        samples: the sample of a step; zeros if not given.
        settings: more arguments of `start`.
    """
    about = recipe_named(recipe)
    run = Guidance.recipe(recipe, **parameters).start(
        conditions={name: {} for name in ("positive", *about.conditions)},
        sigmas=falling(len(predictions)) if sigmas is None else sigmas,
        prediction_type=about.prediction_types[0],
        **(settings or {}),
    )
    results = []
    for i, given in enumerate(predictions):
        first = given["cond"]
        zeros = {key: torch.zeros_like(each) for key, each in first.items()} if isinstance(first, dict) else None
        sample = samples(i) if samples else zeros or torch.zeros_like(first)
        results.append(run.step(i, sample, lambda branch, given=given: given[branch.name]))
    return results


def assert_close(mine: Any, other: Any, size: float = 1.0) -> None:
    """Assert equality within a few units of float32's rounding of terms as large as `size`."""
    torch.testing.assert_close(mine, other, rtol=2e-5, atol=2e-6 * (1 + abs(size)))
