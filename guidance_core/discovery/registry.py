"""The names of plugins and executors, and the classes they stand for.

What this library ships keeps its names, whatever is installed. The environment limits what is loaded:
`GUIDANCE_CORE_DISABLE_AUTOLOAD=1` loads no plugin and no executor of others; `GUIDANCE_CORE_PLUGINS=a,b` and
`GUIDANCE_CORE_EXECUTORS=a,b` only those, in that order. Otherwise they come by name. What a program registers itself
is there in any case.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import attrs

from guidance_core.discovery.distributions import NAME, Entry, installed
from guidance_core.discovery.loading import Failure, loaded
from guidance_core.discovery.shipped import EXECUTORS, LIBRARY, PLUGINS, SHIPPED
from guidance_core.errors import ConfigurationError, UnknownNameError, brief, shortened, suggest
from guidance_core.version import __version__

DISABLE = "GUIDANCE_CORE_DISABLE_AUTOLOAD"
ONLY = "GUIDANCE_CORE_PLUGINS"
ONLY_EXECUTORS = "GUIDANCE_CORE_EXECUTORS"
_LIMITS = {PLUGINS: ONLY, EXECUTORS: ONLY_EXECUTORS}
NOTHING = ("none", "no", "off", "nothing", "null", "no-guidance", "unguided")
"What people call no guidance, which has no name here."
_KINDS = {PLUGINS: "plugin", EXECUTORS: "executor"}

_registered: dict[tuple[str, str], type | None] = {}
"What this program registered, by group and name; None where it removed what is installed."

_also: ContextVar[Mapping[str, type]] = ContextVar("_also", default={})  # noqa: B039
"Plugin classes that count as published inside a block."


@attrs.frozen
class Found:
    """One plugin or executor that is published, loaded or not."""

    name: str
    "Empty for what is wrong with a distribution as a whole."
    target: str
    "`module:attribute`."
    distribution: str
    version: str
    loaded: Any = None
    "The class, or None where it could not be loaded."
    failure: str | None = None
    "Why it could not be loaded, or what is wrong with the distribution."


def find_plugins() -> list[Found]:
    """Load every plugin the environment allows; failures are listed, never raised.

    A name appears more than once if a distribution publishes one that it cannot have: what failed comes first.
    """
    return _find(PLUGINS)


def find_executors() -> list[Found]:
    """Load every executor the environment allows; as `find_plugins` does."""
    return _find(EXECUTORS)


def problems(group: str) -> list[Found]:
    """Return what is wrong with distributions, found without loading anything.

    With a name: it is that of something which this library ships. Without: it concerns the whole distribution.
    """
    if _is_disabled():
        return []
    wrong = [Found("", "", each.distribution, each.version, failure=each.what) for each in installed().problems]
    shipped = SHIPPED[group]
    clashes = [
        Found(
            *(each.name, each.target, each.distribution, each.version),
            failure=f"the name {each.name!r} belongs to what {LIBRARY} ships, which stays in place; "
            f"the {_KINDS[group]} of {each.distribution} needs another name",
        )
        for each in installed().entries
        if each.group == group and each.name in shipped and each.target != shipped[each.name]
    ]
    return clashes + wrong


def plugin_names() -> list[str]:
    """Return the names of plugins that the environment allows, in order, installed or not; loads nothing."""
    return _names(PLUGINS)


def executor_names() -> list[str]:
    """Return the names of executors that the environment allows, in order, installed or not; loads nothing."""
    return _names(EXECUTORS)


def plugin_class(name: str) -> type:
    """Return the plugin class of that name.

    Raises:
        UnknownNameError: there is none; the nearest name is suggested.
        ConfigurationError: its entry point cannot be loaded.
    """
    return _class(PLUGINS, name)


def executor_class(name: str) -> type:
    """Return the executor class of that name; raises as `plugin_class` does."""
    return _class(EXECUTORS, name)


def register_plugin(name: str, cls: type) -> None:
    """Register a plugin class under a name in this process, as if a distribution published it.

    Raises:
        ConfigurationError: the name is taken, or cannot be written in a spec.
    """
    _register(PLUGINS, name, cls)


def register_executor(name: str, cls: type) -> None:
    """Register an executor class under a name in this process. Errors are those of `register_plugin`."""
    _register(EXECUTORS, name, cls)


def unregister_plugin(name: str) -> None:
    """Remove a plugin from this process, whether it was registered or is installed.

    Raises:
        UnknownNameError: there is no plugin of that name.
    """
    _unregister(PLUGINS, name)


def unregister_executor(name: str) -> None:
    """Remove an executor from this process. Errors are those of `unregister_plugin`."""
    _unregister(EXECUTORS, name)


def entry_name(cls: type) -> str | None:
    """Return the name under which a plugin class is published, or None; loads nothing."""
    mine = [name for name, also in _also.get().items() if also is cls]
    mine += [name for (group, name), known in _registered.items() if group == PLUGINS and known is cls]
    if mine:
        return mine[0]
    place = f"{cls.__module__}:{cls.__qualname__}"
    known = {name: entries[0].target for name, entries in _published(PLUGINS).items() if len(entries) == 1}
    itself = (name for name, target in known.items() if target == place)
    return next(itself, None) or next((name for name, target in known.items() if _passes_on(target, cls)), None)


def publishers(name: str) -> list[str]:
    """Return the distributions that publish a plugin of that name, whatever may be loaded; loads nothing."""
    shipped = [LIBRARY] if name in SHIPPED[PLUGINS] else []
    others = (each.distribution for each in installed().entries if (each.group, each.name) == (PLUGINS, name))
    return sorted({*shipped, *others})


@contextlib.contextmanager
def published(name: str, cls: type) -> Iterator[None]:
    """Have a plugin class found under a name inside the block, before all others."""
    token = _also.set({**_also.get(), name: cls})
    try:
        yield
    finally:
        _also.reset(token)


def entries_of(group: str) -> list[Entry]:
    """Return what distributions publish in a group, in order of names; nothing where the environment says so."""
    if _is_disabled():
        return []
    return sorted((each for each in installed().entries if each.group == group), key=lambda each: each.name)


def _published(group: str) -> dict[str, list[Entry]]:
    """Return what distributions publish by name: what this library ships first, then the rest by name."""
    found = {name: [_shipped(group, name)] for name in SHIPPED[group]}
    for entry in sorted((each for each in installed().entries if each.group == group), key=lambda each: each.name):
        same = found.setdefault(entry.name, [])
        if entry.name not in SHIPPED[group] and all(entry.target != other.target for other in same):
            same.append(entry)
    return {name: entries for name, entries in found.items() if _registered.get((group, name), Entry) is not None}


def _shipped(group: str, name: str) -> Entry:
    return Entry(group, name, SHIPPED[group][name], LIBRARY, __version__)


def _own(group: str) -> dict[str, type]:
    """Return what this program registered."""
    own = {name: cls for (of, name), cls in _registered.items() if of == group and cls is not None}
    return own | (dict(_also.get()) if group == PLUGINS else {})


def _names(group: str) -> list[str]:
    own = _own(group)
    there = _always(group) if _is_disabled() else list(_published(group))
    chosen = [name.strip() for name in os.environ.get(_LIMITS[group], "").split(",") if name.strip()]
    if chosen:
        return list(dict.fromkeys([*(name for name in chosen if name in there or not _is_disabled()), *own]))
    return sorted({*there, *own})


def _always(group: str) -> list[str]:
    """Return the names that are there though autoload is switched off: without an executor nothing runs."""
    return [name for name in _published(group) if name in SHIPPED[group]] if group == EXECUTORS else []


def _find(group: str) -> list[Found]:
    names = _names(group)
    wrong = problems(group)
    clashes = [each for each in wrong if each.name in names]
    found = sorted([*clashes, *(_found(group, name) for name in names)], key=lambda each: names.index(each.name))
    return [*found, *(each for each in wrong if not each.name)]


def _found(group: str, name: str) -> Found:
    own = _own(group).get(name)
    if own is not None:
        return Found(name, f"{own.__module__}:{own.__qualname__}", "", "", own)
    entries = _published(group).get(name, [])
    if not entries:
        return Found(name, "", "", "", failure=f"{_LIMITS[group]} names it, but it is not installed")
    entry = entries[0]
    if len(entries) > 1:
        owners = " and ".join(sorted({each.distribution for each in entries}))
        return Found(name, entry.target, owners, "", failure=f"several distributions provide it: {owners}")
    result = loaded(entry)
    told = (name, entry.target, entry.distribution, entry.version)
    if isinstance(result, Failure):
        return Found(*told, failure=shortened(result.why, 1000))
    return Found(*told, result)


def _class(group: str, name: str) -> type:
    if _is_as_shipped(group, name):
        return _shipped_class(group, name)
    names = _names(group)
    if name not in names:
        known = [each for each in names if each in _published(group) or each in _own(group)]
        if group == PLUGINS and name.lower() in NOTHING:
            raise UnknownNameError(f"there is no plugin {brief(name)}. For no guidance, give an empty spec: ''.")
        raise UnknownNameError(f"there is no {_KINDS[group]} {brief(name)}.{_why_not(group) or suggest(name, known)}")
    found = _found(group, name)
    if found.failure is not None:
        source = f" of {found.distribution}" if found.distribution else ""
        raise ConfigurationError(f"the {_KINDS[group]} {name!r}{source} could not be loaded: {found.failure}.")
    cls: type = found.loaded
    return cls


def _is_as_shipped(group: str, name: str) -> bool:
    """Whether a name is one that ships and nothing was said about it: nothing else need be looked at then.

    Saves 45 of the 50 µs that starting a run with an executor's name takes for the name.
    """
    is_limited = bool(os.environ.get(_LIMITS[group])) or (group == PLUGINS and _is_disabled())
    is_own = (group, name) in _registered or (group == PLUGINS and name in _also.get())
    return isinstance(name, str) and name in SHIPPED[group] and not is_limited and not is_own


@functools.cache
def _shipped_class(group: str, name: str) -> type:
    found = loaded(_shipped(group, name))
    if isinstance(found, Failure):
        raise ConfigurationError(f"the {_KINDS[group]} {name!r} of {LIBRARY} could not be loaded: {found.why}.")
    return found


def _register(group: str, name: str, cls: type) -> None:
    kind = _KINDS[group]
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigurationError(f"the name of a {kind} must consist of letters, digits, - and _; got {brief(name)}.")
    if not isinstance(cls, type):
        raise ConfigurationError(f"a {kind} must be registered as a class; {name!r} got {brief(cls)}.")
    shipped = SHIPPED[group].get(name)
    if shipped == f"{cls.__module__}:{cls.__qualname__}":
        _registered.pop((group, name), None)  # put back after it was removed
        return
    if shipped or name in _own(group) or name in _published(group):
        advice = "choose another name" if shipped else f"choose another name, or call unregister_{kind}({name!r}) first"
        raise ConfigurationError(f"there is already a {kind} {name!r}; {advice}.")
    _registered[group, name] = cls


def _unregister(group: str, name: str) -> None:
    known = [*_own(group), *_published(group)]
    if name not in known:
        raise UnknownNameError(f"there is no {_KINDS[group]} {brief(name)}.{suggest(name, known)}")
    is_installed = name in SHIPPED[group] or any(
        (each.group, each.name) == (group, name) for each in installed().entries
    )
    if is_installed:
        _registered[group, name] = None
    else:
        _registered.pop((group, name), None)


def _passes_on(target: str, cls: type) -> bool:
    """Whether an entry point names a class where another module, already imported, passes it on."""
    module, _, attribute = target.partition(":")
    try:
        return attribute == cls.__qualname__ and getattr(sys.modules.get(module), attribute, None) is cls
    except Exception:  # a module may answer as it likes
        return False


def _is_disabled() -> bool:
    return os.environ.get(DISABLE, "").strip().lower() not in ("", "0", "false", "no")


def _why_not(group: str) -> str:
    if _is_disabled() and group == PLUGINS:
        return f" {DISABLE} is set, so none is loaded; pass plugin objects to Guidance([...]) instead."
    if _is_disabled():
        return f" {DISABLE} is set, so only those of {LIBRARY} are there: {', '.join(_names(group))}."
    limit = os.environ.get(_LIMITS[group], "").strip()
    return f" {_LIMITS[group]} allows only {brief(limit)}." if limit else ""
