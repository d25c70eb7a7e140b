"""The list of checks, by theme. Importing this registers them all."""

from guidance_core.conformance.checks import (  # noqa: F401
    algebra,
    branches,
    composition,
    devices,
    executors,
    finite,
    parameters,
    pieces,
    processes,
    publication,
    runs,
    samples,
)
from guidance_core.conformance.registry import Check, registered
from guidance_core.errors import UnknownNameError, suggest

THEMES = (
    "runs",
    "samples",
    "pieces",
    "algebra",
    "finite",
    "branches",
    "parameters",
    "composition",
    "publication",
    "devices",
    "processes",
    "executors",
)
"The order in which checks are made: what others rest on comes first."


def all_checks(subject: str | None = None) -> tuple[Check, ...]:
    """Return the checks of plugins, of executors, or all, in order."""
    ordered = sorted(registered.values(), key=lambda each: THEMES.index(each.theme))
    return tuple(each for each in ordered if subject in (None, each.subject))


def check_named(name: str, *subjects: str) -> Check:
    """Return the check of that name, of these kinds of subject if any are given.

    Raises:
        UnknownNameError: there is none; the nearest is suggested.
    """
    everything = {each.name: each for each in all_checks()}
    known = {each.name: each for each in everything.values() if not subjects or each.subject in subjects}
    if name in everything and name not in known:
        raise UnknownNameError(
            f"{name!r} is a check of {everything[name].subject}s; this subject is a {' or '.join(subjects)}."
        )
    if name not in known:
        raise UnknownNameError(f"there is no check {name!r}.{suggest(name, known)}")
    return known[name]
