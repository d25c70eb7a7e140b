"""Recipes whose rule is u + s·(c − u): the line that combines, in each pipeline."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given

from guidance_core.recipes import recipe_named
from recipes.comparing import assert_close, compared, guided, seeds, steps_of, videos
from recipes.engine_code import Piece

DIFFUSERS = "diffusers"
OF_TEXT = "noise_pred = noise_pred_uncond + "
PLAIN = {
    "cogvideox": Piece(
        DIFFUSERS,
        "diffusers/pipelines/cogvideo/pipeline_cogvideox.py",
        "CogVideoXPipeline.__call__",
        "927be2804cb8",
        first=OF_TEXT,
    ),
    "cosmos3": Piece(
        DIFFUSERS,
        "diffusers/pipelines/cosmos/pipeline_cosmos3_omni.py",
        "Cosmos3OmniPipeline.__call__",
        "d67824b23e6e",
        first="velocity_vision = uncond_v_vision + ",
    ),
    "helios-base": Piece(
        DIFFUSERS,
        "diffusers/pipelines/helios/pipeline_helios.py",
        "HeliosPipeline.__call__",
        "14f5e3fd9ea1",
        first="noise_pred = noise_uncond + ",
    ),
    "sana-video": Piece(
        DIFFUSERS,
        "diffusers/pipelines/sana_video/pipeline_sana_video.py",
        "SanaVideoPipeline.__call__",
        "5fc127f2b1ba",
        first=OF_TEXT,
    ),
    "stable-audio": Piece(
        DIFFUSERS,
        "diffusers/pipelines/stable_audio/pipeline_stable_audio.py",
        "StableAudioPipeline.__call__",
        "5fc127f2b1ba",
        first=OF_TEXT,
    ),
    "wan2.1": Piece(
        DIFFUSERS,
        "diffusers/pipelines/wan/pipeline_wan.py",
        "WanPipeline.__call__",
        "ce91a23c17d6",
        first="noise_pred = noise_uncond + ",
    ),
}
RESULTS = {"cosmos3": "velocity_vision"}
LEVELS = {"v": {"alphas": 1.0}}


def of_engine(piece, scale, c, u, result="noise_pred"):
    names = {"noise_pred": c, "noise_pred_text": c, "cond_v_vision": c}
    others = {"noise_uncond": u, "noise_pred_uncond": u, "uncond_v_vision": u}
    scales = {"guidance_scale": scale, "current_guidance_scale": scale, "self": SimpleNamespace(guidance_scale=scale)}
    return piece.run(**names, **others, **scales)[result]


@pytest.mark.parametrize("name", PLAIN)
@compared
@given(videos, seeds)
def test_by_default_the_recipe_is_what_the_pipeline_computes(name, shape, seed):
    steps = steps_of(seed, shape, "cond", "uncond")
    recipe = recipe_named(name)
    scale = recipe.parameters["guidance_scale"]["default"]
    mine = guided(name, steps, settings=LEVELS.get(recipe.prediction_types[0]))
    for one, step in zip(mine, steps, strict=True):
        assert_close(one, of_engine(PLAIN[name], scale, step["cond"], step["uncond"], RESULTS.get(name, "noise_pred")))


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("scale", [1.0, 2.5, 9.0])
def test_with_a_scale_it_is_too(name, scale):
    steps = steps_of(7, (2, 4, 3, 4, 4), "cond", "uncond")
    levels = LEVELS.get(recipe_named(name).prediction_types[0])
    mine = guided(name, steps, settings=levels, guidance_scale=scale)
    for one, step in zip(mine, steps, strict=True):
        theirs = of_engine(PLAIN[name], scale, step["cond"], step["uncond"], RESULTS.get(name, "noise_pred"))
        assert_close(one, theirs, scale)


MIXIN = Piece(
    "vllm-omni",
    "vllm_omni/diffusion/distributed/cfg_parallel.py",
    "CFGParallelMixin",
    "7c52589b91ad",
    members=("cfg_normalize_function", "combine_cfg_noise"),
)
WRAP = Piece("vllm-omni", "vllm_omni/diffusion/distributed/cfg_parallel.py", "_wrap", "41a0bb074b77")
UNWRAP = Piece("vllm-omni", "vllm_omni/diffusion/distributed/cfg_parallel.py", "_unwrap", "c3a5ea0957ea")


def vllm_mixin():
    """Return vLLM-Omni's class of pipelines with two branches."""
    names = {"ABCMeta": type, "_wrap": WRAP.function(), "_unwrap": UNWRAP.function()}
    return MIXIN.function(**names)


@pytest.mark.parametrize("name", ["cosmos3-edge", "hunyuanvideo-1.5"])
@compared
@given(videos, seeds)
def test_the_recipe_is_what_vllm_omni_computes(name, shape, seed):
    steps = steps_of(seed, shape, "cond", "uncond")
    scale = recipe_named(name).parameters["guidance_scale"]["default"]
    pipeline = vllm_mixin()()
    for one, step in zip(guided(name, steps), steps, strict=True):
        assert_close(one, pipeline.combine_cfg_noise(step["cond"], step["uncond"], scale))


POLICY_FILE = ("sglang", "sglang/multimodal_gen/runtime/distributed/cfg_policy.py")
POLICY = Piece(*POLICY_FILE, "CFGPolicy.combine", "09d325a4b52a")
POLICY_PARTS = {
    "_wrap": Piece(*POLICY_FILE, "_wrap", "ab40900d4ce9"),
    "_unwrap": Piece(*POLICY_FILE, "_unwrap", "8e9ac8e98f95"),
    "_apply_cfg_postprocess": Piece(*POLICY_FILE, "_apply_cfg_postprocess", "7ce16c9b783a"),
}


def sglang_combined(scale, c, u):
    """Return what sglang's usual policy makes of two branches; each may be a tuple."""
    combine = POLICY.function(**{name: piece.function() for name, piece in POLICY_PARTS.items()})
    batch = SimpleNamespace(cfg_normalization=0, guidance_rescale=0.0)
    config = SimpleNamespace(postprocess_cfg_noise=lambda batch, guided, c: guided)
    policy = SimpleNamespace(parallel_uses_serial_arithmetic=True)
    return combine(policy, [c, u], batch, scale, config)


@pytest.mark.parametrize("name", ["sana-video-2", "wan2.2-ti2v-5b"])
@compared
@given(videos, seeds)
def test_the_recipe_is_what_sglang_computes(name, shape, seed):
    steps = steps_of(seed, shape, "cond", "uncond")
    scale = recipe_named(name).parameters["guidance_scale"]["default"]
    for one, step in zip(guided(name, steps), steps, strict=True):
        assert_close(one, sglang_combined(scale, step["cond"], step["uncond"]))
