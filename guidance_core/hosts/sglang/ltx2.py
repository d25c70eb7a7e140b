"""A mixin that has sglang's LTX-2 stage guided: its model's calls are answered with the stack's guided prediction.

The stage asks its model for the passes of both texts, in one call or in one call a sample. It gets the guided
prediction in the place of each, which its own formula leaves as it is. Its own perturbed passes are turned off: the
stack asks for those that it needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from guidance_core.errors import ConfigurationError
from guidance_core.executors import Shards
from guidance_core.hosts.diffusers.levels import Levels
from guidance_core.hosts.engine import NEGATIVE, POSITIVE, Request
from guidance_core.hosts.sglang.stage import KEPT, GuidedDenoising, OneRank
from guidance_core.methods.perturbations import IsolateOutputs, Perturbation, SkipSelfAttention
from guidance_core.methods.requests import Branch
from guidance_core.steps.bound_branch import BoundBranch

OUTPUTS = ("video", "audio")
OFF = {
    f"{output}_{name}": value
    for output in OUTPUTS
    for name, value in {"stg_scale": 0.0, "modality_scale": 1.0, "rescale_scale": 0.0, "skip_step": 0}.items()
}
"Parameters of the stage's own guider at which it runs the passes of both texts and no other, in every step."
FLAGS = ("skip_video_self_attn_blocks", "skip_audio_self_attn_blocks", "skip_a2v_cross_attn", "skip_v2a_cross_attn")


class GuidedLTX2Denoising(GuidedDenoising):
    """Mixin for sglang's `LTX2DenoisingStage`.

        class Stage(GuidedLTX2Denoising, LTX2DenoisingStage):
            stack = "ltx2:preset=2.3"

    Predictions have the outputs `video` and `audio`. What the request says of its guider (scales, blocks, skipped
    steps) is replaced by the stack. A second, distilled stage is left to sglang.
    """

    outputs = OUTPUTS
    _evaluations: _Evaluations | None = None

    def levels_for(self, ctx: Any) -> Levels:
        """Return the noise levels of a request."""
        sigmas = tuple(ctx.sigmas_host.tolist())
        return Levels("flow", sigmas, None, tuple((i, sigma, None) for i, sigma in enumerate(sigmas[:-1])))

    def shards_for(self, ctx: Any, batch: Any) -> Shards | None:
        """Return how sglang split the tokens of video and audio."""
        split = {
            "video": getattr(batch, "did_sp_shard_latents", False) and batch.raw_latent_shape[1],
            "audio": getattr(batch, "did_sp_shard_audio_latents", False) and batch.raw_audio_latent_shape[1],
        }
        valid = {output: int(count) for output, count in split.items() if count}
        if not valid:
            return None
        from sglang.multimodal_gen.runtime.distributed.parallel_state import get_sp_group

        return Shards(get_sp_group().device_group, dict.fromkeys(valid, 1), valid)

    def supports(self, branch: Branch) -> str | None:
        """Return why sglang's LTX-2 model cannot run a pass; None if it can."""
        if branch.model is not None or branch.also:
            return "it is given another model or a second condition, which sglang's LTX-2 stage does not take"
        try:
            flags_of(branch.perturbations)
        except ConfigurationError as error:
            return str(error).rstrip(".")
        return None

    def guides(self, ctx: Any, batch: Any) -> bool:
        """Whether a request is guided: not in a second stage, whose model is distilled."""
        return super().guides(ctx, batch) and ctx.stage != "stage2"

    def _run_denoising_step(self, ctx: Any, step: Any, batch: Any, server_args: Any) -> None:
        request = batch.extra.get(KEPT)
        if request is None:
            super()._run_denoising_step(ctx, step, batch, server_args)  # type: ignore[misc]
            return
        self._evaluations = _Evaluations(request, ctx, step.step_index, len(self.passes_of(ctx)))
        try:
            super()._run_denoising_step(ctx, step, batch, OneRank(server_args))  # type: ignore[misc]
        finally:
            self._evaluations = None

    def _get_ltx2_stage1_guider_params(self, batch: Any, server_args: Any, stage: str) -> Any:
        params = super()._get_ltx2_stage1_guider_params(batch, server_args, stage)  # type: ignore[misc]
        if params is None or self._evaluations is None:
            return params
        self._evaluations.positive_first = True
        return {**params, **OFF}

    def _use_cached_ltx2_prompt_kv(self, ctx: Any, step: Any, model_kwargs: Any) -> Any:
        if self._evaluations is not None:
            return model_kwargs  # they are those of both texts in one batch
        return super()._use_cached_ltx2_prompt_kv(ctx, step, model_kwargs)  # type: ignore[misc]

    def _ltx2_call_current_model(self, ctx: Any, step: Any, model_kwargs: dict[str, Any]) -> Any:
        own = super()._ltx2_call_current_model  # type: ignore[misc]
        if self._evaluations is None:
            return own(ctx, step, model_kwargs)
        return self._evaluations.answer(model_kwargs, lambda given: own(ctx, step, given))


class _Evaluations:
    """The evaluations of one step: the calls of the model are collected until both texts were asked for."""

    def __init__(self, request: Request, ctx: Any, index: int, passes: int) -> None:
        self.positive_first = False
        "Whether the stage asks for the positive text first; without a guider of its own it does so last."
        self._request = request
        self._ctx = ctx
        self._index = index
        self._passes = passes
        self._calls: list[tuple[dict[str, Any], tuple[Tensor, Tensor]]] = []
        self._made = 0

    def answer(self, given: dict[str, Any], forward: Any) -> tuple[Tensor, Tensor]:
        """Return the guided prediction for the samples of a call, which may be filled in by a later call."""
        count = self._ctx.latents.shape[0]
        streams = given["hidden_states"], given["audio_hidden_states"]
        answers = torch.full_like(streams[0], math.nan), torch.full_like(streams[1], math.nan)
        self._calls.append((given, answers))
        asked = sum(each["hidden_states"].shape[0] for each, _ in self._calls)
        if asked == self._passes * count:
            rows = [row for each, _ in self._calls for row in _rows(each)]
            guided = self._evaluated([_joined(rows[i : i + count]) for i in range(0, asked, count)], forward)
            start = 0
            for _, places in self._calls:
                taken = [number % count for number in range(start, start + places[0].shape[0])]
                for place, made in zip(places, guided, strict=True):
                    place.copy_(made[taken])
                start += len(taken)
            self._calls = []
        return answers

    def _evaluated(self, passes: list[dict[str, Any]], forward: Any) -> tuple[Tensor, Tensor]:
        names = (POSITIVE, NEGATIVE)[: self._passes]
        conditions = dict(zip(names if self.positive_first else names[::-1], passes, strict=True))
        ctx = self._ctx
        more: dict[str, Any] = {}
        sigma = float(ctx.sigmas_host[self._index])
        if self._made:  # a sampler's midpoint
            sigma = math.sqrt(sigma * float(ctx.sigmas_host[self._index + 1]))
            more["sigma"] = sigma
        if ctx.denoise_mask is not None:
            more["sigma_map"] = ctx.denoise_mask * sigma, torch.full_like(ctx.denoise_mask[:, :1], sigma)

        def denoise(branch: BoundBranch) -> tuple[Tensor, Tensor]:
            inputs = dict(branch.amend(conditions[branch.condition]))
            flags = flags_of(branch.perturbations)
            if any(flags.values()):
                inputs["perturbation_configs"] = _with(inputs, flags)
            video, audio = forward(inputs)
            return video, audio

        self._made += 1
        sample = ctx.latents, ctx.audio_latents
        video, audio = self._request.run.step(self._index, sample, denoise, **more)
        return video, audio


def flags_of(perturbations: Iterable[Perturbation]) -> dict[str, Any]:
    """Return the flags of sglang's model for a pass's perturbations, as one of its `perturbation_configs` has them.

    Raises:
        ConfigurationError: it has no flag for one of them.
    """
    skipped: dict[str, tuple[int, ...]] = dict.fromkeys(OUTPUTS, ())
    isolated = False
    for each in perturbations:
        if isinstance(each, IsolateOutputs) and each.blocks is None and each.output is None:
            isolated = True
        elif isinstance(each, SkipSelfAttention) and each.blocks is not None and (each.output or "video") in OUTPUTS:
            for output in OUTPUTS if each.output is None else (each.output,):
                skipped[output] = tuple(sorted({*skipped[output], *map(int, each.blocks)}))
        else:
            raise ConfigurationError(
                f"sglang's LTX-2 model has no flag for {each}; it can skip self-attention in blocks, given by their "
                "numbers, of video and audio, and isolate the two."
            )
    return dict(zip(FLAGS, (skipped["video"], skipped["audio"], isolated, isolated), strict=True))


def _with(inputs: Mapping[str, Any], flags: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return flags for every sample, joined to those that the stage has for it."""
    count = inputs["hidden_states"].shape[0]
    own = inputs.get("perturbation_configs") or ({},) * count
    return tuple({**flags, **{name: flags.get(name) or value for name, value in each.items()}} for each in own)


def _rows(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the arguments of a call for each of its samples."""
    count = given["hidden_states"].shape[0]
    return [{name: _row(value, number, count) for name, value in given.items()} for number in range(count)]


def _row(value: Any, number: int, count: int) -> Any:
    if isinstance(value, Tensor) and value.ndim and value.shape[0] == count:
        return value[number : number + 1]
    return value[number : number + 1] if isinstance(value, tuple) and len(value) == count else value


def _joined(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the arguments of one call for several samples."""
    if len(rows) == 1:
        return dict(rows[0])
    joined: dict[str, Any] = {}
    for name, first in rows[0].items():
        values = [row[name] for row in rows]
        if isinstance(first, Tensor) and first.ndim and first.shape[0] == 1:
            joined[name] = torch.cat(values)
        elif name == "perturbation_configs":
            joined[name] = tuple(each for value in values for each in value)
        else:
            joined[name] = first
    return joined
