"""One call of a pipeline, guided: its model's calls are answered with the stack's guided prediction.

The guided prediction is handed to the pipeline in the place of both conditions. Its own formula, `u + s·(c − u)`, then
makes of it what it is, whatever `s`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from guidance_core.errors import ConfigurationError, DenoiserError, UnguidedWarning, warn
from guidance_core.executors.base import Executor
from guidance_core.guidance import Guidance
from guidance_core.hosts.diffusers.forwards import Arguments, Forwards, StackedForwards, by_name, frozen
from guidance_core.hosts.diffusers.levels import Levels, levels_of
from guidance_core.hosts.diffusers.patterns import Pattern
from guidance_core.hosts.diffusers.placeholder import Placeholder
from guidance_core.hosts.diffusers.shared import shared
from guidance_core.hosts.diffusers.stand_in import StandIn, context_of, retire
from guidance_core.hosts.diffusers.supported import Supported
from guidance_core.hosts.diffusers.translation import Translation
from guidance_core.run import Run
from guidance_core.steps.doubtful import is_unguided, missed_windows

NEGATIVE, POSITIVE = "negative", "positive"
OFF = (
    "its own guidance is off, so that the model is never asked for the negative condition. Turn it on ({how}); how far "
    "does not matter, since the stack decides."
)


class Seam:
    """Answers the model's calls during one call of a pipeline."""

    def __init__(self, pipe: Any, guidance: Guidance, pattern: Pattern, executor: str | Executor) -> None:
        self.pipe = pipe
        self.guidance = guidance
        self.pattern = pattern
        self.executor = executor
        self.run: Run | None = None
        "The run, from the first evaluation on."
        self._levels: Levels | None = None
        self._scheduler: Any = None
        self._timesteps: Tensor | None = None
        self._made = 0
        "Evaluations made."
        self._first: tuple[str, Arguments, Placeholder] | None = None
        "The first call of two, while the second is awaited."
        self._told: BaseException | None = None
        "The error that ended the call, if every rank knows of it."
        self._models: list[Any] = []
        self._translation = Translation(pattern, None)
        self._generator: Any = None

    @contextlib.contextmanager
    def installed(self, generator: Any = None) -> Iterator[None]:
        """Have the pipeline find a stand-in in the place of each model, inside the block.

        Args:
            generator: what the pipeline draws noise from; None for torch's own generator.
        """
        self._generator = generator
        kept: dict[str, tuple[Any, StandIn]] = {}
        for name in self.pattern.models:
            model = getattr(self.pipe, name, None)
            if model is None:
                continue
            if type(model) is StandIn:
                raise ConfigurationError(
                    f"this {self._named} is in a guided call already; a call inside it, or in another thread, needs a "
                    "pipeline of its own."
                )
            kept[name] = model, _standing_in(self, name, model)
        if not kept:
            raise ConfigurationError(
                f"{self._named} has no {' or '.join(self.pattern.models)}, so there is nothing to guide."
            )
        self._models = [model for model, _ in kept.values()]
        held = self.pipe.__dict__
        replaced = {
            name: _plain_guider() for name in self.pattern.guiders if getattr(self.pipe, name, None) is not None
        }
        if hasattr(self.pipe, "prepare_latents"):
            replaced["prepare_latents"] = self._noted(self.pipe.prepare_latents)
        had = {name: held[name] for name in replaced if name in held}
        try:
            held.update(replaced)
            for name, (_, stand_in) in kept.items():
                held[name] = stand_in
            yield
        finally:
            for name, (model, stand_in) in kept.items():
                retire(stand_in)
                held[name] = model
            for name in replaced:
                del held[name]
            held.update(had)

    def _noted(self, prepare: Callable[..., Any]) -> Callable[..., Any]:
        """Return what makes a pipeline's latents, with a note of their shape."""

        @functools.wraps(prepare)
        def prepared(*arguments: Any, **named: Any) -> Any:
            made = prepare(*arguments, **named)
            latents = made[0] if isinstance(made, (tuple, list)) else made
            shape = getattr(latents, "shape", None)
            self._translation = Translation(self.pattern, shape, self._returns_variance(shape))
            return made

        return prepared

    def _returns_variance(self, latents: Sequence[int] | None) -> bool:
        """Whether the model returns a variance that the pipeline cuts off."""
        if not self.pattern.has_variance or latents is None:
            return False
        channels = getattr(self._models[0].config, "out_channels", None)
        return channels is None or channels == 2 * latents[1]

    def check_finished(self) -> None:
        """Look at a call that came to its end.

        Raises:
            DenoiserError: it did not ask for the guidance; or, on several ranks, it was interrupted.
        """
        if getattr(self.pipe, "_interrupt", False):
            if self.run is not None and self._made < self._expected:
                error = DenoiserError(f"{self._named} was interrupted after {self._made} of {self._expected} steps")
                shared = self.run.executor.report(error, self.run.identity, None)
                if shared is not error:  # others wait for this rank
                    self._told = shared
                    raise shared from error
        elif self._first is not None or self.run is None:
            raise DenoiserError(f"{self._named} ran, but {self._off}")

    def report(self, error: BaseException) -> None:
        """Tell the other ranks, who wait in their next evaluation, of an error that ended the call here.

        Raises:
            GuidanceError: what all ranks raise, where there are several.
        """
        if error is self._told:
            return
        if self.run is None:

            def fail() -> Any:
                raise error

            self.guidance.checked_executor(self.executor).begin(fail)
        elif self._levels is not None and self._made < self._expected:
            shared = self.run.executor.report(error, self.run.identity, None)
            if shared is not error:
                raise shared from error

    @property
    def _expected(self) -> int:
        """How many evaluations the pipeline will make: fewer than the scheduler has where it ends early."""
        assert self._levels is not None
        count = len(self._levels.evaluations)
        return min(count, getattr(self.pipe, "_num_timesteps", None) or count)

    @property
    def _named(self) -> str:
        return type(self.pipe).__name__

    @property
    def _off(self) -> str:
        if self._made:
            return (
                f"its own guidance was turned off after {self._made} evaluations, perhaps by a callback. To guide some "
                "of the steps only, put interval into the stack."
            )
        scales = " and ".join(f"{name}={value:g}" for name, value in self.pattern.on.items())
        negative = f", with {' or '.join(self.pattern.needs)}" if self.pattern.needs else ""
        return OFF.format(how=f"{scales}, say{negative}")

    # A call of the model.

    def answer(self, name: str, stand_in: Any, arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """Answer a call of the model `name`."""
        model = object.__getattribute__(stand_in, "_model")
        given = by_name(model, arguments, named)
        wants_object = given.pop("return_dict", True) is not False
        if self.pattern.is_stacked:
            made = self._stacked(name, model, given)
        else:
            made = self._one_of_two(name, model, given, context_of(stand_in))
        if not wants_object:
            return made
        if len(made) > 1:
            raise ConfigurationError(
                f"{self._named} calls its model in a way that is not known: it expects an object, not a tuple."
            )
        outputs: Any = importlib.import_module("diffusers.models.modeling_outputs")
        return outputs.Transformer2DModelOutput(sample=made[0])

    def _stacked(self, name: str, model: Any, given: Arguments) -> tuple[Any, ...]:
        if not getattr(self.pipe, "do_classifier_free_guidance", True):
            raise ConfigurationError(f"{self._named}: {self._off}")
        rows = len(given[self.pattern.sample[0]])
        if rows % 2:
            raise ConfigurationError(f"{self._named}: {self._off}")
        first, second = self._translation.halves(given, rows)
        positive, negative = (first, second) if self.pattern.positive_first else (second, first)
        conditions = {NEGATIVE: negative, POSITIVE: positive}
        made = self._evaluated(name, model, conditions, StackedForwards(model, conditions, self._translation, given))
        return tuple(self._translation.result(each, rows=2) for each in made)

    def _one_of_two(
        self, name: str, model: Any, given: Arguments, context: tuple[str | None, Mapping[str, Any]]
    ) -> tuple[Tensor, ...]:
        sample = given[self.pattern.sample[0]]
        if isinstance(sample, Placeholder) and sample.is_pending:  # the second call of an earlier step never came
            raise ConfigurationError(f"{self._named}: {self._off}")
        if self._first is None:
            placeholder = Placeholder.pending(f"{self._named}: {self._off}", defers=self.pattern.defers)
            self._first = name, frozen(given), placeholder  # the pipeline may change its dicts before the next call
            return (placeholder,)
        other, positive, placeholder = self._first
        if other != name or context[0] in ("cond", "pred_cond"):
            raise ConfigurationError(f"{self._named}: {self._off}")
        self._first = None
        conditions = {POSITIVE: positive, NEGATIVE: given}
        denoise = Forwards(model, conditions, self._translation, context[1])
        made = self._evaluated(name, model, conditions, denoise)
        results = tuple(self._translation.result(each) for each in made)
        placeholder.fill(results[0])
        return results

    # An evaluation.

    def _evaluated(
        self, name: str, model: Any, conditions: Mapping[str, Arguments], denoise: Forwards
    ) -> tuple[Tensor, ...]:
        """Return the guided prediction of each output."""
        positive = conditions[POSITIVE]
        sample = self._translation.sample(positive)
        run = self._started(model, sample, conditions)
        assert self._levels is not None
        if self._made >= len(self._levels.evaluations):
            raise ConfigurationError(
                f"{self._named} evaluates its model more often than its scheduler "
                f"{type(self._scheduler).__name__} has timesteps ({len(self._levels.evaluations)})."
            )
        step, sigma, alpha = self._levels.evaluations[self._made]
        is_own = self._made == 0 or self._levels.evaluations[self._made - 1][0] != step
        levels: dict[str, Any] = {} if is_own else {"sigma": sigma, "alpha": alpha}
        given = sample if self.pattern.outputs else sample[0]
        try:
            result: Any = run.step(step, given, denoise, model=name if len(self._models) > 1 else None, **levels)
        except BaseException as error:
            self._told = error
            raise
        self._made += 1
        return tuple(result) if self.pattern.outputs else (result,)

    def _started(self, model: Any, sample: Sequence[Tensor], conditions: Mapping[str, Arguments]) -> Run:
        """Return the run, which begins with the first evaluation."""
        scheduler = self.pipe.scheduler
        if self.run is not None:
            if scheduler is not self._scheduler or scheduler.timesteps is not self._timesteps:
                raise ConfigurationError(
                    f"the scheduler of {self._named} was changed in the middle of its call; change it between calls."
                )
            return self.run
        self._scheduler, self._timesteps = scheduler, scheduler.timesteps
        levels = self._levels = self._from_begin(
            (self.pattern.levels or levels_of)(scheduler), conditions[POSITIVE].get("timestep")
        )
        try:
            self.run = self.guidance.start(
                conditions={POSITIVE: {}, NEGATIVE: {}},
                sigmas=levels.sigmas,
                alphas=levels.alphas,
                prediction_type=levels.prediction_type,
                outputs=self.pattern.outputs or None,
                executor=self.executor,
                supports=Supported(self._named, self._models, self.pattern),
                given=lambda: shared(self.pipe, self._models, sample[0].device, conditions, self._generator),
            )
            windows = (missed_windows(plugin, {None: levels.sigmas}) for plugin in self.guidance.plugins)
            if is_unguided(self.run.layouts) and not any(windows):  # of windows, the start has warned
                why = (
                    "each method is off, as cfg is at scale=1, or only corrects others, as rescale does"
                    if self.guidance.plugins
                    else "the stack is empty"
                )
                warn(f"no step of this {self._named} call is guided: {why}.", UnguidedWarning)
        except BaseException as error:
            self._told = error
            raise
        return self.run

    def _from_begin(self, levels: Levels, timestep: Any) -> Levels:
        """Return the levels from the first evaluation on, where a pipeline leaves out the first steps.

        Args:
            levels: of all of the scheduler's steps.
            timestep: which the pipeline gives to its model in the first evaluation, if it does.

        Raises:
            ConfigurationError: where the pipeline begins cannot be told, or is in the middle of a step.
        """
        scheduler = self._scheduler
        if hasattr(scheduler, "begin_index"):
            return _from(levels, int(scheduler.begin_index or 0))
        every = scheduler.timesteps
        count = getattr(self.pipe, "_num_timesteps", None) or len(every)
        if count >= len(every):
            return levels
        first = float(timestep.flatten()[0]) if isinstance(timestep, Tensor) and timestep.numel() else None
        places = [place for place, each in enumerate(every.tolist()) if each == first]
        evaluates_once = len(levels.evaluations) == len(levels.sigmas) - 1
        if places == [0] or (len(places) == 1 and evaluates_once):
            return _from(levels, places[0])
        raise ConfigurationError(
            f"{self._named} runs {count} of the {len(every)} steps of its scheduler {type(scheduler).__name__}, which "
            "does not say where it begins; use another scheduler."
        )


def _standing_in(seam: Seam, name: str, model: Any) -> StandIn:
    def called(*arguments: Any, **named: Any) -> Any:
        return seam.answer(name, stand_in, arguments, named)

    stand_in = StandIn(model, called)
    return stand_in


def _plain_guider() -> Any:
    """Return a guider of diffusers that asks for both conditions at every step, whose formula keeps what is guided."""
    guiders: Any = importlib.import_module("diffusers.guiders")
    return guiders.ClassifierFreeGuidance(guidance_scale=2.0)


def _from(levels: Levels, begin: int) -> Levels:
    """Return the levels from an evaluation on, for a pipeline that leaves out the first."""
    if begin == 0:
        return levels
    evaluations = levels.evaluations[begin:]
    step = evaluations[0][0]
    return Levels(
        levels.prediction_type,
        levels.sigmas[step:],
        None if levels.alphas is None else levels.alphas[step:],
        tuple((number - step, sigma, alpha) for number, sigma, alpha in evaluations),
    )
