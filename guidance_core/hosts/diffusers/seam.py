"""One call of a pipeline, guided: its model's calls are answered with the stack's guided prediction.

The guided prediction is handed to the pipeline in the place of both conditions. Its own formula, `u + s·(c − u)`, then
makes of it what it is, whatever `s`.
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from guidance_core.errors import ConfigurationError, DenoiserError
from guidance_core.executors.base import Executor
from guidance_core.guidance import Guidance
from guidance_core.hosts.diffusers.anatomy import unwrapped
from guidance_core.hosts.diffusers.levels import Levels, levels_of
from guidance_core.hosts.diffusers.patterns import Pattern
from guidance_core.hosts.diffusers.perturbed import perturbed
from guidance_core.hosts.diffusers.placeholder import Placeholder
from guidance_core.hosts.diffusers.shared import shared
from guidance_core.hosts.diffusers.stand_in import StandIn, context_of, retire
from guidance_core.hosts.diffusers.supported import Supported
from guidance_core.run import Run
from guidance_core.steps.bound_branch import BoundBranch

Arguments = Mapping[str, Any]
"Of a call of the model, by name."

NEGATIVE, POSITIVE = "negative", "positive"
OFF = (
    "its own guidance is off, so that the model is never asked for the negative condition. Turn it on ({how}); how far "
    "does not matter, since the stack decides."
)


class UnguidedWarning(UserWarning):
    """A stack guides no step of a call: a scale of 1, or a window that holds none of the pipeline's noise levels."""


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
        try:
            for name, (_, stand_in) in kept.items():
                self.pipe.__dict__[name] = stand_in
            yield
        finally:
            for name, (model, stand_in) in kept.items():
                retire(stand_in)
                self.pipe.__dict__[name] = model

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
        given = _by_name(model, arguments, named)
        if given.pop("return_dict", True) is not False:
            raise ConfigurationError(
                f"{self._named} calls its model in a way that is not known: it expects an object, not a tuple."
            )
        if self.pattern.is_stacked:
            return self._stacked(name, model, given)
        return self._one_of_two(name, model, given, context_of(stand_in))

    def _stacked(self, name: str, model: Any, given: Arguments) -> tuple[Any, ...]:
        if not getattr(self.pipe, "do_classifier_free_guidance", True):
            raise ConfigurationError(f"{self._named}: {self._off}")
        rows, is_listed = len(given[self.pattern.sample[0]]), self.pattern.is_listed
        if rows % 2:
            raise ConfigurationError(f"{self._named}: {self._off}")
        one, other = (_half(given, rows, first=first, listed=is_listed) for first in (True, False))
        halves = {POSITIVE: one, NEGATIVE: other} if is_listed else {NEGATIVE: one, POSITIVE: other}
        made = self._evaluated(name, model, halves, {})
        if is_listed:
            return tuple([*each, *each] for each in made)
        return tuple(torch.cat([each, each]) for each in made)

    def _one_of_two(
        self, name: str, model: Any, given: Arguments, context: tuple[str | None, Mapping[str, Any]]
    ) -> tuple[Tensor, ...]:
        if self._first is None:
            placeholder = Placeholder.pending(f"{self._named}: {self._off}")
            self._first = name, _frozen(given), placeholder  # the pipeline may change its dicts before the next call
            return (placeholder,)
        other, positive, placeholder = self._first
        if other != name or context[0] == "cond":
            raise ConfigurationError(f"{self._named}: {self._off}")
        self._first = None
        made = self._evaluated(name, model, {POSITIVE: positive, NEGATIVE: given}, context[1])
        if self.pattern.divides_by_norm:
            made = tuple(map(_without_zero_tokens, made))
        placeholder.fill(made[0])
        return made

    # An evaluation.

    def _evaluated(
        self, name: str, model: Any, conditions: Mapping[str, Arguments], facts: Mapping[str, Any]
    ) -> tuple[Tensor, ...]:
        """Return the guided prediction of each output."""
        positive = conditions[POSITIVE]
        sample = tuple(_whole(positive[each]) for each in self.pattern.sample)
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
        denoise = Forwards(model, conditions, self.pattern, facts)
        given = sample if self.pattern.outputs else sample[0]
        try:
            result: Any = run.step(step, given, denoise, model=name if len(self._models) > 1 else None, **levels)
        except BaseException as error:
            self._told = error
            raise
        self._made += 1
        made = tuple(result) if self.pattern.outputs else (result,)
        return tuple(-each for each in made) if self.pattern.is_negated else made

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
        levels = self._levels = _from(levels_of(scheduler), self._begin(scheduler))
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
            if all(len(layout.branches) == 1 and not any(layout.amended.values()) for layout in self.run.layouts):
                warnings.warn(
                    f"no step of this {self._named} call is guided: the stack runs no branch besides 'cond'.",
                    UnguidedWarning,
                    stacklevel=2,
                )
        except BaseException as error:
            self._told = error
            raise
        return self.run

    def _begin(self, scheduler: Any) -> int:
        """Return the scheduler's place of the first evaluation.

        Raises:
            ConfigurationError: the scheduler does not say, and the pipeline may begin in the middle.
        """
        begin = getattr(scheduler, "begin_index", None) or 0
        count = getattr(self.pipe, "_num_timesteps", None)
        says_so = hasattr(scheduler, "begin_index")
        if not says_so and count is not None and count < len(scheduler.timesteps):
            raise ConfigurationError(
                f"{self._named} runs {count} of the {len(scheduler.timesteps)} steps of its scheduler "
                f"{type(scheduler).__name__}, which does not say where it begins; use another scheduler."
            )
        return int(begin)


class Forwards:
    """The forward passes of one evaluation: a branch runs the model on the arguments of its condition."""

    def __init__(
        self, model: Any, conditions: Mapping[str, Arguments], pattern: Pattern, facts: Mapping[str, Any]
    ) -> None:
        self._model = model
        self.reuses_memory = bool(getattr(model, "reuses_memory", False))
        self._conditions = conditions
        self._pattern = pattern
        self._facts = facts

    def __call__(self, branch: BoundBranch) -> Any:
        """Run one branch, with a cache of its own where the model has one."""
        given = {**branch.amend(self._conditions[branch.condition])}
        has_cache = hasattr(self._model, "cache_context")
        with (
            self._model.cache_context(branch.name, **self._facts) if has_cache else contextlib.nullcontext(),
            self._perturbed(branch) as arguments,
        ):
            made = self._model(**{**given, **arguments}, return_dict=False)
        if self._pattern.is_listed:  # these pipelines combine in float32
            made = tuple(_whole(each).float() for each in made)
        if self._pattern.is_negated:
            made = tuple(-each for each in made)
        return tuple(made) if self._pattern.outputs else made[0]

    def _perturbed(self, branch: BoundBranch) -> contextlib.AbstractContextManager[Arguments]:
        if self._pattern.flags is not None:
            return contextlib.nullcontext(self._pattern.flags(branch.perturbations, self._model))
        return perturbed(self._model, branch)


def _standing_in(seam: Seam, name: str, model: Any) -> StandIn:
    def called(*arguments: Any, **named: Any) -> Any:
        return seam.answer(name, stand_in, arguments, named)

    stand_in = StandIn(model, called)
    return stand_in


def _by_name(model: Any, arguments: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by the names that the model's own `forward` gives them."""
    if not arguments:
        return dict(named)
    for each in unwrapped(model):
        signature = inspect.signature(type(each).forward)
        if all(parameter.kind is not parameter.VAR_POSITIONAL for parameter in signature.parameters.values()):
            given = dict(signature.bind(each, *arguments, **named).arguments)
            given.pop(next(iter(given)))
            return given
    raise ConfigurationError(
        f"the forward of {type(model).__name__} does not name its arguments, and it is called with some by position; "
        "give the pipeline the model that it wraps."
    )


def _half(value: Any, rows: int, *, first: bool, listed: bool = False) -> Any:
    """Return one half of everything that has as many rows as the batch, in dicts and lists too.

    With `listed` that goes for lists with as many entries.
    """
    if isinstance(value, Tensor):
        return value.chunk(2)[0 if first else 1] if value.ndim and value.shape[0] == rows else value
    if isinstance(value, Mapping):
        return {name: _half(each, rows, first=first, listed=listed) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        if listed and len(value) == rows:
            return value[: rows // 2] if first else value[rows // 2 :]
        return type(value)(_half(each, rows, first=first, listed=listed) for each in value)
    return value


def _whole(sample: Any) -> Any:
    """Return a sample as one tensor, where it is a list with an entry for each picture."""
    return torch.stack(tuple(sample)) if isinstance(sample, list | tuple) else sample


def _without_zero_tokens(prediction: Tensor) -> Tensor:
    """Return a prediction whose tokens of zeros are next to zero instead, with a norm that is not zero."""
    tiny = max(torch.finfo(prediction.dtype).tiny, 1e-18)  # its square is not zero in float32
    is_zero = (prediction == 0).all(dim=-1, keepdim=True)
    return torch.where(is_zero, tiny, prediction)


def _frozen(value: Any) -> Any:
    """Return a copy of dicts, lists and tuples, with the same tensors."""
    if type(value) is dict:
        return {name: _frozen(each) for name, each in value.items()}
    return type(value)(map(_frozen, value)) if type(value) in (list, tuple) else value


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
