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
    "Arguments of the pipeline's call that turn its own guidance on, and the value of each if it is left out."
    models: tuple[str, ...] = ("transformer",)
    "Attributes of the pipeline that hold its model; a pipeline with experts has several."
    sample: tuple[str, ...] = ("hidden_states",)
    "The model's arguments for the noisy sample, one for each output."
    outputs: tuple[str, ...] = ()
    "Names of the outputs, if there are several."
    needs: tuple[str, ...] = ()
    "Arguments of the pipeline's call; its own guidance needs one of them."
    replaced: Mapping[str, Any] = attrs.field(factory=dict)
    "Further arguments of the pipeline's own guidance, which the stack replaces, with the value that turns each off."
    divides_by_norm: bool = False
    "Whether the pipeline divides by the norm of a token's prediction, so that a token of zeros would become NaN."
    flags: Flags | None = None
    "None if perturbations are made as in `perturbed`."
    off: float = 1.0
    "The largest value of the arguments `on` at which its own guidance is off."
    positive_first: bool = False
    "In one call for both conditions, whether the positive one is in the first half."
    is_listed: bool = False
    "Whether the model gets and returns lists, with an entry for each sample of the batch."
    halved: Mapping[str, int] = attrs.field(factory=dict)
    """In one call for both conditions, the arguments that are halved along a dimension of their own.

    The others are halved along their first dimension, if it is as long as the batch.
    """
    sign: int = 1
    "-1 if the pipeline negates the model's prediction before it passes it to its scheduler."
    has_variance: bool = False
    "Whether the pipeline removes a variance (as many channels again) that the model may return."
    defers: bool = False
    "With two calls, whether the pipeline slices, scales or adds to the first prediction before its second call."
    guiders: tuple[str, ...] = ()
    "Attributes of the pipeline that hold a guider of diffusers; a plain one replaces it during the call."
    levels: Callable[[Any], Levels] | None = None
    "A function that returns the scheduler's noise levels as the model gets them; None for `levels_of`."
