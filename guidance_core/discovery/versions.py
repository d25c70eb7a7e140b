"""Versions of the distributions that classes come from, which ranks compare."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions

from guidance_core.discovery.distributions import installed


def versions_of(classes: Iterable[type]) -> dict[str, str]:
    """Return the version of this library, and of each distribution that classes come from, by its name.

    Classes of no installed distribution are left out. Where a package's own `__version__` is another than that of its
    distribution, as in a changed checkout, both are named.
    """
    packages = {"guidance_core": None, **dict.fromkeys(kind.__module__.partition(".")[0] for kind in classes)}
    versions = {}
    for package in packages:
        distribution, found = _distribution_of(package)
        own = getattr(sys.modules.get(package), "__version__", None)
        own = own if isinstance(own, str) else None
        differs = None not in (own, found) and own != found
        shown = f"{found} (its module says {own})" if differs else found or own
        if shown is not None and (found or package == "guidance_core") and (differs or distribution not in versions):
            versions[distribution] = shown
    return versions


@functools.cache
def _distribution_of(package: str) -> tuple[str, str | None]:
    """Return name and version of the distribution that a top-level package, already imported, comes from."""
    with contextlib.suppress(Exception):  # metadata of a broken distribution
        for entry in installed().entries:
            if entry.target.partition(":")[0].partition(".")[0] == package:
                return entry.distribution, entry.version or None
    for each in distributions() if package not in ("__main__", "__mp_main__") else ():
        with contextlib.suppress(Exception):
            if _provides(each, package):
                return each.metadata["Name"], each.version
    return package.replace("_", "-"), None


def _provides(distribution: Distribution, package: str) -> bool:
    """Whether a distribution installs a top-level package or module of that name.

    `importlib.metadata.packages_distributions` makes a path of each of its files first: a second for all that a usual
    environment holds, where to search the text takes a twentieth.
    """
    if package in (distribution.read_text("top_level.txt") or "").split():
        return True
    files = "\n" + (distribution.read_text("RECORD") or "")
    return f"\n{package}/" in files or f"\n{package}." in files
