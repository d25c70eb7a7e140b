"""Calling hooks: registration, checks and wrappers by pluggy's rules, results in the stack's order.

pluggy's own call collects the results of all plugins. Here a correction must receive the result of
the one before it, and every result and error must be traced to its plugin, so the calls are made
over pluggy's hook implementations one by one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import attrs
import pluggy
from torch import Tensor

from guidance_core.algebra.outputs import is_dense, layout_of
from guidance_core.errors import ConfigurationError, GuidanceError, PluginError, brief, text_of, told
from guidance_core.methods import hookspecs

HOOKS = ("build_branches", "combine", "postprocess")


@attrs.frozen
class Implementation:
    """One plugin's implementation of one hook."""

    plugin: str
    "The plugin's name in its stack."
    hook: str
    function: Callable[..., Any] = attrs.field(repr=False)
    "Takes all arguments of the hook, in the order of its specification."

    def __call__(self, *given: Any) -> Any:
        """Call it with the hook's arguments; any error becomes a `PluginError` naming it."""
        try:
            return self.function(*given)
        except Exception as error:
            raise self.failed(error) from error

    def failed(self, error: Exception) -> GuidanceError:
        """Return the error to raise when this implementation raised `error`.

        An error about a parameter stays one; any other becomes a `PluginError`.
        """
        if isinstance(error, ConfigurationError | PluginError):
            prefix = "" if text_of(error).startswith(f"plugin {self.plugin!r}") else f"plugin {self.plugin!r}: "
            return type(error)(f"{prefix}{text_of(error)}")
        return PluginError(f"plugin {self.plugin!r} failed in {self.hook}: {type(error).__name__}: {text_of(error)}")

    def wrong(self, expected: str, got: Any) -> PluginError:
        """Return the error to raise when this implementation returned something it may not."""
        return PluginError(f"plugin {self.plugin!r} must return {expected} from {self.hook}; got {_shown(got)}.")


def _shown(value: Any) -> str:
    """Say what a hook returned without printing whole tensors."""
    if isinstance(value, Tensor) and not is_dense(value):
        return f"a tensor with the layout {layout_of(value)}"
    if hasattr(value, "shape"):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        inside = ", ".join(_shown(entry) for entry in value[:3]) + (", ..." if len(value) > 3 else "")
        return f"a {type(value).__name__} of {len(value)}" + (f" ({inside})" if inside else "")
    if isinstance(value, Mapping):
        return f"a dict with {', '.join(map(str, value)) or 'nothing'}"
    return f"{brief(value)} ({type(value).__name__})"


@attrs.frozen
class Hook:
    """All implementations of one hook in a stack."""

    plain: tuple[Implementation, ...]
    "In the order to call them: as given, `tryfirst` and `trylast` respected."
    wrappers: tuple[Implementation, ...]
    "From the innermost to the outermost: a later plugin wraps those before it."


def around(wrapper: Implementation, given: tuple[Any, ...], inner: Callable[[], Any]) -> Callable[[], Any]:
    """Return a call of `inner` with `wrapper`, which gets the arguments `given`, around it."""

    def call() -> Any:
        generator: Generator[None, Any, Any] = wrapper(*given)
        try:
            next(generator)
        except StopIteration:
            raise PluginError(
                f"plugin {wrapper.plugin!r}: its {wrapper.hook} wrapper did not yield; "
                "a wrapper must yield exactly once, so that the others run."
            ) from None
        except Exception as error:
            raise wrapper.failed(error) from error
        try:
            result = inner()
        except BaseException as error:
            generator.close()
            raise error
        try:
            generator.send(result)
        except StopIteration as stop:
            return stop.value
        except Exception as error:
            raise wrapper.failed(error) from error
        generator.close()
        raise PluginError(f"plugin {wrapper.plugin!r}: its {wrapper.hook} wrapper yields a second time.")

    return call


class _Member:
    """A plugin's hooks as pluggy sees them: compared by identity, since equal plugins may share a stack."""

    def __init__(self, plugin: object) -> None:
        cls = type(plugin)
        for name in dir(cls):
            if hasattr(inspect.getattr_static(cls, name), hookspecs.PROJECT + "_impl"):
                setattr(self, name, getattr(plugin, name))

    def __dir__(self) -> list[str]:
        return list(vars(self))  # pluggy looks at every name, which takes longest for those of `object`


def collect(plugins: Sequence[tuple[str, object]]) -> dict[str, Hook]:
    """Register named plugins with pluggy and return their hooks.

    Raises:
        ConfigurationError: a plugin has no hooks, a hook asks for unknown arguments, or a wrapper
            is not a generator function.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for name, plugin in plugins:
        try:
            member = _Member(plugin)
        except Exception as error:
            raise ConfigurationError(f"the hooks of plugin {name!r} cannot be read: {told(error)}.") from error
        try:
            manager.register(member, name)
        except pluggy.PluginValidationError as error:
            taken = "; ".join(
                f"{hook}({', '.join(inspect.signature(getattr(hookspecs, hook)).parameters)})" for hook in HOOKS
            )
            raise ConfigurationError(
                f"plugin {name!r} has a hook that cannot be called: {error} Hooks may take: {taken}."
            ) from None
        if not manager.get_hookcallers(member):
            raise ConfigurationError(
                f"plugin {name!r} ({type(plugin).__name__}) has no hooks; mark build_branches, combine or "
                "postprocess with @hookimpl from guidance_core."
            )
        unknown = {caller.name for caller in manager.get_hookcallers(member) or ()} - set(HOOKS)
        if unknown:
            raise ConfigurationError(
                f"plugin {name!r} marks {', '.join(sorted(unknown))} as a hook; the hooks are {', '.join(HOOKS)}."
            )
    return {hook: _ordered(hook, getattr(manager.hook, hook).get_hookimpls()) for hook in HOOKS}


def _ordered(hook: str, implementations: Sequence[pluggy.HookImpl]) -> Hook:
    plain: list[pluggy.HookImpl] = []
    wrappers: list[Implementation] = []
    for found in implementations:
        if found.hookwrapper:
            raise ConfigurationError(
                f"plugin {found.plugin_name!r}: {hook} uses the old hookwrapper=True; use wrapper=True."
            )
        if found.wrapper:
            if not inspect.isgeneratorfunction(found.function):
                raise ConfigurationError(
                    f"plugin {found.plugin_name!r}: {hook} is marked wrapper=True but has no yield."
                )
            wrappers.append(_implementation(hook, found))
        else:
            plain.append(found)
    plain.sort(key=lambda found: -1 if found.tryfirst else 1 if found.trylast else 0)
    return Hook(tuple(_implementation(hook, found) for found in plain), tuple(wrappers))


def _implementation(hook: str, found: pluggy.HookImpl) -> Implementation:
    named = tuple(found.argnames)
    specified = tuple(inspect.signature(getattr(hookspecs, hook)).parameters)
    function = found.function if named == specified else _taking(specified, named, found.function)
    return Implementation(found.plugin_name, hook, function)


def _taking(specified: tuple[str, ...], named: tuple[str, ...], function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function`, which takes the arguments `named`, as one that takes all that are `specified`."""
    places = [specified.index(name) for name in named]
    return lambda *given: function(*[given[place] for place in places])
