"""How the pipelines of diffusers that are known call their models."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from attrs import evolve

from guidance_core.errors import ConfigurationError
from guidance_core.hosts.diffusers.levels import levels_of_edm_flow, levels_of_inverted_flow
from guidance_core.hosts.diffusers.patterns import Pattern
from guidance_core.hosts.diffusers.refused import REASONS, UNTRIED

_NEGATIVE = ("negative_prompt", "negative_prompt_embeds")
_SCALE = {"guidance_scale": 2.0}
_UNET = Pattern(
    is_stacked=True,
    on=_SCALE,
    models=("unet",),
    sample=("sample",),
    replaced={"guidance_rescale": 0.0},
)
_PAG = evolve(_UNET, replaced={"guidance_rescale": 0.0, "pag_scale": 0.0})
_STACKED = Pattern(is_stacked=True, on=_SCALE, replaced={"guidance_rescale": 0.0})
_TWO = Pattern(is_stacked=False, on=_SCALE)
_TRUE_CFG = Pattern(is_stacked=False, on={"true_cfg_scale": 2.0}, needs=_NEGATIVE)
_WAN = evolve(_TWO, models=("transformer", "transformer_2"), replaced={"guidance_scale_2": None})
_VARIANCE = Pattern(is_stacked=True, on=_SCALE, has_variance=True, replaced={"guidance_rescale": 0.0})

PATTERNS: Mapping[str, Pattern] = {
    "StableDiffusionPipeline": _UNET,
    "StableDiffusionImg2ImgPipeline": _UNET,
    "StableDiffusionInpaintPipeline": _UNET,
    "StableDiffusionControlNetPipeline": _UNET,
    "StableDiffusionPAGPipeline": _PAG,
    "StableDiffusionXLPipeline": _UNET,
    "StableDiffusionXLImg2ImgPipeline": _UNET,
    "StableDiffusionXLInpaintPipeline": _UNET,
    "StableDiffusionXLControlNetPipeline": _UNET,
    "StableDiffusion3Pipeline": Pattern(
        is_stacked=True,
        on=_SCALE,
        replaced={"skip_guidance_layers": None},
    ),
    "StableDiffusion3Img2ImgPipeline": _STACKED,
    "StableDiffusion3ControlNetPipeline": _STACKED,
    "FluxPipeline": _TRUE_CFG,
    "FluxImg2ImgPipeline": _TRUE_CFG,
    "FluxControlNetPipeline": _TRUE_CFG,
    "FluxKontextPipeline": evolve(_TRUE_CFG, defers=True),
    "QwenImageEditPipeline": evolve(_TRUE_CFG, defers=True, divides_by_norm=True),
    "QwenImagePipeline": evolve(_TRUE_CFG, divides_by_norm=True),
    "WanPipeline": _WAN,
    "LTX2Pipeline": Pattern(
        is_stacked=True,
        on=_SCALE,
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
    "PixArtAlphaPipeline": _VARIANCE,
    "PixArtSigmaPipeline": _VARIANCE,
    "SanaPipeline": _VARIANCE,
    "Lumina2Pipeline": Pattern(
        is_stacked=False, on=_SCALE, sign=-1, divides_by_norm=True, replaced={"cfg_trunc_ratio": 1.0}
    ),
    "AuraFlowPipeline": _STACKED,
    "ChromaPipeline": _TWO,
    "HunyuanDiTPipeline": _VARIANCE,
    "HiDreamImagePipeline": Pattern(is_stacked=True, on=_SCALE, sign=-1, halved={"encoder_hidden_states_llama3": 1}),
    "CogView3PlusPipeline": _STACKED,
    "CogView4Pipeline": _TWO,
    "ZImagePipeline": Pattern(
        is_stacked=True,
        on=_SCALE,
        off=0.0,
        sample=("x",),
        is_listed=True,
        positive_first=True,
        sign=-1,
        replaced={"cfg_normalization": False, "cfg_truncation": 1.0},
    ),
    "Flux2KleinPipeline": Pattern(is_stacked=False, on=_SCALE, defers=True),
    "HunyuanImagePipeline": Pattern(is_stacked=False, on={}, guiders=("guider", "ocr_guider")),
    "LTXPipeline": _STACKED,
    "HunyuanVideoPipeline": _TRUE_CFG,
    "HunyuanVideo15Pipeline": Pattern(is_stacked=False, on={}, guiders=("guider",)),
    "CogVideoXPipeline": evolve(_STACKED, replaced={"use_dynamic_cfg": False}),
    "MochiPipeline": evolve(_STACKED, sign=-1, levels=levels_of_inverted_flow),
    "AllegroPipeline": _STACKED,
    "LattePipeline": _VARIANCE,
    "Cosmos2TextToImagePipeline": Pattern(is_stacked=False, on=_SCALE, defers=True, levels=levels_of_edm_flow),
    "AnimateDiffPipeline": evolve(_UNET, halved={"encoder_hidden_states": 0}),
    "SanaVideoPipeline": _VARIANCE,
    "SkyReelsV2Pipeline": _TWO,
    "WanImageToVideoPipeline": _WAN,
    "WanVACEPipeline": _WAN,
    "PRXPipeline": Pattern(is_stacked=True, on=_SCALE, sample=("hidden_states",)),
}
"By the name of the pipeline's class."


def pattern_of(pipe: Any) -> Pattern:
    """Return how a pipeline calls its model.

    Args:
        pipe: a pipeline of diffusers, or of a class derived from one.

    Raises:
        ConfigurationError: it cannot be guided, or how it calls its model is not known; the message says why.
    """
    name = type(pipe).__name__
    own = next((each.__name__ for each in type(pipe).__mro__ if each.__module__.startswith("diffusers.")), name)
    if own in PATTERNS:
        return PATTERNS[own]
    if own in REASONS:
        raise ConfigurationError(f"{name} cannot be guided: {REASONS[own]}.")
    if own in UNTRIED:
        like = UNTRIED[own]
        raise ConfigurationError(
            f"{name} was not tried. It seems to call its model as {like} does: try pattern={like!r}, and compare a "
            "picture made with 'cfg' to one of its own guidance at the same scale and seed."
        )
    raise ConfigurationError(
        f"how {name} calls its model for guidance is not known. Describe it with pattern=Pattern(...), or name a "
        "pipeline that calls its model in the same way, such as pattern='FluxPipeline'."
    )


def pattern_named(name: str) -> Pattern:
    """Return how the pipeline of a class calls its model.

    Raises:
        ConfigurationError: none of that name is known.
    """
    if name not in PATTERNS:
        close = difflib.get_close_matches(name, PATTERNS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigurationError(f"no pipeline {name!r} is known to pattern=...{hint}")
    return PATTERNS[name]
