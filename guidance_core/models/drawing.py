"""Drawing with the embedded transformers, to see and to measure what guidance does."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs
import torch
from torch import Tensor, nn

from guidance_core.algebra.outputs import SINGLE
from guidance_core.errors import ConfigurationError
from guidance_core.executors.base import Denoiser, Executor
from guidance_core.guidance import Guidance
from guidance_core.hosts.stacked_denoiser import StackedDenoiser
from guidance_core.methods.capabilities import Capabilities
from guidance_core.models.changes import POSSIBLE
from guidance_core.models.estimates import Estimates
from guidance_core.models.intervals import Score
from guidance_core.models.samplers import euler
from guidance_core.models.transformer import FlowTransformer
from guidance_core.trace import Trace

OnStep: TypeAlias = Callable[[], object]


@attrs.frozen(eq=False)
class Drawing:
    """What one stack drew."""

    images: Tensor
    "`[classes·n, 1, H, W]`, about [-1, 1]: n of each class, class by class."
    columns: tuple[str, ...]
    "The classes."
    passes_per_step: float
    seconds: float
    accuracy: float
    "Share of the images that an independent classifier reads as the class asked for."
    notes: tuple[str, ...] = ()
    "What else the first image of each class was asked to be."
    scores: Mapping[str, Score] = attrs.field(factory=dict)
    "Further scores, by name."
    trace: Trace | None = None
    "What each step did, where that was asked for."
    kept: Estimates = attrs.field(factory=lambda: Estimates(()))
    "Estimates of the first image of each class, in the steps that were asked for."


@attrs.frozen
class Settings:
    """How to draw."""

    steps: int = 25
    per_class: int = 20
    "Images of each class."
    seed: int = 0
    "Of the starting noise, and of what methods draw."
    executor: str | Executor = "serial"
    on_step: OnStep = lambda: None
    "Called after each step."
    trace: Trace | None = None
    "Is given what each step did."
    kept: Estimates = attrs.field(factory=lambda: Estimates(()))
    "Is given the estimates of some steps."

    def check(self, guidance: Guidance) -> None:
        """Raise `ConfigurationError` unless a model of one output can draw so with the stack."""
        for name, value in (("steps", self.steps), ("per_class", self.per_class)):
            if value < 1:
                raise ConfigurationError(f"{name} must be at least 1; got {value}.")
        check_one_output(guidance)


def drawn(
    guidance: Guidance,
    settings: Settings,
    model: FlowTransformer,
    others: Mapping[str, nn.Module],
    conditions: Mapping[str, Mapping[str, Any]],
    noise: Tensor,
    seeds: int | Sequence[int],
) -> tuple[Tensor, float, float]:
    """Draw with Euler steps over evenly falling sigmas; return the images, the passes per step, and the seconds.

    Args:
        guidance: the stack to use.
        settings: how to draw.
        model: the one that draws.
        others: models that a branch may ask for by name.
        conditions: the model's inputs by condition.
        noise: what to start from, `[B, 1, H, W]`.
        seeds: of what methods draw, one or one for each sample.
    """
    sigmas = [1 - number / settings.steps for number in range(settings.steps + 1)]
    run = guidance.start(
        conditions=conditions,
        sigmas=sigmas,
        prediction_type="flow",
        executor=settings.executor,
        seeds=seeds,
        supports=Capabilities(POSSIBLE, blocks=len(model.blocks), heads=model.heads, models=tuple(others)),
        trace=settings.trace,
    )

    def call(name: str | None, **inputs: Any) -> Tensor:
        prediction: Tensor = (model if name is None else others[name])(**inputs)
        return prediction

    def denoiser(x: Tensor, sigma: float) -> Denoiser:
        return StackedDenoiser(
            call,
            {"x": x, "sigma": sigma},
            adapt=lambda branch: {"perturbations": branch.perturbations, "name": branch.model},
        )

    start = time.perf_counter()
    with torch.no_grad():  # which, unlike inference mode, lets a method differentiate
        images = euler(run, sigmas, noise, denoiser, settings.on_step, settings.kept.see)
    return images, run.passes / settings.steps, time.perf_counter() - start


def check_one_output(guidance: Guidance) -> None:
    """Raise `ConfigurationError` for methods with values for outputs that the embedded models do not have."""
    others = [name for name in guidance.outputs if name != SINGLE]
    if others:
        raise ConfigurationError(
            f"the embedded model has one output, named {SINGLE!r}, but the methods have values for "
            f"{', '.join(others)}. Give plain numbers instead, as in "
            "'ltx2:cfg_scale=3,modality_scale=1,stg_blocks=3'."
        )
