"""ltx-pipelines' `Denoiser`, which runs a stack of methods instead of a guider for each modality."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from guidance_core.errors import ConfigurationError, brief
from guidance_core.executors import Executor
from guidance_core.guidance import Guidance
from guidance_core.hosts.engine import NEGATIVE, POSITIVE
from guidance_core.hosts.ltx.passes import OUTPUTS, Perturbed, Supported, block_count, texts_of
from guidance_core.hosts.versions import tell_untested_host
from guidance_core.methods.perturbations import IsolateOutputs, SkipSelfAttention
from guidance_core.methods.requests import BASE, Branch
from guidance_core.run import Run
from guidance_core.steps.bound_branch import BoundBranch

Stack = str | Guidance | Sequence[Any]
Texts = tuple[Tensor | None, Tensor | None]
"The text of the video and that of the audio, as the prompt encoder returns them: `[B, S, D]` each."


class StackDenoiser:
    """A `Denoiser` of ltx-pipelines: give it to a stage or to a sampler instead of its `GuidedDenoiser`.

        denoiser = StackDenoiser("ltx2:preset=2.3", {"positive": (v_context, a_context), "negative": (v_neg, a_neg)})
        video, audio = stage(denoiser=denoiser, sigmas=sigmas, ...)

    Predictions are x0, with those of the outputs `video` and `audio` that the stage denoises. Each schedule that it is
    called with begins a new run, and so does each return to an earlier step.
    """

    def __init__(
        self,
        stack: Stack,
        conditions: Mapping[str, Texts],
        *,
        executor: str | Executor = "serial",
        seeds: int | Sequence[int] | None = None,
    ) -> None:
        """Describe the guidance of one generation.

        Args:
            stack: a spec, a `Guidance`, or a list of plugins.
            conditions: texts by condition, `positive` at least. A modality without a text in another condition keeps
                its positive one there, as in ltx-pipelines.
            executor: what runs the branches, as for `guidance.start`.
            seeds: for methods that draw noise, as for `guidance.start`.

        Raises:
            ConfigurationError: the stack or a condition cannot be used.
        """
        if isinstance(stack, str):
            self.guidance = Guidance.from_spec(stack)
        else:
            self.guidance = stack if isinstance(stack, Guidance) else Guidance(stack)
        self.conditions = _conditions(conditions)
        self._executor = executor
        self._seeds = seeds
        self._generation: _Generation | None = None

    @property
    def run(self) -> Run | None:
        """The run of the generation; None before its first step."""
        return None if self._generation is None else self._generation.run

    def __call__(
        self, transformer: Any, video_state: Any, audio_state: Any, sigmas: Tensor, step_index: int
    ) -> tuple[Any, Any]:
        """Return the guided x0 of one evaluation, with the predictions it was made of.

        Args:
            transformer: ltx-core's `X0Model`, or what wraps it.
            video_state: the `LatentState` of the video; None if there is none.
            audio_state: that of the audio.
            sigmas: the sampler's schedule; a single noise level is another evaluation of the last step.
            step_index: which of them.

        Raises:
            GuidanceError: whatever `guidance.start` and `run.step` raise.
        """
        from ltx_pipelines.utils.types import DenoisedLatentResult

        guided, parts = self._evaluated(transformer, video_state, audio_state, sigmas, step_index)
        video, audio = (
            DenoisedLatentResult.result_or_none(
                guided.get(output), **{name: prediction.get(output) for name, prediction in parts.items()}
            )
            for output in OUTPUTS
        )
        return video, audio

    def with_transformer(self, transformer: Any) -> Callable[..., tuple[Tensor | None, Tensor | None]]:
        """Return the `DenoisingFunc` for samplers of ltx-pipelines 1.0: a function that returns two tensors."""

        def denoise(
            video_state: Any, audio_state: Any, sigmas: Tensor, step_index: int
        ) -> tuple[Tensor | None, Tensor | None]:
            guided, _ = self._evaluated(transformer, video_state, audio_state, sigmas, step_index)
            return guided.get("video"), guided.get("audio")

        return denoise

    def _evaluated(
        self, transformer: Any, video_state: Any, audio_state: Any, sigmas: Tensor, step_index: int
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        given = dict(zip(OUTPUTS, (video_state, audio_state), strict=True))
        states = {output: state for output, state in given.items() if state is not None}
        current = self._generation
        if current is None or current.ended(sigmas, step_index):
            if sigmas.numel() < 2:
                raise ConfigurationError(
                    "the first evaluation of a generation needs the sampler's schedule, a noise level for each step "
                    f"and the final one; got {sigmas.numel()} of them."
                )
            current = self._generation = self._started(transformer, states, sigmas)
        return current.evaluated(transformer, states, sigmas, step_index)

    def _started(self, transformer: Any, states: Mapping[str, Any], sigmas: Tensor) -> _Generation:
        tell_untested_host("ltx-pipelines")
        if not states:
            raise ConfigurationError("at least one of video_state and audio_state must be given; both are None.")
        for output in states:
            if self.conditions[POSITIVE][f"{output}_context"] is None:
                raise ConfigurationError(
                    f"the {output} is denoised, but the condition 'positive' has no text for it; give "
                    f"{{'positive': (video, audio)}} with both."
                )
        levels = sigmas.tolist()
        outputs = tuple(states)
        run = self.guidance.start(
            conditions=self.conditions,
            sigmas=levels,
            alphas=[max(0.0, 1.0 - level) for level in levels],
            prediction_type="x0",
            outputs=outputs,
            executor=self._executor,
            seeds=self._seeds,
            supports=Supported(outputs, block_count(transformer)),
            given=lambda: {output: _beside(state) for output, state in states.items()},
        )
        masked = any(bool((state.denoise_mask != 1).any()) for state in states.values())
        return _Generation(run, sigmas, levels, masked, Perturbed(transformer))


@attrs.define(eq=False)
class _Generation:
    """A generation under way."""

    run: Run
    sigmas: Tensor
    "The sampler's schedule, which it hands over with every step."
    levels: list[float]
    masked: bool
    "Whether tokens have noise levels of their own."
    perturbed: Perturbed
    index: int = 0
    "The step made last."

    def ended(self, sigmas: Tensor, step_index: int) -> bool:
        """Whether an evaluation belongs to another generation: it has another schedule, or an earlier step."""
        if sigmas.numel() == 1:
            return False
        is_same = sigmas is self.sigmas or sigmas.tolist() == self.levels
        return not is_same or step_index < self.index

    def evaluated(
        self, transformer: Any, states: Mapping[str, Any], sigmas: Tensor, step_index: int
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the guided x0 by output, and single predictions by the names that ltx-pipelines gives them."""
        if set(states) != set(self.run.settings.outputs or ()):
            raise ConfigurationError(
                f"this generation began with {' and '.join(self.run.settings.outputs or ())}; its step {self.index} "
                f"has {' and '.join(states) or 'neither'}."
            )
        sigma = sigmas[step_index]
        levels: dict[str, Any] = {}
        if sigmas.numel() == 1:  # a midpoint: the sampler says its noise level alone
            levels["sigma"] = float(sigma)
        else:
            self.index = step_index
        if self.masked:
            levels["sigma_map"] = {output: state.denoise_mask * sigma for output, state in states.items()}
        passes = _Passes(transformer, states, sigma, self.perturbed)
        sample = {output: state.latent for output, state in states.items()}
        guided = self.run.step(self.index, sample, passes, **levels)
        made = self.run.last
        predictions = {} if made is None else made.predictions
        branches = self.run.layouts[self.index].branches
        parts = {name: branch for name, test in _PARTS.items() if (branch := _first(branches, test))}
        return guided, {name: predictions[branch] for name, branch in parts.items() if branch in predictions}


_PARTS: dict[str, Callable[[Branch], bool]] = {
    "cond": lambda branch: branch.name == BASE,
    "uncond": lambda branch: branch.condition == NEGATIVE and not branch.perturbations,
    "ptb": lambda branch: _has(branch, SkipSelfAttention),
    "mod": lambda branch: _has(branch, IsolateOutputs),
}
"ltx-pipelines' names for the passes of a step."


def _has(branch: Branch, kind: type) -> bool:
    return bool(branch.perturbations) and all(isinstance(each, kind) for each in branch.perturbations)


def _first(branches: Sequence[Branch], test: Callable[[Branch], bool]) -> str | None:
    return next((branch.name for branch in branches if test(branch)), None)


@attrs.frozen(eq=False)
class _Passes:
    """The forward passes of one evaluation."""

    transformer: Any
    states: Mapping[str, Any]
    sigma: Tensor
    perturbed: Perturbed

    @property
    def reuses_memory(self) -> bool:
        return bool(getattr(self.transformer, "reuses_memory", False))

    def __call__(self, branch: BoundBranch) -> dict[str, Tensor]:
        return self.batch([branch])[0]

    def batch(self, branches: Sequence[BoundBranch]) -> list[dict[str, Tensor]]:
        """Run several branches in one call of the transformer."""
        texts = [texts_of(branch) for branch in branches]
        given = {
            output: _joined(
                [self._modality(state, of[output], output not in branches[0].held) for of in texts], len(branches)
            )
            for output, state in self.states.items()
        }
        like = next(iter(self.states.values())).latent
        perturbations = self.perturbed.config([branch.perturbations for branch in branches], like)
        made = self.transformer(video=given.get("video"), audio=given.get("audio"), perturbations=perturbations)
        by_output = dict(zip(OUTPUTS, made, strict=True))
        parts = {output: by_output[output].chunk(len(branches)) for output in self.states}
        return [{output: parts[output][number] for output in parts} for number in range(len(branches))]

    def _modality(self, state: Any, text: Tensor | None, enabled: bool) -> Any:
        from ltx_pipelines.utils import helpers, types

        is_newer = hasattr(types, "DenoisedLatentResult")
        sigma = self.sigma.expand(state.latent.shape[0]) if is_newer else self.sigma
        return helpers.modality_from_latent_state(state, text, sigma, enabled=enabled)


def _joined(modalities: Sequence[Any], count: int) -> Any:
    """Return one `Modality` for several passes, one after another along the batch."""
    first = modalities[0]
    if count == 1:
        return first
    rows = first.latent.shape[0]
    joined = {}
    for field in dataclasses.fields(first):
        values = [getattr(each, field.name) for each in modalities]
        if isinstance(values[0], Tensor):
            joined[field.name] = torch.cat([each if each.ndim else each.expand(rows) for each in values])
    return dataclasses.replace(first, **joined)


def _conditions(given: Any) -> dict[str, dict[str, Tensor | None]]:
    """Return the model inputs by condition; what has no text in a condition keeps its positive one."""
    if not isinstance(given, Mapping) or POSITIVE not in given:
        raise ConfigurationError(
            "conditions map names to the texts of video and audio, {'positive': (v_context, a_context), ...}, with "
            f"'positive' at least; got {brief(list(given) if isinstance(given, Mapping) else given)}."
        )
    made: dict[str, dict[str, Tensor | None]] = {}
    for name, texts in given.items():
        if not isinstance(texts, tuple | list) or len(texts) != 2:
            raise ConfigurationError(
                f"condition {name!r} is a pair, the text of the video and that of the audio; got {brief(texts)}."
            )
        for text in texts:
            if text is not None and not isinstance(text, Tensor):
                raise ConfigurationError(f"condition {name!r}: a text is a tensor or None; got {brief(text)}.")
        if name != POSITIVE and all(text is None for text in texts):
            continue  # a stack that needs it is refused when the run starts
        made[name] = dict(zip((f"{output}_context" for output in OUTPUTS), texts, strict=True))
    for inputs in made.values():
        for key, text in inputs.items():
            inputs[key] = made[POSITIVE][key] if text is None else text
    return made


def _beside(state: Any) -> dict[str, Tensor]:
    """Return what a state holds beside its latent, to be compared between ranks."""
    names = ("denoise_mask", "positions", "clean_latent", "attention_mask", "keyframes_mask")
    found = {name: getattr(state, name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None}
