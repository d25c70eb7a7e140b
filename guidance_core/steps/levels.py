"""Noise levels that a host gives for one evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from torch import Tensor

from guidance_core.algebra.outputs import Structure, is_dense, layout_of
from guidance_core.algebra.spaces import Noise, check_sigma
from guidance_core.errors import ConfigurationError, brief
from guidance_core.methods.resolving import placed

ROUNDING = 0.01
"Relative: hosts compute levels in bfloat16 too."
CHURN = math.sqrt(2)
"How much churn may raise a noise level: Karras et al., arXiv:2206.00364, Alg. 2."


def check_belongs(levels: Sequence[float], index: int, sigma: float, output: str) -> None:
    """Raise `ConfigurationError` for a noise level at which no sampler evaluates a step.

    Args:
        levels: noise levels, one for each step and the final one.
        index: the step.
        sigma: the noise level.
        output: whose levels they are, for the error.
    """
    low, high = sorted(levels[index : index + 2])
    if low * (1 - ROUNDING) <= sigma <= high * CHURN * (1 + ROUNDING):
        return
    steps = range(len(levels) - 1)
    fitting = [each for each in steps if min(levels[each : each + 2]) <= sigma <= max(levels[each : each + 2])]
    hint = f" It belongs to step {fitting[0]}." if fitting else ""
    raise ConfigurationError(
        f"sigma {sigma:.6g} of output {output!r} does not belong to step {index}, which leads from {levels[index]:.6g} "
        f"to {levels[index + 1]:.6g}.{hint} Pass the index of the step that is evaluated, and give start() the noise "
        "levels of the sampler."
    )


def nearest_step(levels: Sequence[float], sigma: float, first: int) -> int:
    """Return the step whose noise level is nearest to `sigma`, the earliest of those from `first` on.

    Args:
        levels: noise levels, one for each step and the final one.
        sigma: the noise level that a sampler evaluates.
        first: the step made last, before which a run does not go.
    """
    if sigma > max(levels) * CHURN * (1 + ROUNDING):
        raise ConfigurationError(
            f"sigma {sigma:.6g} lies above all noise levels of the run, which are at most {max(levels):.6g}. "
            "Give start() the noise levels of the sampler."
        )
    return min(range(first, len(levels) - 1), key=lambda index: abs(levels[index] - sigma))


def checked_level(what: str, given: Any) -> float:
    """Return a noise or signal level as a float.

    Raises:
        ConfigurationError: it is not one finite number of at least 0.
    """
    try:
        if isinstance(given, str | bytes | bool):
            raise TypeError
        level = float(given)
    except Exception:
        raise ConfigurationError(f"{what} must be a number; got {brief(given)}.") from None
    if not math.isfinite(level) or level < 0:
        raise ConfigurationError(f"{what} must be finite and not negative; got {level}.")
    return level


def mapped(
    noise: Mapping[str, Noise], structure: Structure, given: Any, samples: Mapping[str, Tensor], prediction_type: str
) -> Mapping[str, Noise]:
    """Return noise levels with those of single elements, given in the structure of the sample.

    Raises:
        ConfigurationError: they have another structure, do not broadcast to the sample, or are not noise levels (which
            is looked at on CPUs only).
    """
    entries = structure.entries(given)
    if entries is None:
        raise structure.misfit(given, "sigma_map", ConfigurationError)
    found = {}
    for entry, (name, level) in zip(entries, noise.items(), strict=True):
        if not is_dense(entry):
            raise ConfigurationError(
                f"sigma_map of {name!r} must be a dense tensor; got one with the layout {layout_of(entry)}."
            )
        if entry.device.type == "cpu" and not bool((entry >= 0).all()):
            raise ConfigurationError(f"sigma_map of {name!r} must not be negative or NaN.")
        if entry.device.type == "cpu":
            check_sigma(f"sigma_map of {name!r}", float(entry.max()), prediction_type)
        map = placed(entry, samples[name], f"sigma_map of {name!r}")
        found[name] = attrs.evolve(level, map=map)
    return found
