"""The list of checks: each is one promise of the library, or one law of its algebra, with a sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from guidance_core.errors import UnknownNameError, suggest

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from guidance_core.conformance.case import Case

Draw = Callable[[Any], "SearchStrategy[Case]"]
"Makes the strategy for cases from the subject."

Function: TypeAlias = Callable[..., None]


def _always(subject: Any) -> str | None:
    return None


@attrs.frozen
class Check:
    """One named check."""

    name: str
    sentence: str
    "The promise, in words."
    theme: str
    function: Function
    "Called with the subject, a case where it draws some, and the ranks where it needs them."
    draw: Draw | None = None
    "None for a check that needs no examples."
    applies: Callable[[Any], str | None] = attrs.field(default=_always, repr=False)
    "Returns why the check says nothing about a subject, or None where it does."
    subject: str = "plugin"
    "`plugin` or `executor`."
    processes: bool = False
    "Whether it starts other processes."
    several_ranks: bool = False
    "Whether it is also called with a number of ranks."
    share: float = 1.0
    "Of the examples asked for; a costly check makes fewer."


_checks: dict[str, Check] = {}

THEMES = (
    "runs",
    "samples",
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

FUNDAMENTAL = ("works", "same-bits-again", "inputs-unchanged", "plugin-unchanged", "describes-itself", "equals-serial")
"Checks whose failure makes others fail."


def check(name: str, sentence: str, **settings: Any) -> Callable[[Function], Function]:
    """Register a function as a check; its theme is the module it stands in."""

    def register(function: Function) -> Function:
        theme = function.__module__.rpartition(".")[2]
        _checks[name] = Check(name, sentence, theme, function, **settings)
        return function

    return register


def all_checks(subject: str | None = None) -> tuple[Check, ...]:
    """Return the checks of plugins, of executors, or all, in order."""
    from guidance_core.conformance import checks  # noqa: F401  (registers them)

    ordered = sorted(_checks.values(), key=lambda each: THEMES.index(each.theme))
    return tuple(each for each in ordered if subject in (None, each.subject))


def check_named(name: str, *subjects: str) -> Check:
    """Return the check of that name, of these kinds of subject if any are given.

    Raises:
        UnknownNameError: there is none; the nearest is suggested.
    """
    everything = {each.name: each for each in all_checks()}
    known = {each.name: each for each in everything.values() if not subjects or each.subject in subjects}
    if name in everything and name not in known:
        raise UnknownNameError(f"{name!r} is a check of {everything[name].subject}s; this is none.")
    if name not in known:
        raise UnknownNameError(f"there is no check {name!r}.{suggest(name, known)}")
    return known[name]
