"""What all methods have in common that move away from the prediction of a weakened pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import attrs

from guidance_core.methods.hookspecs import hookimpl
from guidance_core.methods.requests import Branch, Request
from guidance_core.methods.step import Step
from guidance_core.parameters.fields import number
from guidance_core.parameters.schedules import Window


@attrs.frozen(kw_only=True)
class Windowed:
    """Base class of methods that act in a window of the steps."""

    start: float = number(0.0, ge=0, le=1, varies=False, help="fraction of the steps after which it starts")
    stop: float = number(1.0, ge=0, le=1, varies=False, help="fraction of the steps after which it stops")

    def __attrs_post_init__(self) -> None:
        self.window  # noqa: B018  (raises where start lies after stop)

    @property
    def window(self) -> Window:
        """The steps in which it acts."""
        return Window(self.start, self.stop, by="fraction")


@attrs.frozen(kw_only=True)
class WeakenedPass(Windowed, ABC):
    """Base class of methods that move away from the prediction p of a weakened pass, in a window of the steps.

        guided = c + s·(c − p)

    Your own is a frozen attrs class that inherits from it, with its parameters and `weakened(step)`.
    """

    neutral: ClassVar[Mapping[str, float]] = {"scale": 0.0}
    "For the conformance suite: the parameters that switch it off."

    @abstractmethod
    def weakened(self, step: Step) -> Branch:
        """Return the weakened pass, with the strength s."""

    @hookimpl
    def build_branches(self, step: Step) -> list[Request]:
        """Ask for the weakened pass inside the window."""
        return [self.weakened(step)] if step.inside(self.window) else []
