"""Recipes of models of music and of actions, beside the engines' code."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from hypothesis import given
from hypothesis import strategies as st

from recipes.comparing import assert_close, compared, guided, scales, seeds, steps_of, tokens, videos
from recipes.engine_code import Piece
from recipes.test_plain import vllm_mixin
from recipes.test_video import of_two

at_least_one = scales.filter(lambda scale: scale >= 1)

ACE = ("diffusers", "diffusers/pipelines/ace_step/pipeline_ace_step.py", "AceStepPipeline.__call__")
ACE_COMBINED = Piece(*ACE, "e34f957bbc30", first="vt = normalized_guidance(")
ACE_ACTIVE = Piece(*ACE, "c510ea4c721e", first="timestep_ratio = ", last="apply_cfg = ")
ACE_MOMENTUM = Piece(*ACE, "961ffb08db55", first="momentum_buffer = MomentumBuffer")
APG = ("diffusers", "diffusers/guiders/adaptive_projected_guidance.py")
NORMALIZED, MOMENTUM = Piece(*APG, "normalized_guidance", "22f4bc5cab60"), Piece(*APG, "MomentumBuffer", "851bed2afb3c")


@compared
@given(tokens, seeds, at_least_one, st.sampled_from([(0.0, 1.0), (0.2, 0.7), (0.0, 0.5), (0.5, 1.0)]))
def test_ace_step_projects_over_time_inside_an_interval(shape, seed, scale, interval):
    sigmas = [1.0, 0.9, 0.75, 0.5, 0.4, 0.25, 0.1, 0.0]
    steps = steps_of(seed, shape, "cond", "uncond", steps=7)
    start, end = interval
    mine = guided(
        "ace-step", steps, sigmas=sigmas, guidance_scale=scale, cfg_interval_start=start, cfg_interval_end=end
    )
    buffer = ACE_MOMENTUM.run(MomentumBuffer=MOMENTUM.function(), do_cfg=True)["momentum_buffer"]
    for sigma, one, step in zip(sigmas, mine, steps, strict=False):
        names = {"do_cfg": scale > 1, "cfg_interval_start": start, "cfg_interval_end": end}
        theirs = step["cond"]
        if ACE_ACTIVE.run(current_timestep=sigma, **names)["apply_cfg"]:
            theirs = ACE_COMBINED.run(
                vt_cond=step["cond"],
                vt_uncond=step["uncond"],
                guidance_scale=scale,
                momentum_buffer=buffer,
                normalized_guidance=NORMALIZED.function(),
            )["vt"]
        assert_close(one, theirs, 5 * scale)


DREAMZERO = Piece(
    "vllm-omni",
    "vllm_omni/diffusion/models/dreamzero/pipeline_dreamzero.py",
    "DreamZeroPipeline",
    "7b77977c2284",
    members=("combine_cfg_noise",),
)


@compared
@given(videos, tokens, seeds, at_least_one)
def test_dreamzero_guides_the_video_alone(shape, short, seed, scale):
    steps = of_two(seed, ("video", shape), ("action", (shape[0], *short[1:])), "cond", "uncond")
    pipeline = DREAMZERO.function(nn=SimpleNamespace(Module=type("Module", (), {})), CFGParallelMixin=vllm_mixin())()
    for one, step in zip(guided("dreamzero", steps, cfg_scale=scale), steps, strict=True):
        theirs = pipeline.combine_cfg_noise(*(tuple(step[name].values()) for name in ("cond", "uncond")), scale)
        for mine, other in zip(one.values(), theirs, strict=True):
            assert_close(mine, other, scale)
        assert torch.equal(one["action"], step["cond"]["action"])


FLUX3 = Piece(
    "sglang",
    "sglang/multimodal_gen/runtime/pipelines_core/stages/model_specific_stages/flux3_action.py",
    "Flux3ActionDenoisingStage",
    "16bb4f08fc1e",
    first="return {k: (uncond[k] + guidance[k]",
)
FLUX3_SCALES = Piece(
    "sglang",
    "sglang/multimodal_gen/configs/pipeline_configs/flux3_action.py",
    "Flux3ActionPipelineConfig.resolve_guidance",
    "27d894c1c79c",
)


@compared
@given(videos, tokens, seeds, scales, scales)
def test_flux3_has_a_scale_for_each_output(shape, short, seed, video, action):
    steps = of_two(seed, ("video", shape), ("action", (shape[0], *short[1:])), "cond", "uncond")
    config = SimpleNamespace(guidance_scale=4.0, guidance_scale_action=1.0, action_modality="action")
    for chosen in ({}, {"guidance_scale": video, "guidance_scale_action": action}):
        guidance = FLUX3_SCALES.function()(config, chosen.get("guidance_scale"), chosen.get("guidance_scale_action"))
        for one, step in zip(guided("flux3-action", steps, **chosen), steps, strict=True):
            theirs = FLUX3.run(guidance=guidance, order=("video", "action"), **step)["returned"]
            for output in ("video", "action"):
                assert_close(one[output], theirs[output], guidance[output])
