"""A guider for diffusers' Modular pipelines that runs a stack of methods.

    from guidance_core.hosts.diffusers.modular import StackGuidance

    guider = StackGuidance("apg:scale=6").follow(pipe.scheduler)
    pipe.update_components(guider=guider)

It is the only module of the library that imports diffusers when it is imported.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from torch import Tensor

from guidance_core.errors import ConfigurationError, DenoiserError
from guidance_core.executors.base import Executor
from guidance_core.guidance import Guidance
from guidance_core.hosts.diffusers.levels import Levels, levels_of
from guidance_core.hosts.diffusers.perturbed import perturbed
from guidance_core.hosts.diffusers.versions import warn_of_version
from guidance_core.run import Run
from guidance_core.steps.bound_branch import BoundBranch
from guidance_core.steps.plan import Plan

_guiders: Any = importlib.import_module("diffusers.guiders.guider_utils")
_register: Any = importlib.import_module("diffusers.configuration_utils").register_to_config
_BlockState: Any = importlib.import_module("diffusers.modular_pipelines.modular_pipeline").BlockState

CONDITIONS = {"positive": 0, "negative": 1}
"The place of each condition in the pairs that a pipeline hands to its guider."
SAMPLES = ("scaled_latents", "latents")
"Where a block keeps what its model sees, the first that is there."


class StackGuidance(_guiders.BaseGuidance):  # type: ignore[misc]
    """Guides a Modular pipeline by a stack of methods, on one rank or on several.

    Its configuration is the spec, which `save_pretrained` keeps in `guider_config.json`.
    """

    _input_predictions = ["cond", "uncond"]  # noqa: RUF012

    @_register  # type: ignore[untyped-decorator]
    def __init__(
        self,
        spec: str = "cfg:scale=5",
        prediction_type: str | None = None,
        executor: str = "serial",
        enabled: bool = True,
    ) -> None:
        """Make a guider.

        Args:
            spec: the stack, such as `cfg:scale=5,rescale:phi=0.7`.
            prediction_type: `flow` for models of flow matching, whose noise levels are then taken from the timesteps;
                not needed with `follow`.
            executor: name of what runs the branches; `all_gather` and `all_reduce` spread them over the ranks.
            enabled: False for the positive condition alone.

        Raises:
            ConfigurationError: the spec, the prediction type or the executor cannot be used.
        """
        super().__init__(enabled=enabled)
        warn_of_version()
        if prediction_type not in (None, "flow"):
            raise ConfigurationError(
                f"prediction_type of StackGuidance is 'flow' or None; got {prediction_type!r}. For another kind of "
                "model, use follow(scheduler)."
            )
        self.guidance = Guidance.from_spec(spec)
        self._executor: str | Executor = executor
        self._scheduler: Any = None
        self._run: Run | None = None
        self._last = -1
        "The last step of the run."
        self._plan: Plan | None = None
        self._waiting: list[BoundBranch] = []
        "Branches of this rank whose forward did not begin."
        self._current: BoundBranch | None = None
        self._perturbing = contextlib.ExitStack()

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Return a guider with a configuration, as `from_pretrained` does.

        Raises:
            ConfigurationError: it has fields that are not known, or belongs to another class.
        """
        given = {**(config or {}), **kwargs}
        known = ("spec", "prediction_type", "executor", "enabled")
        unknown = [name for name in given if name not in known and not name.startswith("_")]
        if unknown or given.get("_class_name", cls.__name__) != cls.__name__:
            what = f"has {unknown[0]!r}" if unknown else f"is one of {given['_class_name']}"
            raise ConfigurationError(f"this configuration {what}; one of {cls.__name__} has {', '.join(known)}.")
        # diffusers takes arguments given by position for defaults, and would leave them out
        kept = {name: value for name, value in (config or {}).items() if name != "_use_default_values"}
        return super().from_config(kept, return_unused_kwargs, **kwargs)

    def follow(self, scheduler: Any, *, executor: Executor | None = None) -> StackGuidance:
        """Take noise levels and prediction type from a scheduler; return the guider.

        Args:
            scheduler: the pipeline's scheduler, in whatever state; it is read when a call begins.
            executor: what runs the branches, where a name is not enough (a group, a mesh).
        """
        self._scheduler = scheduler
        self._executor = executor or self._executor
        return self

    def __enter__(self) -> StackGuidance:
        """Have other ranks told of an error in the block, between the passes of a step."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        plan, self._plan = self._plan, None
        self._perturbing.close()
        if error is not None and plan is not None:
            plan.__exit__(kind, error, trace)

    # What a pipeline asks.

    @property
    def num_conditions(self) -> int:
        """How many conditions the pipeline has to encode."""
        return 2 if self._enabled else 1

    @property
    def is_conditional(self) -> bool:
        """Whether the pass that runs is one of the positive condition."""
        return self._current is None or self._current.condition == "positive"

    def get_state(self) -> dict[str, Any]:
        """Return what `repr` shows besides the configuration."""
        shown = {"branches": [] if self._plan is None else [branch.name for branch in self._plan.own_branches]}
        return {**super().get_state(), **shown}

    def prepare_inputs(self, data: Mapping[str, Any]) -> list[Any]:
        """Refuse a pipeline that does not show its guider the latents."""
        raise ConfigurationError(
            "this pipeline does not show its latents to its guider, so that StackGuidance cannot run in it; use "
            "guidance_core.hosts.diffusers.guide(pipe, spec) instead."
        )

    def prepare_inputs_from_block_state(self, data: Any, input_fields: Mapping[str, Any]) -> list[Any]:
        """Return the inputs of each pass that this rank runs."""
        if not self._enabled:
            return [self._prepare_batch_from_block_state(dict(input_fields), data, 0, "cond")]
        sample = next((value for name in SAMPLES if (value := getattr(data, name, None)) is not None), None)
        if not isinstance(sample, Tensor):
            raise ConfigurationError(f"this pipeline has no {' or '.join(SAMPLES)}, so StackGuidance cannot run in it.")
        if self._run is None or self._step <= self._last:
            self._run = self._started(getattr(data, "timesteps", None))
        self._last = self._step
        self._plan = self._run.plan(self._step, sample)
        self._waiting = list(self._plan.own_branches)
        return [self._batch(branch, data, input_fields) for branch in self._plan.own_branches]

    def prepare_models(self, denoiser: Any) -> None:
        """Make the model ready for the next pass."""
        super().prepare_models(denoiser)
        if not self._waiting:
            return
        self._current = self._waiting.pop(0)
        arguments = self._perturbing.enter_context(perturbed(denoiser, self._current))
        if arguments:
            raise ConfigurationError(
                f"branch {self._current.name!r} needs the arguments {', '.join(arguments)} of {type(denoiser).__name__}"
                ", which a guider cannot give it; use guidance_core.hosts.diffusers.guide with a classic pipeline."
            )

    def cleanup_models(self, denoiser: Any) -> None:
        """Leave the model as it was."""
        self._perturbing.close()
        self._current = None

    def __call__(self, data: list[Any]) -> Any:
        """Return the guided prediction of the passes that this rank ran."""
        made = {getattr(each, self._identifier_key): each.noise_pred for each in data}
        if not self._enabled:
            return _guiders.GuiderOutput(pred=made["cond"], pred_cond=made["cond"], pred_uncond=None)
        plan = self._plan
        if plan is None or plan.is_finished:
            raise DenoiserError("StackGuidance was called without prepare_inputs_from_block_state before.")
        return _guiders.GuiderOutput(pred=plan.finish(made), pred_cond=made.get("cond"), pred_uncond=made.get("uncond"))

    # A call of the pipeline.

    def _batch(self, branch: BoundBranch, data: Any, fields: Mapping[str, Any]) -> Any:
        if branch.also or branch.model is not None:
            raise ConfigurationError(
                f"branch {branch.name!r} needs a model or a condition that a guider does not have."
            )
        place = CONDITIONS[branch.condition]
        batch = self._prepare_batch_from_block_state(dict(fields), data, place, branch.name).as_dict()
        given = {name: batch[name] for name in fields if name in batch}
        return _BlockState(**{**batch, **branch.amend(given)})

    def _started(self, timesteps: Any) -> Run:
        """Return the run of a call, which begins with its first step."""
        levels = self._levels(timesteps)
        return self.guidance.start(
            conditions={"positive": {}, "negative": {}},
            sigmas=levels.sigmas,
            alphas=levels.alphas,
            prediction_type=levels.prediction_type,
            executor=self._executor,
        )

    def _levels(self, timesteps: Any) -> Levels:
        if self._scheduler is not None:
            levels = levels_of(self._scheduler)
            if len(levels.evaluations) != self._num_inference_steps:
                raise ConfigurationError(
                    f"the pipeline makes {self._num_inference_steps} evaluations, and the scheduler that StackGuidance "
                    f"follows has {len(levels.evaluations)}; follow the pipeline's own, with one evaluation a step."
                )
            return levels
        if self.config.prediction_type != "flow" or timesteps is None:
            raise ConfigurationError(
                "StackGuidance does not know the noise levels. Call follow(pipe.scheduler) on it; or, for a model of "
                "flow matching whose timesteps run from 1000 to 0, give it prediction_type='flow'."
            )
        sigmas = [float(each) / 1000 for each in timesteps.tolist()]
        return Levels("flow", (*sigmas, 0.0), None, ())
