"""What a check is: one promise of the library, or one law of its algebra, with a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import attrs
from hypothesis.strategies import SearchStrategy

from guidance_core.conformance.case import Case

Draw: TypeAlias = Callable[[Any], SearchStrategy[Case]]
"Makes the strategy for cases from the subject."

Function: TypeAlias = Callable[..., None]


def _always(subject: Any) -> str | None:
    return None


def _nothing(subject: Any) -> Sequence[Case]:
    return ()


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
    besides: Callable[[Any], Sequence[Case]] = attrs.field(default=_nothing, repr=False)
    "Returns cases that are tried besides those drawn, whatever the seed."
    subject: str = "plugin"
    "`plugin` or `executor`."
    processes: bool = False
    "Whether it starts other processes."
    several_ranks: bool = False
    "Whether it is also called with a number of ranks."
    share: float = 1.0
    "Of the examples asked for; a costly check makes fewer."
    differentiating: bool = True
    "Whether it is for methods that differentiate through the model too, for which those of examples are not made."
    autograd: bool = True
    "Whether it is for methods that use autograd at all: the pretended device has none, and it does not compile."

    def inapplicable(self, subject: Any) -> str | None:
        """Return why it says nothing about a subject, or None where it does."""
        if not self.differentiating and getattr(subject, "differentiates", False):
            return "it differentiates through the model, which the models of examples are not made for"
        if not self.autograd and getattr(subject, "uses_autograd", False):
            return "it uses autograd, which the pretended device and compiled graphs do without"
        return self.applies(subject)


registered: dict[str, Check] = {}
"All checks whose modules were imported, by name."

FUNDAMENTAL = ("works", "same-bits-again", "inputs-unchanged", "plugin-unchanged", "describes-itself", "equals-serial")
"Checks whose failure makes others fail."


def check(name: str, sentence: str, **settings: Any) -> Callable[[Function], Function]:
    """Register a function as a check; its theme is the module, or the folder, that it stands in."""

    def register(function: Function) -> Function:
        theme = function.__module__.partition(".checks.")[2].partition(".")[0]
        registered[name] = Check(name, sentence, theme, function, **settings)
        return function

    return register
