"""A mixin that has vLLM-Omni's executor of LTX guidance run a stack of methods.

A pipeline names its executor as a class attribute, so that nothing of the pipeline is changed:

    class Executor(GuidedLTX, LTXGuidanceExecutor):
        stack = "ltx2:preset=2.3"

    class Pipeline(LTX2Pipeline):
        guidance_executor = Executor()
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from guidance_core.errors import ConfigurationError
from guidance_core.executors import Executor
from guidance_core.guidance import Guidance
from guidance_core.hosts.diffusers.levels import Levels
from guidance_core.hosts.engine import NEGATIVE, POSITIVE, Request, check_order, over, tensors_of
from guidance_core.hosts.versions import tell_untested_host
from guidance_core.methods.perturbations import IsolateOutputs, Perturbation, SkipSelfAttention, UseCondition
from guidance_core.methods.requests import Branch
from guidance_core.steps.bound_branch import BoundBranch

OUTPUTS = ("video", "audio")
KEPT = "guidance_core"
"Where a phase keeps its run, in its `LTXForwardContext`."
Stack = str | Guidance | Sequence[Any]


class GuidedLTX:
    """Mixin for vLLM-Omni's `LTXGuidanceExecutor`.

    Predictions have the outputs `video` and `audio`. Phases for which the pipeline plans one pass are left to it; in
    others the stack replaces what the request says of guidance.
    """

    stack: ClassVar[Stack | None] = None
    "A spec, a `Guidance` or a list of plugins."

    def __init_subclass__(cls, **given: Any) -> None:
        """Refuse a class in which the mixin has no effect."""
        super().__init_subclass__(**given)
        check_order(cls, GuidedLTX, "LTXGuidanceExecutor")

    def stack_for(self, plan: Any, forward_ctx: Any) -> Stack | None:
        """Return what guides a phase that the pipeline plans several passes for."""
        return self.stack

    def executor_for(self, forward_ctx: Any) -> str | Executor:
        """Return what runs the branches: `all_gather` over the guidance ranks, where there are several."""
        if not forward_ctx.guidance_parallel_ready:
            return "serial"
        from vllm_omni.diffusion.distributed.parallel_state import get_cfg_group

        return over(get_cfg_group().device_group)

    @staticmethod
    def prepare_denoise_context(
        plan: Any, guidance_parallel_ready: bool, guidance_world_size: int, denoise_ctx: Any
    ) -> Any:
        """Return the context as it is: a forward holds one pass, so that positions need not be repeated."""
        return denoise_ctx

    def predict_noise(
        self,
        pipeline: Any,
        plan: Any,
        index: int,
        timestep: Tensor,
        state: Any,
        forward_ctx: Any,
        denoise_ctx: Any,
        preserve_positive_velocity: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return the guided velocity of video and audio."""
        stack = self.stack_for(plan, forward_ctx) if len(plan.passes) > 1 else None
        if stack is None:
            if len(plan.passes) > 1:
                raise ConfigurationError("GuidedLTX needs a stack for a phase with several passes; set stack.")
            made: tuple[Tensor, Tensor] = super().predict_noise(  # type: ignore[misc]
                pipeline, plan, index, timestep, state, forward_ctx, denoise_ctx, preserve_positive_velocity
            )
            return made
        prompt, count = forward_ctx.prompt_context, forward_ctx.original_audio_num_frames
        texts = {
            POSITIVE: (prompt.positive_connector_prompt_embeds, prompt.positive_connector_audio_prompt_embeds),
            NEGATIVE: (prompt.negative_connector_prompt_embeds, prompt.negative_connector_audio_prompt_embeds),
        }
        conditions = {
            name: {"encoder_hidden_states": video, "audio_encoder_hidden_states": audio}
            for name, (video, audio) in texts.items()
            if video is not None and audio is not None
        }
        request = vars(forward_ctx).get(KEPT)
        if request is None:
            request = vars(forward_ctx)[KEPT] = self._started(stack, pipeline, forward_ctx, conditions)

        def denoise(branch: BoundBranch) -> tuple[Tensor, Tensor]:
            given = dict(branch.amend(conditions[branch.condition]))
            for each in branch.perturbations:
                if isinstance(each, UseCondition):
                    name = f"{'audio_' if each.output == 'audio' else ''}encoder_hidden_states"
                    given[name] = conditions[each.condition][name]
            own = flags_of(branch.perturbations, state.video)
            attention = dict(forward_ctx.attention_kwargs or {}) | ({"ltx_perturbation_kwargs": own} if own else {})
            inputs = pipeline._build_transformer_kwargs(
                forward_ctx,
                denoise_ctx,
                hidden_states=state.video.to(given["encoder_hidden_states"].dtype),
                audio_hidden_states=state.audio.to(given["audio_encoder_hidden_states"].dtype),
                encoder_attention_mask=None,
                audio_encoder_attention_mask=None,
                ts=timestep.expand(state.video.shape[0]),
                attention_kwargs=attention,
                **given,
            )
            with pipeline._transformer_cache_context("guided"):
                video, audio = pipeline.transformer(**inputs)
            return video, audio[:, :count]

        sigma = pipeline.scheduler.sigmas[index]
        own = pipeline._video_guidance_model_sigma(sigma, denoise_ctx)
        mapped = own.ndim > 0
        levels = {"sigma_map": (own, sigma.reshape(1, 1, 1))} if mapped else {}
        sample = state.video, state.audio[:, :count]
        video, audio = request.run.step(index, sample, denoise, **levels)
        if mapped:  # the sampler goes by the step's own level: what is clean stays
            video = (video.float() * (own.float() / sigma.float())).to(video.dtype)
        padded = state.audio.shape[1] - audio.shape[1]
        return video, pad(audio, (0, 0, 0, padded)) if padded else audio

    def _started(self, stack: Stack, pipeline: Any, forward_ctx: Any, conditions: Any) -> Request:
        tell_untested_host("vllm-omni")
        sigmas, others = (each.sigmas.tolist() for each in (pipeline.scheduler, forward_ctx.audio_scheduler))
        if sigmas != others:
            raise ConfigurationError("video and audio have schedules of their own; GuidedLTX needs them to be equal.")
        levels = Levels("flow", tuple(sigmas), None, tuple((i, each, None) for i, each in enumerate(sigmas[:-1])))
        return Request.start(
            stack,
            levels,
            conditions=tuple(conditions),
            executor=self.executor_for(forward_ctx),
            supports=_unsupported,
            outputs=OUTPUTS,
            given=lambda: {name: tensors_of(each) for name, each in conditions.items()},
        )


def _unsupported(branch: Branch) -> str | None:
    """Return why vLLM-Omni's LTX model cannot run a pass; None if it can."""
    if branch.model is not None:
        return "it is given another model, which vLLM-Omni's LTX pipelines do not have"
    try:
        flags_of(branch.perturbations, torch.empty(1))
    except ConfigurationError as error:
        return str(error).rstrip(".")
    return None


def flags_of(perturbations: Iterable[Perturbation], sample: Tensor) -> dict[str, Any]:
    """Return vLLM-Omni's `ltx_perturbation_kwargs` for a pass: a mask of zeros where attention is skipped.

    Raises:
        ConfigurationError: its model has no flag for one of them.
    """
    flags: dict[str, Any] = {}
    skipped = sample.new_zeros((sample.shape[0], 1, 1))
    for each in perturbations:
        if isinstance(each, UseCondition):
            continue  # one of the inputs
        if isinstance(each, IsolateOutputs) and each.blocks is None and each.output is None:
            flags |= dict.fromkeys(("a2v_cross_attention_mask", "v2a_cross_attention_mask"), skipped)
        elif isinstance(each, SkipSelfAttention) and each.blocks is not None and (each.output or "video") in OUTPUTS:
            for output in OUTPUTS if each.output is None else (each.output,):
                name = f"{output}_self_attention"
                blocks = {*flags.get(f"{name}_blocks", ()), *map(int, each.blocks)}
                flags |= {f"{name}_mask": skipped, f"{name}_blocks": tuple(sorted(blocks))}
        else:
            raise ConfigurationError(
                f"vLLM-Omni's LTX model has no flag for {each}; it can skip self-attention in blocks, given by their "
                "numbers, of video and audio, and isolate the two."
            )
    return flags
