"""A small model of video and audio in sglang's real LTX-2 stage: functions that processes can import."""
# ruff: noqa: E402  (the engine is found first)

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from engines.loading import with_engine
from sglang_jobs import bits, join

with_engine("sglang")

from sglang.multimodal_gen.runtime.models.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from sglang.multimodal_gen.runtime.pipelines_core.stages.denoising import DenoisingStepState
from sglang.multimodal_gen.runtime.pipelines_core.stages.model_specific_stages.ltx_2 import denoising

from guidance_core.hosts.sglang import GuidedLTX2Denoising

STEPS, TOKENS, CHANNELS, BLOCKS = 6, {"video": 12, "audio": 5}, 8, 3
OWN = {
    f"{output}_{name}": value
    for output, scale in (("video", 3.0), ("audio", 7.0))
    for name, value in {
        "cfg_scale": scale,
        "stg_scale": 1.0,
        "stg_blocks": [1],
        "rescale_scale": 0.7,
        "modality_scale": 3.0,
        "skip_step": 0,
    }.items()
}
SPEC = "ltx2:cfg_scale={video: 3, audio: 7},stg_scale=1,stg_blocks=1,rescale_scale=0.7,modality_scale=3"
denoising.rollout_step_kwargs = lambda batch: {}
denoising.quality_allows = lambda quality, tier: quality != "exact"
denoising.is_ltx2_two_stage_pipeline_name = lambda name: name == "LTX2TwoStagePipeline"


class Model:
    """Blocks of self-attention and cross-attention, skipped as `perturbation_configs` says for each sample."""

    caches_prompt_kv = False

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.weights = [torch.randn(CHANNELS, CHANNELS, generator=generator) / CHANNELS**0.5 for _ in range(BLOCKS)]
        self.rows = 0

    def __call__(
        self,
        hidden_states: torch.Tensor,
        audio_hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        audio_encoder_hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        perturbation_configs: Any = None,
        skip_video_self_attn_blocks: tuple[int, ...] = (),
        skip_audio_self_attn_blocks: tuple[int, ...] = (),
        disable_a2v_cross_attn: bool = False,
        disable_v2a_cross_attn: bool = False,
        **_: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        count = hidden_states.shape[0]
        self.rows += count
        shared = {
            "skip_video_self_attn_blocks": skip_video_self_attn_blocks,
            "skip_audio_self_attn_blocks": skip_audio_self_attn_blocks,
            "skip_a2v_cross_attn": disable_a2v_cross_attn,
            "skip_v2a_cross_attn": disable_v2a_cross_attn,
        }
        made = []
        for row in range(count):
            flags = perturbation_configs[row] if perturbation_configs else shared
            video, audio = hidden_states[row], audio_hidden_states[row]
            for block, weight in enumerate(each.to(video.dtype) for each in self.weights):
                seen_by_audio, seen_by_video = video.mean(0), audio.mean(0)
                if block not in flags["skip_video_self_attn_blocks"]:
                    video = torch.tanh(video @ weight + encoder_hidden_states[row])
                if block not in flags["skip_audio_self_attn_blocks"]:
                    audio = torch.tanh(audio @ weight + audio_encoder_hidden_states[row])
                if not flags["skip_a2v_cross_attn"]:
                    video = video + 0.3 * seen_by_video
                if not flags["skip_v2a_cross_attn"]:
                    audio = audio + 0.3 * seen_by_audio
            level = (1 + timestep[row]).to(video.dtype)
            made.append((video * level, audio * level))
        return torch.stack([video for video, _ in made]), torch.stack([audio for _, audio in made])


class Small(denoising.LTX2DenoisingStage):
    """The stage with the small model."""

    current_use_nvtx = _cache_dit_enabled = False  # type: ignore[assignment]

    def __init__(self, sampler: str = "euler") -> None:
        self.transformer = self.model = Model()
        self.sampler_name = sampler
        self._attention_backend_active_override = None
        self._skip_softmax_forced_fa = False

    def _prepare_ltx2_model_inputs(self, ctx: Any, step: Any, batch: Any, server_args: Any, sigma: Any) -> Any:
        level = sigma.float().expand(ctx.latents.shape[0])
        return SimpleNamespace(
            latent_model_input=ctx.latents,
            audio_latent_model_input=ctx.audio_latents,
            timestep_video=level,
            timestep_audio=level,
        )

    def _build_ltx2_base_model_kwargs(self, ctx: Any, batch: Any, inputs: Any) -> dict[str, Any]:
        return {
            "hidden_states": inputs.latent_model_input,
            "audio_hidden_states": inputs.audio_latent_model_input,
            "timestep": inputs.timestep_video,
            "audio_timestep": inputs.timestep_audio,
            "num_frames": 3,
        }

    def _get_ltx_prompt_attention_mask(self, *_: Any, **__: Any) -> None:
        return None

    def _should_pass_ltx2_text_attention_mask(self, ctx: Any) -> bool:
        return False

    def _maybe_get_bcg_runner(self, *_: Any) -> None:
        return None

    def post_forward_for_ti2v_task(self, batch: Any, server_args: Any, mask: Any, latents: Any, z: Any) -> Any:
        return latents

    def _log_cfg_gate_summary(self, *_: Any) -> None:
        pass

    def _post_denoising_loop(self, **_: Any) -> None:
        pass

    def _init_cfg_gate_state(self, ctx: Any, *_: Any) -> None:
        ctx.extra["cfg_gate_state"] = None

    def generate(
        self,
        own: dict[str, Any] | None = OWN,
        *,
        parallel: bool = False,
        exact: bool = False,
        scale: float = 4.0,
        stage: str = "stage1",
        samples: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> torch.Tensor:
        """Return the final latents of a request, video and audio in one; sglang's own code runs each step."""
        generator = torch.Generator().manual_seed(2)
        drawn = {name: torch.randn(samples, n, CHANNELS, generator=generator).to(dtype) for name, n in TOKENS.items()}
        texts = [torch.randn(samples, 1, CHANNELS, generator=generator).to(dtype) for _ in range(4)]
        self.model.rows = 0
        scheduler, audio_scheduler = (FlowMatchEulerDiscreteScheduler() for _ in range(2))
        for each in (scheduler, audio_scheduler):
            each.set_timesteps(STEPS)
        sigmas = scheduler.sigmas
        self.server_args = SimpleNamespace(enable_cfg_parallel=False)  # inputs are here already
        server = SimpleNamespace(enable_cfg_parallel=parallel, pipeline_class_name="LTX2Pipeline")
        request = SimpleNamespace(
            do_classifier_free_guidance=scale > 1,
            guidance_scale=scale,
            prompt_embeds=texts[:1],
            audio_prompt_embeds=texts[1:2],
            negative_prompt_embeds=texts[2:3],
            negative_audio_prompt_embeds=texts[3:],
            generator=None,
            quality="exact" if exact else "lossless",
            return_trajectory_latents=False,
            extra={} if own is None else {"ltx2_stage1_guider_params": own},
        )
        policy = denoising_policy().build(request, {}, {"text": texts[:2]}, {"text": texts[2:]})
        given = {
            **{name: {} for name in ("extra_step_kwargs", "image_kwargs", "pos_cond_kwargs", "neg_cond_kwargs")},
            "scheduler": scheduler,
            "target_dtype": dtype,
            "autocast_enabled": False,
            "timesteps": scheduler.timesteps,
            "num_inference_steps": STEPS,
            "num_warmup_steps": 0,
            "latents": drawn["video"],
            "boundary_timestep": None,
            "z": None,
            "reserved_frames_mask": None,
            "seq_len": None,
            "guidance": None,
            "is_warmup": True,
            "cfg_policy": policy,
            "audio_latents": drawn["audio"],
            "audio_scheduler": audio_scheduler,
            "use_ltx23_legacy_one_stage": True,
            "stage": stage,
            "sigmas_host": sigmas,
            "sigmas_device": sigmas,
        }
        context = denoising.LTX2DenoisingContext(**given)
        self._before_denoising_loop(context, request, server)
        for i, t in enumerate(context.timesteps):
            self._run_denoising_step(
                context, DenoisingStepState(i, t, t, int(t), self.model, scale, None), request, server
            )
        self._finalize_denoising_loop(context, request, server)
        return torch.cat([context.latents.flatten(1), context.audio_latents.flatten(1)], dim=1)


def denoising_policy() -> Any:
    from sglang.multimodal_gen.runtime.distributed.cfg_policy import CFGPolicy

    return CFGPolicy()


class Guided(GuidedLTX2Denoising, Small):
    """The same, guided."""

    def __init__(self, stack: Any = SPEC, **given: Any) -> None:
        super().__init__(**given)
        self.stack = stack  # type: ignore[misc]


def on_ranks(group: Any, stack: Any, own: Any, dtype: torch.dtype, exact: bool) -> tuple[str, int]:
    """Return the digest of a request on a server with CFG ranks, and this rank's forwards."""
    join(group)
    stage = Guided(stack)
    return bits(stage.generate(own, parallel=True, dtype=dtype, exact=exact)), stage.model.rows
