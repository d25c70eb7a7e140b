"""Telling once that a host has a version with which guidance was not tested."""

from __future__ import annotations

import functools
import sys
from importlib import metadata

from guidance_core.errors import warn

TESTED = {
    "diffusers": ("0.42", "0.42"),
    "sglang": ("0.5.23", "0.5.23"),
    "vllm-omni": ("0.30.0", "0.30.0"),
    "ComfyUI": ("0.30.0", "0.30.0"),
    "ltx-pipelines": ("1.0.0", "1.2.0"),
}
"The first and the last release of each host with which it was tested; 0.42 stands for all that begin with it."


class UntestedVersionWarning(UserWarning):
    """The installed version of a host was not tested with this library."""


@functools.cache
def tell_untested(host: str, first: str, last: str, *, found: str | None = None, advice: str = "") -> None:
    """Warn once if a host's version is not in the range that was tested, both ends of it included.

    Args:
        host: name of its distribution, or what it is called.
        first: the first version that was tested.
        last: the last one. `0.42` includes every 0.42.x.
        found: the version that is there; by default that of the distribution, or nothing is told without one.
        advice: a sentence on what to do, for the end of the warning.
    """
    found = found or _installed(host)
    if found is None:
        return
    number, end = _number(found), _number(last)
    if _number(first) <= number and number[: len(end)] <= end:
        return
    tested = first if first == last else f"{first} to {last}"
    warn(
        " ".join([f"{host} {found} is installed; guidance was tested with {host} {tested}.", advice]).rstrip(),
        UntestedVersionWarning,
    )


def tell_untested_host(host: str, *, found: str | None = None, advice: str = "") -> None:
    """Warn once if a host of `TESTED` has a version outside its range."""
    tell_untested(host, *TESTED[host], found=found, advice=advice)


def _installed(host: str) -> str | None:
    try:
        return metadata.version(host)
    except metadata.PackageNotFoundError:  # it runs from a folder of its own
        version = getattr(sys.modules.get(host.replace("-", "_")), "__version__", None)
        return version if isinstance(version, str) else None


def _number(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version."""
    digits = []
    for part in version.split("."):
        if not part.isdigit():
            break
        digits.append(int(part))
    return tuple(digits)
