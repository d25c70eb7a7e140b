"""Mistakes that a reader or an installer meets."""

from __future__ import annotations

from typing import Any

import attrs

from guidance_core import Branch, hookimpl, number
from zoo.entry import broken
from zoo.sound import Linear

WORDS = {"blurry", "noisy", "dark", "cropped", "grainy", "flat", "tilted", "watermarked", "pale"}


@broken("documented", "has no docstring", mistake="Has no docstring.")
@attrs.frozen
class SaysNothing(Linear):
    pass


@broken("documented", "no formula", mistake="Describes its method in words alone.")
@attrs.frozen
class GivesNoFormula(Linear):
    """Moves away from the unconditional prediction. Source: arXiv:2207.12598."""


@broken("documented", "names no source", mistake="Does not say whose method it is.")
@attrs.frozen
class NamesNoSource(Linear):
    """guided = c + (s − 1)·(c − u)."""


@broken("documented", "scale: no help text")
@attrs.frozen
class HelpsNobody(Linear):
    """Has a parameter that nothing explains."""

    scale: Any = number(3.3)


@broken("same-in-a-fresh-process", "In a fresh process")
@attrs.frozen
class GoesThroughASet(Linear):
    """Joins a set of words, whose order is another in every process, into what the model is told to avoid."""

    @hookimpl
    def build_branches(self, step):
        return [
            Branch("plain", condition="negative", overrides={"avoid": ", ".join(WORDS)}, strength=self.strength(step))
        ]
