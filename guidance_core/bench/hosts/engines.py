"""The engines' own code out of their wheels, with a small model: sglang's stage and vLLM-Omni's mixin."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from guidance_core.bench.hosts.classic import diffusers_package
from guidance_core.bench.hosts.subject import Counted, Subject, Way, drawn, saving, with_weights
from guidance_core.bench.hosts.wheels import with_engine
from guidance_core.executors import Executor

STEPS, SCALE = 6, 4.0


class Model(torch.nn.Module):
    """Layers of a perceptron over tokens, to each of which a text is added."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        pairs = ((torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)) for _ in range(layers))
        self.layers = torch.nn.ModuleList(torch.nn.Sequential(up, torch.nn.GELU(), down) for up, down in pairs)

    def forward(self, x: Tensor, level: Tensor, text: Tensor) -> Tensor:
        """Return a prediction for tokens `[B, S, width]`, a noise level and a text `[B, 1, width]`."""
        made = x
        for layer in self.layers:
            made = made + torch.tanh(layer(made + text))
        return made * (1 + level)


def _model(tiny: bool) -> tuple[Any, tuple[int, int, int], Counted]:
    """Return a model, the shape of its sample, and what counts its rows."""
    tokens, width, layers = (8, 8, 2) if tiny else (512, 384, 8)
    model, counted = with_weights(lambda: Model(width, layers)), Counted()
    counted.watch(model)
    return model, (1, tokens, width), counted


def sglang(tiny: bool) -> Subject:
    """Return sglang's denoising stage, which runs each step."""
    diffusers_package()
    version = with_engine("sglang")
    from sglang.multimodal_gen.runtime.distributed import cfg_parallel_utils
    from sglang.multimodal_gen.runtime.distributed.cfg_policy import CFGPolicy
    from sglang.multimodal_gen.runtime.models.schedulers.scheduling_flow_match_euler_discrete import (
        FlowMatchEulerDiscreteScheduler,
    )
    from sglang.multimodal_gen.runtime.pipelines_core.stages.denoising import (
        DenoisingContext,
        DenoisingStage,
        DenoisingStepState,
    )

    from guidance_core.hosts.sglang import GuidedDenoising

    cfg_parallel_utils.get_local_torch_device = lambda: torch.device("cpu")
    model, shape, counted = _model(tiny)

    class Config:
        """A pipeline's configuration, which changes nothing."""

        def get_classifier_free_guidance_scale(self, batch: Any, scale: float) -> float:
            return scale

        def slice_noise_pred(self, noise: Tensor, latents: Tensor) -> Tensor:
            return noise

        def postprocess_cfg_noise(self, batch: Any, noise: Tensor, cond: Tensor) -> Tensor:
            return noise

    class Stage(DenoisingStage):  # type: ignore[misc]
        """The stage with the model in it; the rest of its pipeline is left out."""

        current_use_nvtx = _cache_dit_enabled = False
        transformer, transformer_2 = model, None

        def __init__(self) -> None:
            pass

        def _predict_noise(
            self, current_model: Any, latent_model_input: Any, timestep: Any, text: Any, **_: Any
        ) -> Any:
            return current_model(latent_model_input, timestep / 1000, text)

        def expand_timestep_before_forward(self, batch: Any, server_args: Any, t_device: Any, *_: Any) -> Any:
            return t_device

        def post_forward_for_ti2v_task(self, batch: Any, server_args: Any, mask: Any, latents: Any, z: Any) -> Any:
            return latents

        def _log_cfg_gate_summary(self, *_: Any) -> None:
            pass

        def _post_denoising_loop(self, **_: Any) -> None:
            pass

        def generate(self, seed: int) -> Any:
            """Return the final latents of a request."""
            text = (1, 1, shape[-1])
            given = drawn(seed, latents=shape, positive=text, negative=text)
            scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
            scheduler.set_timesteps(STEPS)
            request = SimpleNamespace(
                do_classifier_free_guidance=True,
                guidance_scale=SCALE,
                guidance_rescale=0.0,
                cfg_normalization=0.0,
                sampling_params=SimpleNamespace(cfg_gate_step=1.0),
                is_warmup=True,
                image_latent=None,
                extra={},
            )
            server = SimpleNamespace(pipeline_config=Config(), enable_cfg_parallel=False, comfyui_mode=False)
            texts = ({"text": given["positive"]}, {"text": given["negative"]})
            context = DenoisingContext(
                scheduler=scheduler,
                extra_step_kwargs={},
                target_dtype=torch.float32,
                autocast_enabled=False,
                timesteps=scheduler.timesteps,
                num_inference_steps=STEPS,
                num_warmup_steps=0,
                image_kwargs={},
                pos_cond_kwargs={},
                neg_cond_kwargs={},
                latents=given["latents"],
                boundary_timestep=None,
                z=None,
                reserved_frames_mask=None,
                seq_len=None,
                guidance=None,
                is_warmup=True,
                cfg_policy=CFGPolicy().build(request, {}, *texts),
            )
            self._before_denoising_loop(context, request, server)
            for i, t in enumerate(scheduler.timesteps):
                step = DenoisingStepState(i, t, t, int(t), model, SCALE, None)
                self._run_denoising_step(context, step, request, server)
            self._finalize_denoising_loop(context, request, server)
            return context.latents

    class Guided(GuidedDenoising, Stage):
        """The stage, guided."""

        def __init__(self, stack: str, way: Way) -> None:
            super().__init__()
            self.stack, self.way = stack, way  # type: ignore[misc]

        def executor_for(self, server_args: Any) -> str | Executor:
            return self.way or "serial"

    def ours(spec: str, way: Way, seed: int) -> Any:
        return Guided(spec, way).generate(seed)

    specs = saving(f"cfg:scale={SCALE:g}")
    return Subject("sglang, its stage", version, STEPS, lambda seed: Stage().generate(seed), ours, specs, counted)


def vllm_omni(tiny: bool) -> Subject:
    """Return a pipeline with vLLM-Omni's mixin for guidance."""
    diffusers = diffusers_package()
    version = with_engine("vllm_omni")
    from vllm_omni.diffusion.distributed import cfg_parallel, parallel_state

    from guidance_core.hosts.vllm_omni import GuidedCFG

    cfg_parallel.is_cfg_group_initialized = parallel_state.is_cfg_group_initialized = lambda: False
    model, shape, counted = _model(tiny)

    class Pipeline(cfg_parallel.CFGParallelMixin):  # type: ignore[misc]
        """A pipeline whose loop is that of vLLM-Omni's own."""

        def __init__(self) -> None:
            self.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)

        def predict_noise(self, hidden_states: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
            made: Tensor = model(hidden_states, timestep[:, None, None], text)
            return made

        def generate(self, seed: int) -> Any:
            """Return the final latents of a request."""
            text = (1, 1, shape[-1])
            given = drawn(seed, latents=shape, positive=text, negative=text)
            latents = given["latents"]
            self.scheduler.set_timesteps(STEPS)
            self.scheduler.set_begin_index(0)
            for t in self.scheduler.timesteps:
                level = t.expand(1) / 1000
                both = [
                    {"hidden_states": latents, "timestep": level, "text": given[name]}
                    for name in ("positive", "negative")
                ]
                noise = self.predict_noise_maybe_with_cfg(True, SCALE, *both, False, None)
                latents = self.scheduler_step_maybe_with_cfg(noise, t, latents, True)
            return latents

    class Guided(GuidedCFG, Pipeline):
        """The pipeline, guided."""

        def __init__(self, stack: str, way: Way) -> None:
            super().__init__()
            self.stack, self.way = stack, way  # type: ignore[misc]

        def executor_for_ranks(self) -> str | Executor:
            return self.way or "serial"

    def ours(spec: str, way: Way, seed: int) -> Any:
        return Guided(spec, way).generate(seed)

    specs = saving(f"cfg:scale={SCALE:g}")
    own = Pipeline()
    return Subject("vLLM-Omni, its mixin", version, STEPS, own.generate, ours, specs, counted)
