"""How a pipeline of diffusers calls its model for guidance of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from guidance_core.hosts.diffusers.levels import Levels
from guidance_core.methods.perturbations import Perturbation

Flags = Callable[[Iterable[Perturbation], Any], Mapping[str, Any]]
"Returns the arguments of a model that a branch's perturbations stand for, or raises `ConfigurationError`."


@attrs.frozen
class Pattern:
    """How a pipeline calls its model in one evaluation."""

    is_stacked: bool
    """True: one call for both conditions, the negative one in the first half of the batch.

    False: two calls, the positive condition first.
    """
    on: Mapping[str, float]
    "Arguments of the pipeline's call that turn its own guidance on, and what each gets where it is left out."
    models: tuple[str, ...] = ("transformer",)
    "Attributes of the pipeline; a pipeline with experts has several."
    sample: tuple[str, ...] = ("hidden_states",)
    "The model's arguments that are denoised, one for each output."
    outputs: tuple[str, ...] = ()
    "Names of the outputs, where there are several."
    needs: tuple[str, ...] = ()
    "Arguments of the pipeline's call one of which its own guidance needs."
    replaced: Mapping[str, Any] = attrs.field(factory=dict)
    "Further arguments of the pipeline's own guidance, which the stack replaces: each gets the value that turns it off."
    divides_by_norm: bool = False
    "Whether the pipeline divides by the norm of a token's prediction, so that a token of zeros would become NaN."
    flags: Flags | None = None
    "None: perturbations are made as in `perturbed`."
    off: float = 1.0
    "The value of the arguments `on` up to which its own guidance is off."
    positive_first: bool = False
    "Of one call for both conditions: whether the positive one is in the first half."
    is_listed: bool = False
    "Whether the model gets and returns lists, with an entry for each sample of the batch."
    halved: Mapping[str, int] = attrs.field(factory=dict)
    """Arguments of one call for both conditions that are halved along a dimension of their own.

    The others are halved along their first, where that is as long as the batch.
    """
    sign: int = 1
    "-1 where the pipeline turns the model's prediction round before its scheduler gets it."
    has_variance: bool = False
    "Whether the pipeline cuts off a variance, as many channels again, that the model may return."
    defers: bool = False
    "Of two calls: whether the pipeline slices, scales or adds to the first prediction before its second call."
    guiders: tuple[str, ...] = ()
    "Attributes of the pipeline that hold a guider of diffusers; a plain one stands there for the call."
    levels: Callable[[Any], Levels] | None = None
    "Reads the scheduler's noise levels as the model sees them; None for `levels_of`."
