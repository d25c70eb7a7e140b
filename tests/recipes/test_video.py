"""Recipes of video models with rules of their own, beside the engines' code."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recipes.comparing import assert_close, compared, drawn, guided, scales, seeds, steps_of, tokens, videos
from recipes.engine_code import Piece
from recipes.test_plain import vllm_mixin

PIPELINES = "diffusers/pipelines"
OMNI = "vllm_omni/diffusion/models"
STAGES = "sglang/multimodal_gen/runtime/pipelines_core/stages/model_specific_stages"
at_least_one = scales.filter(lambda scale: scale >= 1)

# Wan 2.2: two experts.

T2V = ("diffusers", f"{PIPELINES}/wan/pipeline_wan.py", "WanPipeline.__call__")
I2V = ("diffusers", f"{PIPELINES}/wan/pipeline_wan_i2v.py", "WanImageToVideoPipeline.__call__")
CHOOSES, COMBINES = "if boundary_timestep is None", "noise_pred = noise_uncond + "
WAN = {
    "wan2.2-t2v-a14b": (Piece(*T2V, "ee6b93ffd4e2", first=CHOOSES), Piece(*T2V, "ce91a23c17d6", first=COMBINES)),
    "wan2.2-i2v-a14b": (Piece(*I2V, "ee6b93ffd4e2", first=CHOOSES), Piece(*I2V, "ce91a23c17d6", first=COMBINES)),
}


@pytest.mark.parametrize(("name", "boundary"), [("wan2.2-t2v-a14b", 0.875), ("wan2.2-i2v-a14b", 0.9)])
@compared
@given(videos, seeds, st.floats(1.01, 9), st.floats(1, 9), st.integers(0, 4))
def test_the_second_expert_takes_over_where_the_pipeline_changes(name, boundary, shape, seed, first, second, on):
    choosing, combining = WAN[name]
    around = [1.0, boundary + 0.002, boundary, boundary - 0.002, 0.5]
    sigmas = [*around[on:], 0.3, 0.0] if on else [*around, 0.0]
    steps = steps_of(seed, shape, "cond", "uncond", steps=len(sigmas) - 1)
    mine = guided(name, steps, sigmas=sigmas, guidance_scale=first, guidance_scale_2=second)
    for sigma, one, step in zip(sigmas, mine, steps, strict=False):
        model = SimpleNamespace(transformer=None, transformer_2=None)
        chosen = choosing.run(
            boundary_timestep=boundary * 1000,
            t=torch.tensor(int(1000 * sigma + 1e-4)),  # the scheduler rounds downwards
            guidance_scale=first,
            guidance_scale_2=second,
            self=model,
        )
        scale = chosen["current_guidance_scale"]
        theirs = combining.run(
            noise_pred=step["cond"], noise_uncond=step["uncond"], current_guidance_scale=scale, self=model
        )
        assert_close(one, theirs["noise_pred"], scale)


# Helios: CFG-Zero*.

HELIOS = Piece(
    "diffusers",
    f"{PIPELINES}/helios/pipeline_helios_pyramid.py",
    "HeliosPyramidPipeline.__call__",
    "b30c39f3d7dc",
    first="if self.config.is_cfg_zero_star:",
)
HELIOS_SCALE = Piece("diffusers", f"{PIPELINES}/helios/pipeline_helios_pyramid.py", "optimized_scale", "44346e1e6f04")


@compared
@given(videos, seeds, st.floats(1.01, 9), st.booleans(), st.integers(0, 3))
def test_helios_predicts_zero_up_to_a_step_and_projects_afterwards(shape, seed, scale, zero, until):
    steps = steps_of(seed, shape, "cond", "uncond")
    mine = guided("helios-mid", steps, guidance_scale=scale, use_zero_init=zero, zero_steps=until)
    for i, (one, step) in enumerate(zip(mine, steps, strict=True)):
        theirs = HELIOS.run(
            self=SimpleNamespace(config=SimpleNamespace(is_cfg_zero_star=True)),
            optimized_scale=HELIOS_SCALE.function(),
            noise_pred=step["cond"],
            noise_uncond=step["uncond"],
            batch_size=shape[0],
            stage_idx=0,
            i=i,
            zero_steps=until,
            use_zero_init=zero,
            guidance_scale=scale,
        )
        assert_close(one, theirs["noise_pred"], 2 * scale)


# Kandinsky 6: one scale for video and audio.

KANDINSKY = Piece(
    "diffusers",
    f"{PIPELINES}/kandinsky6/pipeline_kandinsky6_ti2va.py",
    "Kandinsky6TI2VAPipeline.__call__",
    "7b1cb7f7c6d6",
    first="noise_pred = tuple(",
)


def of_two(seed, one, other, *names, steps=3):
    """Return predictions of two outputs for each step."""
    (first, shape), (second, shorter) = one, other
    both = [(drawn(seed + i, shape, *names), drawn(seed + 99 + i, shorter, *names)) for i in range(steps)]
    return [{name: {first: a[name], second: b[name]} for name in names} for a, b in both]


@compared
@given(videos, tokens, seeds, at_least_one)
def test_kandinsky_guides_video_and_audio_alike(shape, short, seed, scale):
    steps = of_two(seed, ("video", shape), ("audio", (shape[0], *short[1:])), "cond", "uncond")
    for one, step in zip(guided("kandinsky6", steps, guidance_scale=scale), steps, strict=True):
        space = KANDINSKY.run(
            noise_pred=tuple(step["cond"].values()),
            noise_pred_uncond=tuple(step["uncond"].values()),
            self=SimpleNamespace(guidance_scale=scale),
        )
        for mine, theirs in zip(one.values(), space["noise_pred"], strict=True):
            assert_close(mine, theirs, scale)


# Cosmos3: sound, images, control maps.

COSMOS = ("diffusers", f"{PIPELINES}/cosmos/pipeline_cosmos3_omni.py", "Cosmos3OmniPipeline.__call__")
COSMOS_SOUND = {
    "vision": Piece(*COSMOS, "d67824b23e6e", first="velocity_vision = uncond_v_vision + "),
    "sound": Piece(*COSMOS, "8225016c450c", first="velocity_sound = uncond_v_sound + "),
}


@compared
@given(videos, tokens, seeds, at_least_one)
def test_cosmos3_guides_sound_with_the_scale_of_the_video(shape, short, seed, scale):
    steps = of_two(seed, ("vision", shape), ("sound", (shape[0], *short[1:])), "cond", "uncond")
    for one, step in zip(guided("cosmos3-sound", steps, guidance_scale=scale), steps, strict=True):
        for output, piece in COSMOS_SOUND.items():
            names = {f"cond_v_{output}": step["cond"][output], f"uncond_v_{output}": step["uncond"][output]}
            assert_close(one[output], piece.run(guidance_scale=scale, **names)[f"velocity_{output}"], scale)


COSMOS_ACTIVE = Piece("sglang", f"{STAGES}/cosmos3.py", "Cosmos3DenoisingStage._cfg_active_at", "276dd66b9ca7")


@compared
@given(videos, seeds, at_least_one, st.sampled_from([(400.0, 1000.0), (0.0, 1000.0), (250.0, 750.0), (600.0, 600.0)]))
def test_cosmos3_guides_images_between_two_timesteps(shape, seed, scale, interval):
    sigmas = [1.0, 0.9, 0.75, 0.6, 0.5, 0.401, 0.4, 0.399, 0.25, 0.1, 0.0]
    steps = steps_of(seed, shape, "cond", "uncond", steps=10)
    mine = guided("cosmos3-t2i", steps, sigmas=sigmas, guidance_scale=scale, guidance_interval=interval)
    active, pipeline = COSMOS_ACTIVE.function(), vllm_mixin()()
    for sigma, one, step in zip(sigmas, mine, steps, strict=False):
        effective = scale if active(round(1000 * sigma, 3), interval) else 1.0
        assert_close(one, pipeline.combine_cfg_noise(step["cond"], step["uncond"], effective), scale)


TRANSFER = Piece(
    "vllm-omni",
    f"{OMNI}/cosmos3/pipeline_cosmos3.py",
    "Cosmos3OmniDiffusersPipeline.combine_multi_branch_cfg_noise",
    "ab04e8c372f0",
)
TRANSFER_SCALES = Piece("vllm-omni", f"{OMNI}/cosmos3/transfer.py", "", "238552913e5c", first="TRANSFER_DEFAULTS")
TRANSFER_BRANCHES = Piece(
    "sglang", f"{STAGES}/cosmos3.py", "Cosmos3DenoisingStage._control_cfg_branches", "29f8b035766a"
)
HINTS = ["edge", "blur", "depth", "seg", "wsm"]


def transferred(step, scale, control):
    """Return what vLLM-Omni makes of the branches that it runs."""
    full, without, uncond = step["cond"], step["no_control"], step["uncond"]
    if control == 1 and scale == 1:
        return full
    mode, branches = "control_and_text", [full, without, uncond]
    if scale == 1:
        mode, branches = "control_only", [full, without]
    if control == 1:
        mode, branches = "text_only", [full, uncond]
    asked = {"mode": "cosmos3_transfer", "branch_mode": mode, "guidance_scale": scale, "control_guidance": control}
    return TRANSFER.function()(None, branches, asked)


@compared
@given(videos, seeds, st.sampled_from([1.0, 2.0, 3.5]), st.sampled_from([0.0, 1.0, 1.5, 3.0]))
def test_cosmos3_follows_a_control_map(shape, seed, scale, control):
    steps = steps_of(seed, shape, "cond", "uncond", "no_control", steps=2)
    mine = guided("cosmos3-transfer", steps, guidance_scale=scale, control_guidance=control)
    for one, step in zip(mine, steps, strict=True):
        assert_close(one, transferred(step, scale, control), 2 * scale * max(control, 1))
        branches = TRANSFER_BRANCHES.function()(
            *(None,) * 4,
            cond_text_seq_len=None,
            uncond_text_seq_len=None,
            control_latents=[],
            text_guidance_scale=scale,
            control_guidance_scale=control,
        )
        of = {"cond": step["cond"], "cond_nc": step["no_control"], "uncond": step["uncond"]}
        total = sum(branch["coeff"] * of[branch["cache_key"]] for branch in branches)
        assert_close(one, total, 2 * scale * max(control, 1))


@pytest.mark.parametrize("hint", HINTS)
def test_cosmos3_has_scales_of_its_own_for_each_kind_of_map(hint):
    steps = steps_of(3, (2, 3, 4), "cond", "uncond", "no_control", steps=2)
    theirs = TRANSFER_SCALES.run(Any=None)["TRANSFER_DEFAULTS"][hint]
    for one, step in zip(guided("cosmos3-transfer", steps, hint=hint), steps, strict=True):
        assert_close(one, transferred(step, theirs["guidance_scale"], theirs["control_guidance"]), 10)


# Lance: two guidances, a limited norm, an interval.

LANCE = Piece("vllm-omni", f"{OMNI}/bagel/bagel_transformer.py", "Bagel._combine_cfg", "0a047799a961")
LANCE_INTERVAL = Piece(
    "vllm-omni",
    f"{OMNI}/bagel/bagel_transformer.py",
    "Bagel",
    "4eff93cf195f",
    first="if t > cfg_interval[0] and t <= cfg_interval[1]:",
)


@compared
@given(
    tokens.map(lambda shape: (1, *shape[1:])),  # the model's norm covers the batch
    seeds,
    st.sampled_from([1.0, 1.5, 4.0]),
    st.sampled_from([1.0, 1.5, 3.0]),
    st.sampled_from(["global", "channel", "text_channel"]),
    st.sampled_from([0.0, 0.4, 1.0]),
    st.sampled_from([(0.4, 1.0), (0.0, 1.0), (0.25, 0.75)]),
)
def test_lance_limits_the_norm_of_what_it_guides(shape, seed, text, image, form, least, interval):
    image = image if text > 1 else 1.0
    sigmas = [1.0, 0.75, 0.5, 0.41, 0.4, 0.25, 0.1, 0.0]
    steps = steps_of(seed, shape, "cond", "negative", "text", steps=7)
    given_scales = {"cfg_text_scale": text, "cfg_img_scale": image}
    mine = guided(
        "lance", steps, sigmas=sigmas, cfg_renorm_type=form, cfg_renorm_min=least, cfg_interval=interval, **given_scales
    )
    for sigma, one, step in zip(sigmas, mine, steps, strict=False):
        space = LANCE_INTERVAL.run(t=sigma, cfg_interval=interval, **given_scales)
        inside = (space["cfg_text_scale_"], space["cfg_img_scale_"])
        theirs = LANCE.function()(step["cond"], step["negative"], step["text"], *inside, form, least)
        assert_close(one, theirs if inside[0] > 1 else step["cond"], 2 * text * image)


# LongCat-Avatar: text and audio.

LONGCAT = Piece(
    "vllm-omni",
    f"{OMNI}/longcat_video/pipeline_longcat_video_avatar.py",
    "LongCatVideoAvatarPipeline._generate_at2v",
    "961ec2025665",
    first="noise_pred = noise_pred_uncond + text_guidance_scale",
)


@compared
@given(videos, seeds, at_least_one, at_least_one)
def test_longcat_avatar_guides_by_text_and_audio(shape, seed, text, audio):
    steps = steps_of(seed, shape, "cond", "audio", "uncond", steps=2)
    mine = guided("longcat-avatar", steps, text_guidance_scale=text, audio_guidance_scale=audio)
    for one, step in zip(mine, steps, strict=True):
        theirs = LONGCAT.run(
            noise_pred_cond=step["cond"],
            noise_pred_uncond_text=step["audio"],
            noise_pred_uncond=step["uncond"],
            text_guidance_scale=text,
            audio_guidance_scale=audio,
        )
        assert_close(one, theirs["noise_pred"], text + audio)


# MAGI-2: skimmed, dynamic, rescaled.

MAGI = Piece(
    "vllm-omni",
    f"{OMNI}/magi2/sampler_magi2.py",
    "Magi2PreviewSampler",
    "b8785089854b",
    members=(
        *("_cfg_scale_tensor", "_get_skimming_mask", "_apply_skimmed_cfg_linear", "_cfg_rescale_dims"),
        *("_apply_cfg_rescale", "cfg_velocity", "precalculate_cfg"),
    ),
)
audio_tokens = tokens.filter(lambda shape: shape[1] > 1)  # one value has no spread; the engine shrinks it then
MAGI_CONFIG = Piece("vllm-omni", f"{OMNI}/magi2/sampler_magi2.py", "CFGConfig", "d336da9e8294")


@compared
@given(
    videos,
    audio_tokens,
    seeds,
    at_least_one,
    at_least_one,
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_magi_guides_video_and_audio(shape, short, seed, video, audio, skims, is_dynamic, rescale):
    chosen = {
        "video_txt_guidance_scale": video,
        "audio_txt_guidance_scale": audio,
        "use_skimmed_cfg_linear": skims,
        "use_dynamic_cfg": is_dynamic,
        "cfg_rescale": rescale,
    }
    config = MAGI_CONFIG.function(dataclass=dataclasses.dataclass, math=math)(**chosen)
    sampler = MAGI.function(CFGParallelMixin=object)()
    steps = of_two(seed, ("video", shape), ("audio", (shape[0], *short[1:])), "cond", "uncond", steps=4)
    samples = of_two(seed + 7, ("video", shape), ("audio", (shape[0], *short[1:])), "x", steps=4)
    sigmas = [1.0, 0.5, 0.45, 0.2, 0.0]
    mine = guided("magi-2", steps, sigmas=sigmas, samples=lambda i: samples[i]["x"], **chosen)
    timesteps = [torch.tensor([1000 * sigma]) for sigma in sigmas[:-1]]
    theirs = sampler.precalculate_cfg(timesteps, shape[2], config, device="cpu")
    for one, step, x, of_video, of_audio in zip(mine, steps, samples, *theirs, strict=True):
        both = tuple(torch.cat((step["cond"][output], step["uncond"][output])) for output in ("video", "audio"))
        results = sampler.cfg_velocity(both, of_video, of_audio, config, x["x"]["video"], x["x"]["audio"])
        for output, result in zip(("video", "audio"), results, strict=True):
            off = (one[output] - result).abs() > 2e-5 * (video + audio) * (1 + result.abs())
            assert off.float().mean() <= (0.01 if skims else 0), (
                "where signs are compared, rounding may decide otherwise"
            )


# Stable Video Diffusion: a ramp over the frames.

SVD_PIPELINE = (
    f"{PIPELINES}/stable_video_diffusion/pipeline_stable_video_diffusion.py",
    "StableVideoDiffusionPipeline",
)
SVD_RAMP = Piece(
    "diffusers",
    SVD_PIPELINE[0],
    f"{SVD_PIPELINE[1]}.__call__",
    "1af9525340ce",
    first="guidance_scale = torch.linspace",
    last="guidance_scale = _append_dims",
)
SVD_DIMS = Piece("diffusers", SVD_PIPELINE[0], "_append_dims", "80cb67a38c2a")
SVD_COMBINED = Piece(
    "diffusers",
    SVD_PIPELINE[0],
    f"{SVD_PIPELINE[1]}.__call__",
    "a21fcef710ab",
    first="noise_pred = noise_pred_uncond + ",
)


@pytest.mark.parametrize("name", ["svd", "svd-xt"])
@compared
@given(st.sampled_from([(1, 14, 4, 4, 2), (2, 5, 2, 3, 3), (1, 1, 2, 2, 2)]), seeds, st.floats(0.5, 3), at_least_one)
def test_the_scale_rises_over_the_frames(name, shape, seed, least, most):
    steps = steps_of(seed, shape, "cond", "uncond", steps=2)
    chosen = {"min_guidance_scale": least, "max_guidance_scale": most, "num_frames": shape[1]}
    mine = guided(name, steps, settings={"alphas": 1.0}, **chosen)
    ramp = SVD_RAMP.run(
        latents=steps[0]["cond"],
        device="cpu",
        batch_size=shape[0],
        num_videos_per_prompt=1,
        _append_dims=SVD_DIMS.function(),
        **chosen,
    )["guidance_scale"]
    for one, step in zip(mine, steps, strict=True):
        theirs = SVD_COMBINED.run(
            noise_pred_uncond=step["uncond"], noise_pred_cond=step["cond"], self=SimpleNamespace(guidance_scale=ramp)
        )
        assert_close(one, theirs["noise_pred"] if ramp.max() > 1 else step["cond"], most)
