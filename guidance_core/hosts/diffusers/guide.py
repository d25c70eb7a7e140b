"""Guiding a pipeline: `guide(pipe, spec)(...)` for one call, `with guided(pipe, spec):` for calls made elsewhere."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from guidance_core.discovery import executor_class
from guidance_core.errors import ConfigurationError, UnknownNameError, warn
from guidance_core.executors.base import Executor
from guidance_core.executors.batched import BatchedExecutor
from guidance_core.executors.serial import SerialExecutor
from guidance_core.guidance import Guidance
from guidance_core.hosts.diffusers.patterns import Pattern
from guidance_core.hosts.diffusers.pipelines import pattern_named, pattern_of
from guidance_core.hosts.diffusers.seam import Seam
from guidance_core.hosts.diffusers.versions import warn_of_version
from guidance_core.recipes import Recipe, recipe_of


class GuidanceRecipeWarning(UserWarning):
    """The stack is made from the recipe of a model other than the pipeline's."""


class GuidanceArgumentWarning(UserWarning):
    """An argument of the pipeline's own guidance was given. It has no effect, because the stack decides."""


def guide(
    pipe: Any,
    guidance: str | Guidance | Sequence[Any] | None = None,
    *,
    executor: str | Executor | None = None,
    pattern: Pattern | str | None = None,
) -> Callable[..., Any]:
    """Return a function with the pipeline's signature that runs the pipeline with a stack of methods.

        image = guide(pipe, "cfg:scale=5,rescale:phi=0.7")(prompt="a lake", num_inference_steps=28).images[0]

    Args:
        pipe: a pipeline of diffusers; it is not changed.
        guidance: a spec, a `Guidance`, or a list of plugins. By default, it is the recipe of the pipeline's model; the
            call accepts the recipe's parameters under their own names.
        executor: what runs the branches; `all_gather` and `all_reduce` spread them over the ranks of torchrun. By
            default, they run in this process like the pipeline's own passes: `batched` if the pipeline passes both
            conditions to its model in one call, with as many rows, and `serial` if it makes two calls.
        pattern: how the pipeline calls its model, if the library does not know the pipeline; or the name of a pipeline
            that calls its model in the same way.

    Raises:
        ConfigurationError: the pipeline is already guided, the library does not know how it calls its model, or the
            guidance cannot be used. A call of the result raises it if the pipeline's own guidance is off, if its
            scheduler is not known, or if its model cannot make a perturbation that a method asks for.
    """
    stack, pattern, executor = _checked(pipe, guidance, executor, pattern)
    if guidance is not None:
        _warn_of_other_model(pipe, stack)

    @functools.wraps(type(pipe).__call__)
    def call(*arguments: Any, **named: Any) -> Any:
        with _guided_by(pipe, *_checked(pipe, stack, executor, pattern)):
            return pipe(*arguments, **named)

    call.__signature__ = inspect.signature(pipe.__call__)  # type: ignore[attr-defined]
    return call


@contextlib.contextmanager
def guided(
    pipe: Any,
    guidance: str | Guidance | Sequence[Any] | None = None,
    *,
    executor: str | Executor | None = None,
    pattern: Pattern | str | None = None,
) -> Iterator[Any]:
    """Guide every call of a pipeline inside the block with a stack of methods.

        with guided(pipe, "apg:scale=6"):
            code_that_calls_the_pipeline(pipe)

    Each call is a run of its own. Arguments and errors are those of `guide`.
    """
    stack, pattern, executor = _checked(pipe, guidance, executor, pattern)
    if guidance is not None:
        _warn_of_other_model(pipe, stack)
    with _guided_by(pipe, stack, pattern, executor):
        yield pipe


@contextlib.contextmanager
def _guided_by(pipe: Any, stack: Guidance, pattern: Pattern, executor: str | Executor) -> Iterator[None]:
    """Have every call inside the block guided by what is checked."""
    own = type(pipe)

    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        seam = Seam(self, stack, pattern, executor)
        try:
            seam.guidance, given = _of_call(stack, _given(own, self, arguments, named), pattern)
            if seam.guidance.recipe is not None and not seam.guidance.plugins:  # off, or a distilled model
                return own.__call__(self, **_turned_off(own, pattern, given))
            _check_arguments(own.__name__, pattern, given)
            with seam.installed(given.get("generator")):
                made = own.__call__(self, **_turned_on(own, pattern, given))
                seam.check_finished()
        except BaseException as error:
            seam.report(error)
            raise
        return made

    call = functools.wraps(own.__call__)(call)
    pipe.__class__ = type(own.__name__, (_Guided, own), {"__call__": call, "__module__": own.__module__})
    try:
        yield
    finally:
        pipe.__class__ = own


class _Guided:
    """Marks the class that a pipeline has while it is guided."""


def _checked(
    pipe: Any,
    guidance: str | Guidance | Sequence[Any] | None,
    executor: str | Executor | None,
    pattern: Pattern | str | None,
) -> tuple[Guidance, Pattern, str | Executor]:
    """Return the stack, how the pipeline calls its model and the executor; find every mistake that needs no call."""
    if isinstance(pipe, type) or inspect.isroutine(pipe) or isinstance(pipe, (str, Guidance)):
        is_guided = getattr(pipe, "__wrapped__", None) is not None
        got = pipe.__name__ if isinstance(pipe, type) else type(pipe).__name__
        raise ConfigurationError(
            "this is the result of guide(), which is guided already; give guide() the pipeline itself."
            if is_guided
            else f"the first argument of guide() is a pipeline, as from_pretrained() returns it; got {got}."
        )
    if guidance is None:
        recipe = _recipe_of(pipe)
        stack = Guidance.recipe(recipe.name, **_settings_of(pipe, recipe))
    elif isinstance(guidance, str):
        stack = Guidance.from_spec(guidance)
    else:
        is_one = hasattr(guidance, "__attrs_attrs__")
        stack = guidance if isinstance(guidance, Guidance) else Guidance([guidance] if is_one else guidance)
    if isinstance(pattern, str):
        pattern = pattern_named(pattern)
    if pattern is not None and not isinstance(pattern, Pattern):
        raise ConfigurationError(
            f"pattern is a Pattern, the name of a pipeline, or None; got {type(pattern).__name__}."
        )
    pattern = pattern or pattern_of(pipe)
    warn_of_version()
    if isinstance(pipe, _Guided):
        raise ConfigurationError(f"this {type(pipe).__name__} is guided already; end the block that guides it first.")
    if executor is None:
        executor = BatchedExecutor.name if pattern.is_stacked else SerialExecutor.name
    found = executor_class(executor) if isinstance(executor, str) else type(executor)
    if not issubclass(found, Executor):
        raise ConfigurationError(f"executor is a name, such as 'all_gather', or an executor; got {executor!r}.")
    if issubclass(found, BatchedExecutor) and not pattern.is_stacked:
        raise ConfigurationError(
            f"{type(pipe).__name__} calls its model for one condition after the other, which the executor 'batched' "
            "cannot put together; use 'serial', 'all_gather' or 'all_reduce'."
        )
    return stack, pattern, executor


def _recipe_of(pipe: Any) -> Recipe:
    """Return the recipe of a pipeline's model."""
    parts = {name for name, part in getattr(pipe, "components", {}).items() if part is not None}
    parts |= {name for name, value in dict(getattr(pipe, "config", {})).items() if value is True}
    names = {str(name) for name in (getattr(pipe, "name_or_path", None),) if name}
    return recipe_of(names, type(pipe).__name__, parts)


def _warn_of_other_model(pipe: Any, stack: Guidance) -> None:
    """Warn where a stack is made from the recipe of a model that this pipeline does not run."""
    chosen = stack.recipe
    classes = {cls.__name__ for cls in type(pipe).__mro__}  # a user's pipeline may inherit one of diffusers'
    if chosen is None or not chosen.recipe.pipelines or classes & set(chosen.recipe.pipelines):
        return
    try:
        own = f"The recipe of this pipeline is @{_recipe_of(pipe).name}; guide(pipe) takes it."
    except UnknownNameError:
        own = "For another model, give a spec such as 'cfg:scale=5'."
    warn(
        f"the recipe {chosen.name!r} is for {' or '.join(chosen.recipe.pipelines)}; this is a "
        f"{type(pipe).__name__}, which may count its scale in another way. {own}",
        GuidanceRecipeWarning,
    )


def _settings_of(pipe: Any, recipe: Recipe) -> dict[str, Any]:
    """Return the recipe's parameters that the pipeline has as settings, such as Wan 2.2's `boundary_ratio`."""
    settings = getattr(pipe, "config", {})
    return {name: settings[name] for name in recipe.parameters if settings.get(name) is not None}


def _of_call(stack: Guidance, given: dict[str, Any], pattern: Pattern) -> tuple[Guidance, dict[str, Any]]:
    """Return the stack with the recipe's parameters that a call gives, and the rest of what it gives.

    Raises:
        ConfigurationError: a value is not allowed, or the model ignores the parameter; to say that guidance is off is
            allowed for a model that has none.
    """
    chosen = stack.recipe
    if chosen is None:
        return stack, given
    ignored = {name: given[name] for name in chosen.recipe.ignores if given.get(name) is not None}
    if chosen.recipe.distilled:
        own = {*pattern.on, *pattern.replaced}  # what else the pipeline takes is for its model
        ignored = {name: value for name, value in ignored.items() if name in own}
        off = {**pattern.replaced, **dict.fromkeys(pattern.on, pattern.off)}
        ignored = {name: value for name, value in ignored.items() if not _is_off(value, off.get(name))}
    chosen.recipe.choose(ignored)
    taken = {name: given[name] for name in chosen.values if given.get(name) is not None and name not in chosen.given}
    for name, leader in chosen.recipe.follows.items():
        if leader in taken and name not in taken and name not in chosen.given:
            taken[name] = taken[leader]
    if not taken:
        return stack, given
    return stack.with_parameters(**taken), {name: value for name, value in given.items() if name not in taken}


def _given(own: type, pipe: Any, arguments: Sequence[Any], named: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name, also those that the pipeline takes as `**kwargs`; without itself."""
    signature = inspect.signature(own.__call__)
    given = dict(signature.bind(pipe, *arguments, **named).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            given |= given.pop(name, {})
    given.pop(next(iter(signature.parameters)))
    return given


def _is_off(value: Any, off: Any) -> bool:
    """Whether an argument turns guidance off: it is at most what does."""
    return value == off or (isinstance(value, int | float) and isinstance(off, int | float) and value <= off)


def _turned_off(own: type, pattern: Pattern, given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments with which the pipeline runs one pass a step, without guidance of its own."""
    known = inspect.signature(own.__call__).parameters
    off = {**pattern.replaced, **dict.fromkeys(pattern.on, pattern.off)}
    return {**given, **{name: value for name, value in off.items() if name in known}}


def _turned_on(own: type, pattern: Pattern, given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments with which the pipeline asks for both conditions and adds nothing of its own."""
    known = inspect.signature(own.__call__).parameters
    on = {name: value for name, value in pattern.on.items() if given.get(name) is None}
    return {**given, **on, **{name: value for name, value in pattern.replaced.items() if name in known}}


def _check_arguments(name: str, pattern: Pattern, given: dict[str, Any]) -> None:
    """Refuse arguments that turn the pipeline's own guidance off, and tell of those that have no effect."""
    for argument, on in pattern.on.items():
        value = given.get(argument)
        if value is not None and value <= pattern.off:
            raise ConfigurationError(
                f"{name} was called with {argument}={value:g}, which turns its own guidance off, so that the model is "
                f"never asked for the negative condition. Leave {argument} out; the stack decides how far to guide."
            )
        _tell(name, argument, value, on)
    if pattern.needs and all(given.get(argument) is None for argument in pattern.needs):
        raise ConfigurationError(
            f"{name} needs {' or '.join(pattern.needs)}; without one it never asks its model for the negative "
            "condition. An empty negative_prompt=' ' will do."
        )
    for argument, off in pattern.replaced.items():
        _tell(name, argument, given.get(argument), off)


def _tell(name: str, argument: str, value: Any, usual: Any) -> None:
    if value is not None and value != usual:
        warn(
            f"{argument}={value} of {name} has no effect while it is guided: the stack decides.",
            GuidanceArgumentWarning,
        )
