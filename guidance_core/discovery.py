"""Finding plugins and executors through entry points, so that a broken one harms no other.

`GUIDANCE_CORE_DISABLE_AUTOLOAD=1` loads no plugin; `GUIDANCE_CORE_PLUGINS=a,b` only those, in that
order. Otherwise plugins come by name.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from importlib.metadata import EntryPoint, EntryPoints, entry_points, packages_distributions, version
from typing import Any

import attrs

from guidance_core.errors import ConfigurationError, UnknownNameError, suggest, text_of

PLUGINS = "guidance_core.plugins"
EXECUTORS = "guidance_core.executors"
DISABLE = "GUIDANCE_CORE_DISABLE_AUTOLOAD"
ONLY = "GUIDANCE_CORE_PLUGINS"

_also: ContextVar[Mapping[str, tuple[EntryPoint, type]]] = ContextVar("_also", default={})  # noqa: B039
"Classes that count as published beside those of the installed distributions."


@attrs.frozen
class Found:
    """One entry point: a plugin or executor, loaded or not."""

    name: str
    target: str
    "`module:attribute`."
    distribution: str
    version: str
    loaded: Any = None
    "The class, or None where it could not be loaded."
    failure: str | None = None
    "Why it could not be loaded."


def find_plugins() -> list[Found]:
    """Load every plugin the environment allows; failures are listed, never raised."""
    return [_found_plugin(name) for name in plugin_names()]


def plugin_class(name: str) -> type:
    """Return the plugin class of that name.

    Raises:
        UnknownNameError: there is none; the nearest name is suggested.
        ConfigurationError: its entry point cannot be loaded.
    """
    if name in _also.get() or name in plugin_names():
        return _class(_found_plugin(name), "plugin")
    known = [each for each in plugin_names() if each in _points(PLUGINS)]
    raise UnknownNameError(f"there is no plugin {name!r}.{_why_no_plugin() or suggest(name, known)}")


def executor_class(name: str) -> type:
    """Return the executor class of that name; raises as `plugin_class` does."""
    points = _points(EXECUTORS)
    if name in points:
        return _class(_load(name, points[name]), "executor")
    raise UnknownNameError(f"there is no executor {name!r}.{suggest(name, points)}")


def names_of(group: str) -> list[str]:
    """Return the names that are published in an entry-point group."""
    return sorted(_points(group))


def entry_name(cls: type) -> str | None:
    """Return the name under which a plugin class is published, or None; loads nothing."""
    return next((name for name, points in _points(PLUGINS).items() if _stands_for(points[0], cls)), None)


def publishers(name: str) -> list[str]:
    """Return the distributions that publish a plugin of that name, whatever may be loaded; loads nothing."""
    return sorted(point.dist.name if point.dist else point.value for point in _points(PLUGINS).get(name, ()))


def versions_of(classes: Iterable[type]) -> dict[str, str]:
    """Return the version of this library, and of each distribution that classes come from, by its name.

    Classes of no installed distribution are left out. Where a package's own `__version__` is another than that of its
    distribution, as in a changed checkout, both are named.
    """
    packages = {"guidance_core": None, **dict.fromkeys(kind.__module__.partition(".")[0] for kind in classes)}
    versions = {}
    for package in packages:
        distribution, installed = _distribution_of(package)
        own = getattr(sys.modules.get(package), "__version__", None)
        own = own if isinstance(own, str) else None
        differs = None not in (own, installed) and own != installed
        shown = f"{installed} (its module says {own})" if differs else installed or own
        if (
            shown is not None
            and (installed or package == "guidance_core")
            and (differs or distribution not in versions)
        ):
            versions[distribution] = shown
    return versions


@functools.cache
def _distribution_of(package: str) -> tuple[str, str | None]:
    """Return name and version of the distribution that a top-level package, already imported, comes from."""
    with contextlib.suppress(Exception):  # metadata of a broken distribution
        for group in (PLUGINS, EXECUTORS):
            for points in _points(group).values():
                for point in points:
                    if point.dist is not None and point.module.partition(".")[0] == package:
                        return _origin(point, _stamp())
        for name in packages_distributions().get(package, ()) if package not in ("__main__", "__mp_main__") else ():
            return name, version(name)
    return package.replace("_", "-"), None


def _stands_for(point: EntryPoint, cls: type) -> bool:
    """Whether an entry point names a class, perhaps where another module, already imported, passes it on."""
    if point.value == f"{cls.__module__}:{cls.__qualname__}":
        return True
    module, _, attribute = point.value.partition(":")
    return attribute == cls.__qualname__ and getattr(sys.modules.get(module), attribute, None) is cls


@contextlib.contextmanager
def published(name: str, cls: type) -> Iterator[None]:
    """Have a plugin class found under a name inside the block, as if a distribution published it."""
    point = EntryPoint(name, f"{cls.__module__}:{cls.__qualname__}", PLUGINS)
    token = _also.set({**_also.get(), name: (point, cls)})
    try:
        yield
    finally:
        _also.reset(token)


def _points(group: str) -> dict[str, list[EntryPoint]]:
    points = dict(_installed(group, entry_points, _stamp()))
    if group == PLUGINS:
        points |= {name: [point] for name, (point, _) in _also.get().items()}
    return points


@functools.lru_cache(maxsize=8)
def _installed(group: str, read: Callable[..., EntryPoints], stamp: Hashable) -> dict[str, list[EntryPoint]]:
    """Return the entry points of a group by name; reading them all takes milliseconds."""
    points: dict[str, list[EntryPoint]] = {}
    for point in read(group=group):
        same = points.setdefault(point.name, [])
        if all(point.value != other.value for other in same):
            same.append(point)
    return points


def _stamp() -> Hashable:
    """Return what changes when a distribution is installed or removed, or `sys.path` is changed."""
    times = []
    for folder in sys.path:
        try:
            times.append(os.stat(folder or ".").st_mtime_ns)
        except OSError:
            times.append(0)
    return tuple(sys.path), tuple(times)


@functools.lru_cache(maxsize=256)
def _origin(point: EntryPoint, stamp: Hashable) -> tuple[str, str]:
    """Return name and version of the distribution that an entry point belongs to."""
    assert point.dist is not None
    return point.dist.name, point.dist.version


def _load(name: str, points: list[EntryPoint]) -> Found:
    point = points[0]
    distribution, version = _origin(point, _stamp()) if point.dist else ("", "")
    if len(points) > 1:
        owners = " and ".join(sorted(other.dist.name if other.dist else other.value for other in points))
        return Found(name, point.value, owners, "", failure=f"several distributions provide it: {owners}")
    try:
        beside = _also.get().get(name) if point.group == PLUGINS else None
        loaded = point.load() if beside is None else beside[1]
    except (Exception, SystemExit) as error:
        return Found(name, point.value, distribution, version, failure=f"{type(error).__name__}: {text_of(error)}")
    if not isinstance(loaded, type):
        return Found(name, point.value, distribution, version, failure=f"{point.value} is no class")
    return Found(name, point.value, distribution, version, loaded)


def plugin_names() -> list[str]:
    """Return the names of plugins that the environment allows, in order, installed or not; loads nothing."""
    if _is_disabled():
        return []
    chosen = [name.strip() for name in os.environ.get(ONLY, "").split(",") if name.strip()]
    return chosen or sorted(_points(PLUGINS))


def _found_plugin(name: str) -> Found:
    points = _points(PLUGINS)
    if name not in points:
        return Found(name, "", "", "", failure=f"{ONLY} names it, but it is not installed")
    return _load(name, points[name])


def _class(found: Found, what: str) -> type:
    if found.failure is not None:
        source = f" of {found.distribution}" if found.distribution else ""
        raise ConfigurationError(f"the {what} {found.name!r}{source} could not be loaded: {found.failure}.")
    loaded: type = found.loaded
    return loaded


def _is_disabled() -> bool:
    return os.environ.get(DISABLE, "").strip().lower() not in ("", "0", "false", "no")


def _why_no_plugin() -> str:
    if _is_disabled():
        return f" {DISABLE} is set, so none is loaded; pass plugin objects to Guidance([...]) instead."
    return ""
