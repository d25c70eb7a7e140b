"""ltx-pipelines' pipelines guided by a stack: their stages are substituted, as ltx-pipelines does to record them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guidance_core.errors import ConfigurationError
from guidance_core.executors import Executor
from guidance_core.guidance import Guidance
from guidance_core.hosts.engine import NEGATIVE, POSITIVE
from guidance_core.hosts.ltx.denoiser import StackDenoiser
from guidance_core.hosts.ltx.own import stack_of

Stack = str | Guidance | Sequence[Any]
STAGES = ("DiffusionStage", "RecordingDiffusionStage", "GuidedStage")
OWN = {"GuidedDenoiser": "guider", "FactoryGuidedDenoiser": "guider_factory"}
"ltx-pipelines' denoisers with guidance, and what they call the guider of a modality."


class GuidedStage:
    """A `DiffusionStage` that replaces guided denoisers with a stack of methods.

        pipeline.stage_1 = GuidedStage(pipeline.stage_1, "ltx2:preset=2.3,skip_step=1")

    Other denoisers, such as those without guidance (a distilled model, a second stage), stay as they are.
    """

    def __init__(self, stage: Any, stack: Stack | None = None, *, executor: str | Executor = "serial") -> None:
        """Substitute a stage.

        Args:
            stage: ltx-pipelines' `DiffusionStage`.
            stack: a spec, a `Guidance` or a list of plugins; None for the guidance of its own parameters.
            executor: what runs the branches, as for `guidance.start`.
        """
        self._stage = stage
        self._stack = Guidance.from_spec(stack) if isinstance(stack, str) else stack
        self._executor = executor

    def __call__(self, denoiser: Any, sigmas: Any, *given: Any, **named: Any) -> Any:
        """Run the stage, which returns the states of video and audio."""
        return self._stage(self._guided(denoiser, sigmas), sigmas, *given, **named)

    def _guided(self, denoiser: Any, sigmas: Any) -> Any:
        kind = next((OWN[each.__name__] for each in type(denoiser).__mro__ if each.__name__ in OWN), None)
        if kind is None:
            return denoiser
        video, audio = (getattr(denoiser, f"{output}_{kind}") for output in ("video", "audio"))
        if kind == "guider_factory":
            audio = audio or video
        stack = self._stack
        if stack is None:
            if getattr(denoiser, "force_uncond_pass", False):
                raise ConfigurationError(
                    "force_uncond_pass is not taken over; give a stack with a method that runs the negative text, such "
                    "as cfg with a scale other than 1."
                )
            stack = stack_of(video, audio, sigmas.tolist())
        negative = tuple(getattr(guider, "negative_context", None) for guider in (video, audio))
        texts = {POSITIVE: (denoiser.v_context, denoiser.a_context), NEGATIVE: negative}
        return StackDenoiser(stack, texts, executor=self._executor)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the stage; what makes a changed stage makes a guided one."""
        if name == "_stage":
            raise AttributeError(name)  # it is being copied
        found = getattr(self._stage, name)
        if not name.startswith("with_"):
            return found

        def changed(*given: Any, **named: Any) -> GuidedStage:
            return GuidedStage(found(*given, **named), self._stack, executor=self._executor)

        return changed


def guide(pipeline: Any, stack: Stack | None = None, *, executor: str | Executor = "serial") -> Any:
    """Guide the stages of a pipeline with a stack of methods, and return the pipeline.

        guide(pipeline, "ltx2:preset=2.3,skip_step=1")

    Args:
        pipeline: a pipeline of ltx-pipelines, such as `TI2VidTwoStagesPipeline`.
        stack: a spec, a `Guidance` or a list of plugins; None for the guidance of its own parameters.
        executor: what runs the branches, as for `guidance.start`.

    Raises:
        ConfigurationError: the pipeline has no stage, as before ltx-pipelines 1.1, or the stack cannot be used.
    """
    stages = {
        name: value
        for name, value in vars(pipeline).items()
        if any(each.__name__ in STAGES for each in type(value).__mro__)
    }
    if not stages:
        raise ConfigurationError(
            f"{type(pipeline).__name__} holds no DiffusionStage, so it cannot be guided as it is; give a StackDenoiser "
            "to the sampler of a loop of your own."
        )
    for name, stage in stages.items():
        own = stage._stage if isinstance(stage, GuidedStage) else stage
        setattr(pipeline, name, GuidedStage(own, stack, executor=executor))
    return pipeline
