"""A stack of plugins: checked, named, and registered once."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from guidance_core.discovery import entry_name
from guidance_core.errors import ConfigurationError, GuidanceError, told
from guidance_core.methods.hooks import Hook, collect
from guidance_core.parameters.schedules import Table
from guidance_core.parameters.settled import Settled, settle
from guidance_core.parameters.values import PerOutput


@attrs.frozen(eq=False)
class Stack:
    """Plugins in the order given, by name, with their hooks."""

    plugins: Mapping[str, Any]
    "By name; a second `cfg` is named `cfg#2`."
    hooks: Mapping[str, Hook]
    given: Sequence[frozenset[str] | None]
    "For each plugin the parameters its maker gave, where that is known."

    @classmethod
    def of(cls, plugins: Sequence[Any], given: Sequence[frozenset[str] | None] | None = None) -> Stack:
        """Check and name the plugins.

        Raises:
            ConfigurationError: one is not an instance of a frozen attrs class, has no hooks, or excludes
                another.
        """
        named: dict[str, Any] = {}
        seen: Counter[str] = Counter()
        for plugin in plugins:
            with _told_of(plugin):
                _check_plugin(plugin)
                name = plugin_name(type(plugin))
                # A class may answer as it likes; its errors are reported here.
                _ = [getattr(type(plugin), declared, None) for declared in ("excludes", "form_of", "any_order")]
                _ = [getattr(plugin, declared, None) for declared in ("preset", "presets")]
            seen[name] += 1
            named[name if seen[name] == 1 else f"{name}#{seen[name]}"] = plugin
        _check_exclusions(named)
        return cls(named, collect(list(named.items())), given or [None] * len(named))

    @property
    def looking(self) -> tuple[str, ...]:
        """The plugins that look at the predictions of their branches."""
        combine = self.hooks["combine"]
        return tuple(found.plugin for found in (*combine.plain, *combine.wrappers))

    def named_outputs(self) -> tuple[str, ...]:
        """Return the outputs that parameters give values for, in order of first mention."""
        names: dict[str, None] = {}
        for plugin in self.plugins.values():
            for settled in settle(plugin).values():
                for output in _outputs(settled.value):
                    names[output] = None
        return tuple(names)

    def settled(self) -> dict[str, dict[str, Settled]]:
        """Return every parameter of every plugin with its effective value and origin."""
        pairs = zip(self.plugins.items(), self.given, strict=True)
        return {name: settle(plugin, given) for (name, plugin), given in pairs}


@contextlib.contextmanager
def _told_of(plugin: Any) -> Iterator[None]:
    """Have what a plugin's class raises inside the block told as a mistake of that class."""
    try:
        yield
    except GuidanceError:
        raise
    except Exception as error:
        what = f"an instance of {type.__repr__(type(plugin))} cannot be used as a plugin"
        raise ConfigurationError(f"{what}: {told(error)}.") from error


def plugin_name(cls: type) -> str:
    """Return the name a plugin class is published under, or its own name as `my-method`."""
    published = entry_name(cls)
    if published is not None:
        return published
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", cls.__name__)
    return words.replace("_", "-").strip("-").lower()


def _check_plugin(plugin: Any) -> None:
    if isinstance(plugin, type):
        raise ConfigurationError(f"{plugin.__name__} is a class; pass an instance, {plugin.__name__}(...).")
    if isinstance(plugin, str):
        raise ConfigurationError(f"{plugin!r} is a name; use Guidance.from_spec({plugin!r}).")
    cls = type(plugin)
    if not attrs.has(cls) or not attrs.inspect(cls).is_frozen:
        raise ConfigurationError(
            f"a plugin must be an instance of a frozen attrs class (@attrs.frozen); {cls.__name__} is not. "
            "What changes during a run belongs in step.state."
        )


def _check_exclusions(named: Mapping[str, Any]) -> None:
    for name, plugin in named.items():
        excluded = getattr(type(plugin), "excludes", ())
        form = getattr(type(plugin), "form_of", None)
        for other, given in named.items():
            first = other.partition("#")[0]
            is_form = form is not None and form in (first, getattr(type(given), "form_of", None))
            if is_form and first != name.partition("#")[0]:
                raise ConfigurationError(
                    f"plugins {name!r} and {other!r} exclude each other: both are forms of the same guidance, and "
                    "together they would apply it twice. Leave one out."
                )
            if first in excluded:
                raise ConfigurationError(
                    f"plugins {name!r} and {other!r} exclude each other: {name!r} does not work together with "
                    f"{first!r}. Leave one out."
                )


def _outputs(value: Any) -> tuple[str, ...]:
    if isinstance(value, PerOutput):
        return tuple(value)
    if isinstance(value, Table):
        return tuple(output for _, inner in value.rows for output in _outputs(inner))
    return ()
