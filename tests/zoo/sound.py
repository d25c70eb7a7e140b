"""Three small sound methods, which the broken ones differ from in one thing: they keep every promise."""

from __future__ import annotations

from typing import Any

import attrs

from guidance_core import Branch, Multiply, Needs, hookimpl, number, ratio


@attrs.frozen
class Linear:
    """Moves away from one branch.

        guided = c + (s − 1)·(c − u)

    Source: arXiv:2207.12598, eq. 6.
    """

    scale: Any = number(3.3, help="guidance scale s; 1 is off")

    @hookimpl
    def build_branches(self, step):
        return [Branch("uncond", condition="negative", strength=self.strength(step))]

    def strength(self, step):
        return step.value(self.scale) - 1


@attrs.frozen
class Looking:
    """Moves away from one branch, whose prediction it looks at.

        guided = c + (s − 1)·(c − u)

    Source: arXiv:2207.12598, eq. 6.
    """

    scale: Any = number(3.3, help="guidance scale s; 1 is off")

    @hookimpl
    def build_branches(self, step):
        active = step.active(self.scale, neutral=1.0)
        return [*(self.branches(step) if active else []), Needs(outputs=active)]

    def branches(self, step):
        return [Branch("uncond", condition="negative", required=True)]

    @hookimpl
    def combine(self, step, predictions):
        return self.delta(step, predictions["cond"], predictions["uncond"])

    def delta(self, step, c, u):
        return (step.value(self.scale) - 1) * self.direction(step, c, u)

    def direction(self, step, c, u):
        return c - u


@attrs.frozen
class Correcting:
    """Gives the guided prediction g the spread of the base prediction.

        guided = φ·g·std(c)/std(g) + (1 − φ)·g

    Source: arXiv:2305.08891, eq. 15 and 16.
    """

    share: Any = number(0.5, ge=0, le=1, help="how much of the corrected prediction to use, φ; 0 is off")

    @hookimpl
    def build_branches(self, step):
        return [Needs(std="sample", outputs=step.active(self.share))]

    @hookimpl
    def postprocess(self, step, guided, reference):
        share = step.value(self.share)
        return Multiply(share * self.factor(step, guided, reference) + (1 - share))

    def factor(self, step, guided, reference):
        return ratio(reference.std(), step.std(guided))


METHODS = (Linear, Looking, Correcting)
