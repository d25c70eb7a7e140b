"""What the installed distributions publish, read one by one, so that one that cannot be read hides no other."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.metadata
import os
import re
import sys
import warnings
from collections.abc import Hashable, Iterator
from importlib.metadata import Distribution, DistributionFinder
from typing import Any

import attrs

from guidance_core.discovery.shipped import EXECUTORS, PLUGINS, RECIPES
from guidance_core.errors import brief, shortened, told

NAME = re.compile(r"[A-Za-z0-9_][\w.\-]{0,99}")
"What a spec can name."


@attrs.frozen
class Entry:
    """One name that a distribution publishes."""

    group: str
    name: str
    target: str
    "`module:attribute`."
    distribution: str
    version: str


@attrs.frozen
class Problem:
    """What is wrong with a distribution as a whole, or with one line of its `entry_points.txt`."""

    distribution: str
    version: str
    what: str


@attrs.frozen
class Installed:
    """What all distributions publish in the groups of this library."""

    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...]


def installed() -> Installed:
    """Return what the installed distributions publish; reading them all takes milliseconds."""
    return _read(_stamp())


def _stamp() -> Hashable:
    """Return what changes when a distribution is installed or removed, or `sys.path` is changed."""
    times = []
    for folder in sys.path:
        try:
            times.append(os.stat(folder or ".").st_mtime_ns)
        except (OSError, ValueError, TypeError):  # a path may hold anything
            times.append(0)
    return tuple(map(str, sys.path)), tuple(times), tuple(map(id, sys.meta_path))


@functools.lru_cache(maxsize=8)
def _read(stamp: Hashable) -> Installed:
    entries: list[Entry] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    for distribution in _distributions(problems):
        try:
            key = _key(distribution)
            if key in seen:  # another of that name comes first on the path, as Python has it
                continue
            seen.add(key)
            _read_one(distribution, entries, problems)
        except Exception as error:
            problems.append(Problem(_place(distribution), "", f"it cannot be read: {told(error)}"))
    return Installed(tuple(entries), tuple(problems))


def _distributions(problems: list[Problem]) -> Iterator[Distribution]:
    """Yield all distributions, in the order of `sys.path`; a finder that fails hides only its own."""
    for finder in sys.meta_path:
        try:
            yield from getattr(finder, "find_distributions", _none)(DistributionFinder.Context())
        except Exception as error:
            problems.append(Problem("", "", f"{brief(finder)} cannot list its distributions: {told(error)}"))


def _none(context: DistributionFinder.Context) -> Iterator[Distribution]:
    return iter(())


def _read_one(distribution: Distribution, entries: list[Entry], problems: list[Problem]) -> None:
    """Read what one distribution publishes, line by line."""
    try:
        text = distribution.read_text("entry_points.txt") or ""
    except Exception as error:
        name, version = _identity(distribution)
        problems.append(Problem(name, version, f"its entry_points.txt cannot be read: {told(error)}"))
        return
    if "guidance_core." not in text:
        return
    name, version = _identity(distribution, problems)
    group = ""
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if line.startswith("[") and line.endswith("]"):
            group = line[1:-1]
        elif line and line[0] not in "#;" and group in (PLUGINS, EXECUTORS, RECIPES):
            published, equals, target = map(str.strip, line.partition("="))
            where = f"line {number} of its entry_points.txt"
            if not equals:
                problems.append(Problem(name, version, f"{where} is not name = module:attribute: {brief(line)}"))
            elif not NAME.fullmatch(published):
                what = f"{where} publishes {brief(published)}, which cannot be a name: use letters, digits, - and _"
                problems.append(Problem(name, version, what))
            else:
                entries.append(Entry(group, published, target, name, version))


def _identity(distribution: Distribution, problems: list[Problem] | None = None) -> tuple[str, str]:
    """Return name and version of a distribution, for people; where its metadata lacks the name, that of its folder."""
    metadata: Any = {}
    wrong = ""
    try:
        metadata = distribution.metadata
        name, version = metadata["Name"], metadata["Version"]
        lacking = [what for what, value in (("name", name), ("version", version)) if not isinstance(value, str)]
        wrong = f"its metadata has no {' and no '.join(lacking)}" if lacking else ""
    except Exception as error:
        name, version, wrong = None, None, f"its metadata cannot be read: {told(error)}"
    shown = _shown(name if isinstance(name, str) and name.strip() else _folder(distribution))
    known = _shown(version) if isinstance(version, str) else ""
    if wrong and problems is not None:
        problems.append(Problem(shown, known, wrong))
    return shown, known


def _key(distribution: Distribution) -> str:
    """Return what two installations of one distribution share."""
    name = _folder(distribution)
    if not name:
        with contextlib.suppress(Exception):
            name = str(distribution.metadata["Name"] or "")
    return re.sub(r"[-_.]+", "-", name).lower() or str(id(distribution))


def _folder(distribution: Distribution) -> str:
    """Return the name that the folder of a distribution's metadata has; empty where it has none."""
    stem, kind = os.path.splitext(_place(distribution))
    return stem.partition("-")[0] if kind in (".dist-info", ".egg-info") else ""


def _place(distribution: Distribution) -> str:
    """Return the name of the folder of a distribution's metadata, which the public interface does not tell."""
    return os.path.basename(str(getattr(distribution, "_path", "")))


def _shown(text: str) -> str:
    """Return a name as it may be printed."""
    return shortened("".join(each if each.isprintable() else "?" for each in text.strip()), 100)


@contextlib.contextmanager
def without_unreadable() -> Iterator[None]:
    """Have torch imported inside the block though a distribution is installed whose entry points cannot be read.

    torch looks at the entry points of all distributions for those of other devices, and fails where one of them cannot
    be read. In that case, and only then, it looks at none. So does hypothesis, from there on.
    """
    switch = "TORCH_DEVICE_BACKEND_AUTOLOAD"
    if "torch" in sys.modules or os.environ.get(switch) == "0" or _can_all_be_read():
        yield
        return
    names = ", ".join(problem.distribution for problem in installed().problems) or "an installed distribution"
    warnings.warn(
        f"the entry points of {names} cannot be read. guidance-core works without them, but torch loads no extension "
        "for other devices. Repair or remove that distribution.",
        RuntimeWarning,
    )
    before = os.environ.get(switch)
    os.environ[switch] = "0"
    os.environ.setdefault("HYPOTHESIS_NO_PLUGINS", "1")
    try:
        yield
    finally:
        if before is None:
            del os.environ[switch]
        else:
            os.environ[switch] = before


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """Have modules imported inside the block without garbage collections.

    The classes of a library stay; but to make hundreds of them starts a collection of all that torch holds, which takes
    as long as the rest of importing the library (docs/benchmarks.md).
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _can_all_be_read() -> bool:
    try:
        importlib.metadata.entry_points(group="torch.backends")
    except Exception:
        return False
    return True
