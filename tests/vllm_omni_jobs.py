"""Small pipelines on vLLM-Omni's real guidance code: functions that processes can import."""
# ruff: noqa: E402  (the engine is found first)

from __future__ import annotations

import contextlib
import hashlib
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from engines.loading import with_engine

with_engine("vllm_omni")

from vllm_omni.diffusion.distributed import cfg_parallel, parallel_state
from vllm_omni.diffusion.distributed.cfg_parallel import CFGParallelMixin
from vllm_omni.diffusion.models.ltx2 import ltx2_guidance as ltx

from guidance_core.hosts.vllm_omni import GuidedCFG, GuidedLTX

STEPS, SHAPE, IMAGE_TOKENS = 16, (2, 12, 8), 3
cfg_parallel.is_cfg_group_initialized = parallel_state.is_cfg_group_initialized = lambda: False


def drawn(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def bits(*tensors: torch.Tensor) -> str:
    return hashlib.sha256(
        b"".join(each.contiguous().view(torch.uint8).numpy().tobytes() for each in tensors)
    ).hexdigest()


class Small(CFGParallelMixin):
    """A pipeline with a small model, whose forward passes are counted."""

    def __init__(self) -> None:
        (self.weight,) = (each / SHAPE[-1] ** 0.5 for each in drawn((SHAPE[-1], SHAPE[-1])))
        self.passes = 0
        self.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)

    def predict_noise(self, hidden_states: Any, timestep: Any, text: Any) -> torch.Tensor:
        self.passes += 1
        x = hidden_states
        level = (1 + timestep).to(x.dtype)[:, None, None]
        return torch.tanh(x @ self.weight.to(x.dtype) + text.to(x.dtype)) * level

    def generate(
        self, scale: float = 4.0, *, normalize: bool = False, edit: bool = False, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Return the final latents of a request."""
        latents, positive, negative, image = drawn(SHAPE, (2, 1, 8), (2, 1, 8), (2, IMAGE_TOKENS, 8))
        latents = latents.to(dtype)
        self.passes = 0
        self.scheduler.set_timesteps(STEPS)
        self.scheduler.set_begin_index(0)
        for t in self.scheduler.timesteps:
            x = torch.cat([latents, image.to(dtype)], dim=1) if edit else latents
            both = [{"hidden_states": x, "timestep": t.expand(2) / 1000, "text": text} for text in (positive, negative)]
            noise = self.predict_noise_maybe_with_cfg(
                scale > 1, scale, both[0], both[1] if scale > 1 else None, normalize, SHAPE[1] if edit else None
            )
            latents = self.scheduler_step_maybe_with_cfg(noise, t, latents, scale > 1)
        return latents


class Guided(GuidedCFG, Small):
    """The same, guided."""

    def __init__(self, stack: Any = "cfg:scale=4") -> None:
        super().__init__()
        self.stack = stack  # type: ignore[misc]


def join(group: Any) -> None:
    """Have vLLM-Omni's code find this group as its CFG ranks."""
    coordinator = SimpleNamespace(device_group=group, world_size=group.size())
    found = {
        "is_cfg_group_initialized": lambda: True,
        "get_cfg_group": lambda: coordinator,
        "get_classifier_free_guidance_rank": group.rank,
        "get_classifier_free_guidance_world_size": group.size,
    }
    for name, function in found.items():
        for module in (parallel_state, cfg_parallel):
            setattr(module, name, function)
    ltx.get_guidance_parallel_group = found["get_cfg_group"]
    ltx.get_guidance_parallel_rank, ltx.get_guidance_parallel_world_size = group.rank, group.size


def on_ranks(group: Any, stack: Any, scale: float, dtype: torch.dtype) -> tuple[str, int]:
    """Return the digest of a request on CFG ranks, and this rank's forwards."""
    join(group)
    pipeline = Guided(stack)
    return bits(pipeline.generate(scale, dtype=dtype)), pipeline.passes


# LTX

TOKENS, PADDED, BLOCKS, LTX_STEPS = {"video": 12, "audio": 5}, 6, 3, 6
OWN = ltx.LTXGuidanceSpec(
    ltx.LTXModalityGuidance(3.0, 1.0, 3.0, 0.7, (1,)), ltx.LTXModalityGuidance(7.0, 1.0, 3.0, 0.7, (1,))
)
SPEC = "ltx2:cfg_scale={video: 3, audio: 7},stg_scale=1,stg_blocks=1,rescale_scale=0.7,modality_scale=3"


class Pipeline:
    """A pipeline with a small model of video and audio; vLLM-Omni's executor runs its passes."""

    def __init__(self, executor: Any = None, *, clean: bool = False) -> None:
        self.guidance_executor = executor or ltx.LTXGuidanceExecutor()
        self.weights = [each / 8**0.5 for each in drawn(*[(8, 8)] * BLOCKS)]
        self.rows = 0
        self.clean = clean

    def _build_transformer_kwargs(self, forward_ctx: Any, denoise_ctx: Any, **given: Any) -> dict[str, Any]:
        return {**given, "coords": denoise_ctx.video_coords}

    def _transformer_cache_context(self, name: str) -> Any:
        return contextlib.nullcontext()

    def _video_guidance_model_sigma(self, sigma: torch.Tensor, denoise_ctx: Any) -> torch.Tensor:
        if not self.clean:
            return sigma
        mask = torch.zeros(1, TOKENS["video"])
        mask[:, :4] = 1
        return sigma.reshape(-1, 1, 1) * (1 - mask).unsqueeze(-1)

    def transformer(
        self,
        hidden_states: Any,
        audio_hidden_states: Any,
        encoder_hidden_states: Any,
        audio_encoder_hidden_states: Any,
        ts: Any,
        attention_kwargs: Any,
        coords: Any,
        **_: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        flags = attention_kwargs.get("ltx_perturbation_kwargs", {})
        count = hidden_states.shape[0]
        assert coords.shape[0] == count, "positions are given for every row"
        self.rows += count
        video, audio = hidden_states, audio_hidden_states
        kept = {name: flags.get(f"{name}_mask", 1.0) for name in ("a2v_cross_attention", "v2a_cross_attention")}
        for block, weight in enumerate(self.weights):
            cross = 0.3 * audio[:, : TOKENS["audio"]].mean(1, keepdim=True), 0.3 * video.mean(1, keepdim=True)
            texts = encoder_hidden_states, audio_encoder_hidden_states
            made = []
            for name, x, text, seen in zip(("video", "audio"), (video, audio), texts, cross, strict=True):
                skipping = block in flags.get(f"{name}_self_attention_blocks", ())
                mask = flags.get(f"{name}_self_attention_mask", 1.0) if skipping else 1.0
                x = mask * torch.tanh(x @ weight.to(x.dtype) + text) + (1 - mask) * x
                made.append(x + kept["a2v_cross_attention" if name == "video" else "v2a_cross_attention"] * seen)
            video, audio = made
        level = (1 + ts / 1000).to(video.dtype)[:, None, None]
        return video * level, audio * level

    def generate(
        self, spec: Any = OWN, *, parallel: bool = False, samples: int = 1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the final latents; vLLM-Omni's own executor prepares and runs each step."""
        video, audio, *texts = drawn((samples, 12, 8), (samples, PADDED, 8), *[(samples, 1, 8)] * 4)
        first = video[:, :4] if self.clean else video[:, :0]
        self.rows = 0
        self.scheduler, audio_scheduler = (FlowMatchEulerDiscreteScheduler() for _ in range(2))
        for each in (self.scheduler, audio_scheduler):
            each.set_timesteps(LTX_STEPS)
        prompt = SimpleNamespace(
            positive_connector_prompt_embeds=texts[0],
            positive_connector_audio_prompt_embeds=texts[1],
            negative_connector_prompt_embeds=texts[2],
            negative_connector_audio_prompt_embeds=texts[3],
        )
        forward = SimpleNamespace(
            prompt_context=prompt,
            guidance_parallel_ready=parallel,
            attention_kwargs=None,
            original_audio_num_frames=TOKENS["audio"],
            audio_scheduler=audio_scheduler,
        )
        plan = ltx.LTXGuidancePlan.build(spec)
        coords = torch.zeros(samples, 1)
        context = SimpleNamespace(video_coords=coords, audio_coords=coords, audio_attention_mask=None)
        size = ltx.get_guidance_parallel_world_size() if parallel else 1
        context = self.guidance_executor.prepare_denoise_context(plan, parallel, size, context)
        for i, t in enumerate(self.scheduler.timesteps):
            state = SimpleNamespace(video=video, audio=audio)
            made = self.guidance_executor.predict_noise(self, plan, i, t, state, forward, context)
            video, audio = (
                ltx.euler_step_from_velocity(x, v, self.scheduler.sigmas, i)
                for x, v in zip((video, audio), made, strict=True)
            )
            video = torch.cat([first, video[:, first.shape[1] :]], dim=1)  # what is clean is put back after a step
        return video, audio[:, : TOKENS["audio"]]


class Executor(GuidedLTX, ltx.LTXGuidanceExecutor):
    """vLLM-Omni's executor, guided."""

    def __init__(self, stack: Any = SPEC) -> None:
        self.stack = stack  # type: ignore[misc]


def ltx_on_ranks(group: Any, stack: Any) -> tuple[str, int]:
    """Return the digest of a request on guidance ranks, and this rank's forwards."""
    join(group)
    pipeline = Pipeline(Executor(stack))
    return bits(*pipeline.generate(parallel=True)), pipeline.rows
