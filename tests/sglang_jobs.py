"""A small model in sglang's real denoising stage: functions that processes can import."""
# ruff: noqa: E402  (the engine is found first)

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from engines.loading import with_engine

with_engine("sglang")

from sglang.multimodal_gen.runtime.distributed import cfg_parallel_utils, parallel_state
from sglang.multimodal_gen.runtime.distributed.cfg_policy import CFGPolicy
from sglang.multimodal_gen.runtime.distributed.group_coordinator import GroupCoordinator
from sglang.multimodal_gen.runtime.models.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from sglang.multimodal_gen.runtime.pipelines_core.stages.denoising import (
    DenoisingContext,
    DenoisingStage,
    DenoisingStepState,
)

from guidance_core.hosts.sglang import GuidedDenoising

STEPS, SHAPE = 16, (2, 12, 8)
cfg_parallel_utils.get_local_torch_device = lambda: torch.device("cpu")


class Config:
    """A pipeline's configuration."""

    def get_classifier_free_guidance_scale(self, batch: Any, scale: float) -> float:
        return scale

    def slice_noise_pred(self, noise: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        return noise

    def postprocess_cfg_noise(self, batch: Any, noise: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        return noise


class Small(DenoisingStage):
    """The stage with a small model, whose forward passes are counted."""

    current_use_nvtx = _cache_dit_enabled = False  # type: ignore[assignment]

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.transformer = self.model = torch.randn(SHAPE[-1], SHAPE[-1], generator=generator) / SHAPE[-1] ** 0.5
        self.transformer_2 = None
        self.passes: list[str] = []

    def _predict_noise(self, current_model: Any, latent_model_input: Any, timestep: Any, text: Any, **_: Any) -> Any:
        self.passes.append("neg" if self.batch.is_cfg_negative else "pos")
        x = latent_model_input
        return torch.tanh(x @ self.model.to(x.dtype) + text.to(x.dtype)) * (1 + timestep / 1000).to(x.dtype)

    def expand_timestep_before_forward(self, batch: Any, server_args: Any, t_device: Any, *_: Any) -> Any:
        return t_device

    def post_forward_for_ti2v_task(self, batch: Any, server_args: Any, mask: Any, latents: Any, z: Any) -> Any:
        return latents

    def _log_cfg_gate_summary(self, *_: Any) -> None:
        pass

    def _post_denoising_loop(self, **_: Any) -> None:
        pass

    def generate(
        self,
        scale: float = 4.0,
        *,
        parallel: bool = False,
        rescale: float = 0.0,
        normalization: float = 0.0,
        gate: float = 1.0,
        dtype: torch.dtype = torch.float32,
        batch: dict[str, Any] | None = None,
        piece: slice | None = None,
        policy: CFGPolicy | None = None,
    ) -> torch.Tensor:
        """Return the final latents of a request; sglang's own code runs each step."""
        generator = torch.Generator().manual_seed(2)
        latents, positive, negative = (torch.randn(SHAPE, generator=generator) for _ in range(3))
        if piece is not None:
            latents, positive, negative = (each[:, piece] for each in (latents, positive, negative))
        self.passes = []
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        scheduler.set_timesteps(STEPS)
        request = self.batch = SimpleNamespace(
            do_classifier_free_guidance=scale > 1,
            guidance_scale=scale,
            guidance_rescale=rescale,
            cfg_normalization=normalization,
            sampling_params=SimpleNamespace(cfg_gate_step=gate),
            is_warmup=True,
            image_latent=None,
            extra={},
            **(batch or {}),
        )
        server = SimpleNamespace(pipeline_config=Config(), enable_cfg_parallel=parallel, comfyui_mode=False)
        built = (policy or CFGPolicy()).build(request, {}, {"text": positive}, {"text": negative})
        context = DenoisingContext(
            scheduler=scheduler,
            extra_step_kwargs={},
            target_dtype=dtype,
            autocast_enabled=False,
            timesteps=scheduler.timesteps,
            num_inference_steps=STEPS,
            num_warmup_steps=0,
            image_kwargs={},
            pos_cond_kwargs={},
            neg_cond_kwargs={},
            latents=latents,
            boundary_timestep=None,
            z=None,
            reserved_frames_mask=None,
            seq_len=None,
            guidance=None,
            is_warmup=True,
            cfg_policy=built,
        )
        self._before_denoising_loop(context, request, server)
        for i, t in enumerate(scheduler.timesteps):
            step = DenoisingStepState(i, t, t, int(t), self.model, scale, None)
            self._run_denoising_step(context, step, request, server)
        self._finalize_denoising_loop(context, request, server)
        assert request.extra == {}
        return context.latents


class Guided(GuidedDenoising, Small):
    """The same, guided."""

    def __init__(self, stack: Any = "cfg:scale=4") -> None:
        super().__init__()
        self.stack = stack  # type: ignore[misc]


def bits(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def join(group: Any) -> None:
    """Have sglang's real coordinator use this group for its CFG ranks."""
    coordinator = GroupCoordinator.__new__(GroupCoordinator)
    coordinator.__dict__.update(
        rank_in_group=group.rank(),
        world_size=group.size(),
        ranks=list(range(group.size())),
        device_group=group,
        cpu_group=group,
        device_communicator=None,
        srt_custom_allreduce=None,
        shm_handle=None,
        rank=torch.distributed.get_rank(),
        device=torch.device("cpu"),
    )
    parallel_state._CFG = coordinator


def on_ranks(group: Any, stack: Any, scale: float, dtype: torch.dtype = torch.float32) -> tuple[str, int]:
    """Return the digest of a request on a server with CFG ranks, and this rank's forwards."""
    join(group)
    stage = Small() if stack is None else Guided(stack)
    made = stage.generate(scale, parallel=True, dtype=dtype)
    return bits(made), len(stage.passes)


PIECES = (slice(0, 6), slice(6, 12))


def in_pieces(group: Any, stack: Any) -> torch.Tensor:
    """Return this rank's piece of a request on two guidance ranks and two of a sequence."""
    ranks = dist.get_process_group_ranks(group)
    lines = {name: [dist.new_group([ranks[i] for i in line]) for line in lines] for name, lines in LINES.items()}
    mine = group.rank()
    guidance, sequence = lines["guidance"][mine % 2], lines["sequence"][mine // 2]
    join(guidance)
    parallel_state._SP = SimpleNamespace(device_group=sequence)
    facts = {"did_sp_shard_latents": True, "raw_latent_shape": torch.Size(SHAPE)}
    return Guided(stack).generate(parallel=True, batch=facts, piece=PIECES[mine % 2])


LINES = {"guidance": ((0, 2), (1, 3)), "sequence": ((0, 1), (2, 3))}
