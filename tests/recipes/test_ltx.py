"""LTX: the rules of diffusers, ltx-core, sglang and vLLM-Omni."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guidance_core.recipes import recipe_named
from recipes.comparing import assert_close, compared, guided, scales, seeds, steps_of, tokens
from recipes.engine_code import Piece
from recipes.test_video import of_two

at_least_one = scales.filter(lambda scale: scale >= 1)
LTX_VIDEO = ("diffusers", "diffusers/pipelines/ltx/pipeline_ltx.py")
COMBINED = Piece(*LTX_VIDEO, "LTXPipeline.__call__", "927be2804cb8", first="noise_pred = noise_pred_uncond + ")
RESCALED = Piece(*LTX_VIDEO, "LTXPipeline.__call__", "0d778cf9ae9c", first="if self.guidance_rescale > 0:")
RESCALE = Piece(*LTX_VIDEO, "rescale_noise_cfg", "67e53db71294")


@compared
@given(tokens, seeds, at_least_one, st.sampled_from([0.0, 0.3, 1.0]))
def test_ltx_video_rescales_in_its_own_space(shape, seed, scale, rescale):
    steps = steps_of(seed, shape, "cond", "uncond")
    mine = guided("ltx-video", steps, guidance_scale=scale, guidance_rescale=rescale)
    pipeline = SimpleNamespace(guidance_scale=scale, guidance_rescale=rescale)
    for one, step in zip(mine, steps, strict=True):
        names = {"noise_pred_text": step["cond"], "noise_pred_uncond": step["uncond"], "self": pipeline}
        theirs = COMBINED.run(**names)["noise_pred"]
        if scale > 1:
            theirs = RESCALED.run(noise_pred=theirs, rescale_noise_cfg=RESCALE.function(), **names)["noise_pred"]
        assert_close(one, theirs, scale)


CORE = ("ltx-core", "ltx_core/components/guiders.py")
GUIDER = Piece(*CORE, "MultiModalGuider", "d41f0f9a98c4")
GUIDER_PARAMETERS = Piece(*CORE, "MultiModalGuiderParams", "aea925e13554")
STAGE = "sglang/multimodal_gen/runtime/pipelines_core/stages/model_specific_stages/ltx_2/denoising.py"
SGLANG = Piece(
    "sglang",
    STAGE,
    "LTX2DenoisingStage",
    "80db83df6f5b",
    members=("_ltx2_apply_rescale", "_ltx2_calculate_guided_x0"),
)
OMNI = ("vllm-omni", "vllm_omni/diffusion/models/ltx2/ltx2_guidance.py")
OMNI_PARAMETERS = Piece(*OMNI, "LTXModalityGuidance", "2f3e7a06bcd4")
OMNI_COMBINED = Piece(*OMNI, "combine_guided_x0", "aee1bbaf5948")
BRANCHES = ("cond", "neg", "perturbed", "modality")


def by_ltx_core(x0, cfg, stg, modality, rescale):
    parameters = GUIDER_PARAMETERS.function(dataclass=dataclass, field=field)(
        cfg_scale=cfg, stg_scale=stg, modality_scale=modality, rescale_scale=rescale
    )
    guider = GUIDER.function(dataclass=dataclass, math=math)(parameters)
    return guider.calculate(*x0)


def by_sglang(x0, cfg, stg, modality, rescale):
    stage = SGLANG.function(DenoisingStage=object)
    names = ("cond", "uncond_text", "uncond_perturbed", "uncond_modality")
    chosen = {"cfg_scale": cfg, "stg_scale": stg, "modality_scale": modality, "rescale_scale": rescale}
    return stage._ltx2_calculate_guided_x0(**dict(zip(names, x0, strict=True)), **chosen)


def by_vllm_omni(x0, cfg, stg, modality, rescale):
    parameters = OMNI_PARAMETERS.function(dataclass=dataclass, math=math)(
        cfg_scale=cfg, stg_scale=stg, modality_scale=modality, rescale_scale=rescale, stg_blocks=(28,)
    )
    names = ("cond", "uncond_text", "uncond_perturbed", "uncond_modality")
    return OMNI_COMBINED.function()(**dict(zip(names, x0, strict=True)), guidance=parameters)


ENGINES = [("ltx-2", by_ltx_core), ("ltx-2.3", by_sglang), ("ltx-2.3-hq", by_sglang), ("ltx-2.5", by_vllm_omni)]
ENGINES += [("ltx-2.4", by_ltx_core), ("ltx-2.3", by_vllm_omni)]
NAMES = ("guidance_scale", "stg_scale", "modality_scale", "guidance_rescale")


@pytest.mark.parametrize(("name", "engine"), ENGINES)
@compared
@given(tokens, tokens, seeds, st.lists(st.floats(1, 8), min_size=4, max_size=4), st.booleans())
def test_ltx_2_combines_four_passes_in_x0(name, engine, shape, short, seed, chosen, by_default):
    batch = 1 if engine is not by_vllm_omni else shape[0]  # the others take std over the batch
    shapes = (("video", (batch, *shape[1:])), ("audio", (batch, *short[1:])))
    steps = of_two(seed, *shapes, *BRANCHES)
    samples = of_two(seed + 5, *shapes, "x")
    sigmas = [1.0, 0.6, 0.3, 0.0]
    given_values = {} if by_default else {
        key: value if "rescale" not in key else value / 8
        for prefix in ("", "audio_")
        for key, value in zip((prefix + each for each in NAMES), chosen if prefix else reversed(chosen), strict=True)
    }  # fmt: skip
    about = recipe_named(name).parameters
    values = {key: given_values.get(key, field["default"]) for key, field in about.items()}
    if not values["spatio_temporal_guidance_blocks"]:
        values |= {"stg_scale": 0.0, "audio_stg_scale": 0.0}
    mine = guided(name, steps, sigmas=sigmas, samples=lambda i: samples[i]["x"], **given_values)
    for sigma, one, step, sample in zip(sigmas, mine, steps, samples, strict=False):
        for output, prefix in (("video", ""), ("audio", "audio_")):
            x = sample["x"][output]
            x0 = [x - sigma * step[branch][output] for branch in BRANCHES]
            scales_of = [values[prefix + each] for each in NAMES]
            theirs = (x - engine(x0, *scales_of)) / sigma
            assert torch.isfinite(theirs).all() or x.numel() == 1
            assert_close(one[output], theirs, 10 * sum(scales_of) / sigma)
