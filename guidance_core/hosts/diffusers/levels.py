"""What a diffusers scheduler means: prediction type, and noise and signal levels as the model sees them.

A model sees `α·x0 + σ·ε`. A scheduler of the kind of Euler's keeps `x0 + s·ε` and divides it by `√(1 + s²)` before the
model sees it (`scale_model_input`), so that `σ = s/√(1 + s²)` and `α = 1/√(1 + s²)`. One of the kind of DDIM keeps
`√ᾱ·x0 + √(1 − ᾱ)·ε`, which the model sees as it is. One for flow matching keeps `(1 − s)·x0 + s·ε`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from guidance_core.algebra.spaces import PredictionType
from guidance_core.errors import ConfigurationError

PREDICTION_TYPES: Mapping[str, PredictionType] = {
    "epsilon": "epsilon",
    "v_prediction": "v",
    "sample": "x0",
    "flow_prediction": "flow",
}
"The library's name of each of diffusers' prediction types."


@attrs.frozen
class Levels:
    """The noise levels of a sampler's steps, as the model gets them."""

    prediction_type: PredictionType
    "`epsilon`, `v`, `x0` or `flow`."
    sigmas: tuple[float, ...]
    "The noise level of each step, and the final one."
    alphas: tuple[float, ...] | None
    "The signal level of each; None for `flow`, where they are `1 − σ`."
    evaluations: tuple[tuple[int, float, float | None], ...]
    """The model's evaluations in the sampler's order: the step, with the sigma and alpha of the evaluation.

    Most samplers evaluate each step once. Heun's method evaluates it again, at the level of the next step.
    """


def levels_of(scheduler: Any) -> Levels:
    """Return the noise levels that the model gets in a scheduler's steps. Call `set_timesteps` first.

    Raises:
        ConfigurationError: the scheduler has no timesteps yet, its class is not known, or its configuration is not
            supported. The message names it.
    """
    name = type(scheduler).__name__
    kind = next((KINDS[each.__name__] for each in type(scheduler).__mro__ if each.__name__ in KINDS), None)
    if kind is None:
        raise ConfigurationError(
            f"the noise levels of the scheduler {name} are not known; known are {', '.join(sorted(KINDS))}."
        )
    timesteps = getattr(scheduler, "timesteps", None)
    has_some = getattr(scheduler, "num_inference_steps", None) is not None or getattr(
        scheduler, "custom_timesteps", False
    )
    if timesteps is None or not has_some:
        raise ConfigurationError(f"the scheduler {name} has no timesteps yet; call set_timesteps first.")
    return kind(scheduler)


def levels_of_edm_flow(scheduler: Any) -> Levels:
    """Return what a model for flow matching sees whose scheduler keeps `x0 + s·ε`, as Cosmos does.

    Its pipeline divides the sample by `1 + s`, so that the model's own `σ` is `s/(1 + s)`.
    """
    return _levels("flow", [_flow(level / (1 + level)) for level in scheduler.sigmas.cpu().double().tolist()])


def levels_of_inverted_flow(scheduler: Any) -> Levels:
    """Return what a model for flow matching sees whose scheduler counts the signal instead of the noise, as Mochi's."""
    if not scheduler.config.get("invert_sigmas", False):
        raise ConfigurationError(
            f"the scheduler {type(scheduler).__name__} needs invert_sigmas=True here, since the model predicts towards "
            "the signal."
        )
    return _levels("flow", [_flow(1 - level) for level in scheduler.sigmas.cpu().double().tolist()])


def _prediction_type(scheduler: Any) -> PredictionType:
    given = scheduler.config.get("prediction_type", "epsilon")
    if given not in PREDICTION_TYPES:
        raise ConfigurationError(
            f"the scheduler {type(scheduler).__name__} has the prediction type {given!r}; known are "
            f"{', '.join(PREDICTION_TYPES)}."
        )
    return PREDICTION_TYPES[given]


def _levels(
    prediction_type: PredictionType,
    pairs: Sequence[tuple[float, float]],
    evaluations: Sequence[tuple[int, int]] | None = None,
) -> Levels:
    """Put levels together.

    Args:
        prediction_type: the library's name.
        pairs: sigma and alpha of each step and the final ones.
        evaluations: the step of each evaluation, and the place of its levels in `pairs`; once for each step if None.
    """
    is_flow = prediction_type == "flow"
    if evaluations is None:
        evaluations = [(step, step) for step in range(len(pairs) - 1)]
    return Levels(
        prediction_type,
        tuple(sigma for sigma, _ in pairs),
        None if is_flow else tuple(alpha for _, alpha in pairs),
        tuple((step, pairs[at][0], None if is_flow else pairs[at][1]) for step, at in evaluations),
    )


def _preserving(level: float) -> tuple[float, float]:
    """Return sigma and alpha of a variance-preserving sample whose ratio of noise to signal is `level`."""
    scale = math.hypot(1.0, level)
    return (1.0, 0.0) if math.isinf(level) else (level / scale, 1 / scale)


def _flow(level: float) -> tuple[float, float]:
    return level, 1 - level


def _of_cumulated(scheduler: Any) -> Levels:
    """DDIM, DDPM: `ᾱ` by timestep."""
    kept = scheduler.alphas_cumprod.cpu().double().tolist()
    final = getattr(scheduler, "final_alpha_cumprod", getattr(scheduler, "one", None))
    products = [kept[int(step)] for step in scheduler.timesteps.tolist()] + [1.0 if final is None else float(final)]
    return _levels(_prediction_type(scheduler), [(math.sqrt(1 - each), math.sqrt(each)) for each in products])


def _of_pndm(scheduler: Any) -> Levels:
    """PNDM: its first step is evaluated a second time, at the level of the next."""
    if not scheduler.config.get("skip_prk_steps", False):
        raise ConfigurationError(
            f"the scheduler {type(scheduler).__name__} needs skip_prk_steps=True here: its Runge-Kutta steps evaluate "
            "the model at levels between those of its steps, which is not supported."
        )
    kept = scheduler.alphas_cumprod.cpu().double().tolist()
    timesteps = [int(step) for step in scheduler.timesteps.tolist()]
    every = [timesteps[0], *timesteps[2:]]  # the second is listed twice
    products = [kept[step] for step in every] + [float(scheduler.final_alpha_cumprod)]
    again = [(0, 1)] if len(timesteps) > 1 else []
    return _levels(
        _prediction_type(scheduler),
        [(math.sqrt(1 - each), math.sqrt(each)) for each in products],
        [(0, 0), *again, *((step, step) for step in range(1, len(every)))],
    )


def _of_scaled(scheduler: Any) -> Levels:
    """Euler: the sample is scaled before the model sees it."""
    return _levels(
        _prediction_type(scheduler), [_preserving(level) for level in scheduler.sigmas.cpu().double().tolist()]
    )


def _of_heun(scheduler: Any) -> Levels:
    """Heun: a step's second evaluation is at the level of the next."""
    levels = scheduler.sigmas.cpu().double().tolist()
    every = [levels[0], *levels[1:-1:2], levels[-1]]  # inner levels are listed twice
    return _levels(_prediction_type(scheduler), [_preserving(level) for level in every], _twice(len(every) - 1))


def _of_flow_heun(scheduler: Any) -> Levels:
    levels = scheduler.sigmas.cpu().double().tolist()
    every = [levels[0], *levels[1:-1:2], levels[-1]]
    return _levels("flow", [_flow(level) for level in every], _twice(len(every) - 1))


def _twice(steps: int) -> list[tuple[int, int]]:
    """Return Heun's evaluations: each step twice, at its own level and at the next, but the last once."""
    return [(step, step + second) for step in range(steps) for second in range(2)][:-1]


def _of_flow(scheduler: Any) -> Levels:
    """Flow matching with Euler steps."""
    if scheduler.config.get("invert_sigmas", False):
        raise ConfigurationError(
            f"the scheduler {type(scheduler).__name__} is configured with invert_sigmas=True, whose model predicts in "
            "the other direction; that is not supported."
        )
    return _levels("flow", [_flow(level) for level in scheduler.sigmas.cpu().double().tolist()])


def _of_multistep(scheduler: Any) -> Levels:
    """DPM-Solver and UniPC: levels are ratios of noise to signal, or those of flow matching."""
    levels = scheduler.sigmas.cpu().double().tolist()
    is_flow, prediction_type = scheduler.config.get("use_flow_sigmas", False), _prediction_type(scheduler)
    if is_flow != (prediction_type == "flow"):
        raise ConfigurationError(
            f"the scheduler {type(scheduler).__name__} has the prediction type {prediction_type!r} with "
            f"use_flow_sigmas={is_flow}; flow predictions and flow sigmas go together."
        )
    return _levels(prediction_type, [(_flow if is_flow else _preserving)(level) for level in levels])


KINDS: Mapping[str, Callable[[Any], Levels]] = {
    "DDIMScheduler": _of_cumulated,
    "CogVideoXDDIMScheduler": _of_cumulated,
    "CogVideoXDPMScheduler": _of_cumulated,
    "DDPMScheduler": _of_cumulated,
    "PNDMScheduler": _of_pndm,
    "EulerDiscreteScheduler": _of_scaled,
    "EulerAncestralDiscreteScheduler": _of_scaled,
    "LMSDiscreteScheduler": _of_scaled,
    "HeunDiscreteScheduler": _of_heun,
    "DPMSolverMultistepScheduler": _of_multistep,
    "UniPCMultistepScheduler": _of_multistep,
    "DEISMultistepScheduler": _of_multistep,
    "FlowMatchEulerDiscreteScheduler": _of_flow,
    "FlowMatchHeunDiscreteScheduler": _of_flow_heun,
    "FlowUniPCMultistepScheduler": _of_flow,  # of engines
}
"What reads each scheduler that is known."
