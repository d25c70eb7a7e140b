"""How each pipeline of diffusers calls its model for guidance of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from guidance_core.errors import ConfigurationError
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
    "Arguments of the pipeline's call that turn its own guidance on above 1, and what each gets where it is left out."
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
    positive_first: bool = False
    "Of one call for both conditions: whether the positive one is in the first half."
    is_listed: bool = False
    "Whether the model gets and returns lists, with an entry for each sample of the batch."
    halved: tuple[str, ...] = ()
    "Arguments of one call for both conditions that are halved though they have other rows than the sample."
    sign: int = 1
    "-1 where the pipeline turns the model's prediction round before its scheduler gets it."
    has_variance: bool = False
    "Whether the model returns a variance too, as further channels, that the pipeline cuts off."
    defers: bool = False
    "Of two calls: whether the pipeline slices, scales or adds to the first prediction before its second call."
    guiders: tuple[str, ...] = ()
    "Attributes of the pipeline that hold a guider of diffusers; a plain one stands there for the call."
    levels: Callable[[Any], Levels] | None = None
    "Reads the scheduler's noise levels as the model sees them; None for `levels_of`."


_UNET = Pattern(
    is_stacked=True,
    on={"guidance_scale": 2.0},
    models=("unet",),
    sample=("sample",),
    replaced={"guidance_rescale": 0.0},
)
_NEGATIVE = ("negative_prompt", "negative_prompt_embeds")

PATTERNS: Mapping[str, Pattern] = {
    "StableDiffusionPipeline": _UNET,
    "StableDiffusionXLPipeline": _UNET,
    "StableDiffusion3Pipeline": Pattern(
        is_stacked=True,
        on={"guidance_scale": 2.0},
        replaced={"skip_guidance_layers": None},
    ),
    "FluxPipeline": Pattern(is_stacked=False, on={"true_cfg_scale": 2.0}, needs=_NEGATIVE),
    "QwenImagePipeline": Pattern(is_stacked=False, on={"true_cfg_scale": 2.0}, needs=_NEGATIVE, divides_by_norm=True),
    "WanPipeline": Pattern(
        is_stacked=False,
        on={"guidance_scale": 2.0},
        models=("transformer", "transformer_2"),
        replaced={"guidance_scale_2": None},
    ),
    "LTX2Pipeline": Pattern(
        is_stacked=True,
        on={"guidance_scale": 2.0},
        sample=("hidden_states", "audio_hidden_states"),
        outputs=("video", "audio"),
        replaced={
            "audio_guidance_scale": 1.0,
            "stg_scale": 0.0,
            "audio_stg_scale": 0.0,
            "modality_scale": 1.0,
            "audio_modality_scale": 1.0,
            "guidance_rescale": 0.0,
            "audio_guidance_rescale": 0.0,
        },
    ),
}
"By the name of the pipeline's class."


def pattern_of(pipe: Any) -> Pattern:
    """Return how a pipeline calls its model.

    Raises:
        ConfigurationError: its calling pattern is not known.
    """
    for each in type(pipe).__mro__:
        if each.__name__ in PATTERNS and each.__module__.startswith("diffusers."):
            return PATTERNS[each.__name__]
    raise ConfigurationError(
        f"how {type(pipe).__name__} calls its model for guidance is not known; known are {', '.join(PATTERNS)}. "
        "Describe it with pattern=Pattern(...)."
    )
