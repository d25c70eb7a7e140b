"""Small methods, one for each thing that a plugin can say or see, with their formulas."""

from __future__ import annotations

import attrs
import torch

from guidance_core import (
    Amend,
    BlurredAttention,
    Branch,
    Multiply,
    Needs,
    SkipBlocks,
    Std,
    function,
    hookimpl,
    number,
    ratio,
    whole,
)


@attrs.frozen
class NoisedCondition:
    """Noise on the positive condition, less and less of it with sigma: the smallest method that edits inputs.

    y ← √γ·y + s·√(1 − γ)·n
    """

    scale: object = number(0.25, ge=0)
    low: float = number(0.2)
    high: float = number(0.8)

    @hookimpl
    def build_branches(self, step):
        gamma = min(max((self.high - step.sigma) / (self.high - self.low), 0.0), 1.0)
        return [] if gamma == 1.0 else [Amend(edit=Noised(gamma, step.value(self.scale)))]


@attrs.frozen
class Noised:
    """The edit: the same for the same parameters."""

    gamma: float
    scale: float

    def __call__(self, inputs, noise):
        text = inputs["text"]
        return {"text": self.gamma**0.5 * text + self.scale * (1 - self.gamma) ** 0.5 * noise(text, "text")}


@attrs.frozen
class Blurred:
    """Moves away from a pass that blurs attention in some blocks and skips others."""

    scale: object = number(3.0)
    sigma: float = number(10.0, gt=0)

    @hookimpl
    def build_branches(self, step):
        changes = (BlurredAttention((0, 1), sigma=self.sigma), SkipBlocks((2,)))
        return [Branch("blurred", perturbations=changes, strength=step.value(self.scale))]


@attrs.frozen
class FirstTokens:
    """A rescale whose statistics count the first tokens only."""

    count: int = whole(4)

    @hookimpl
    def build_branches(self, step):
        return [Needs(statistics=Std(first=self.count))]

    @hookimpl
    def postprocess(self, step, guided, reference):
        std = Std(first=self.count)
        return Multiply(ratio(reference.measure(std), step.measure(std, guided)))


@attrs.frozen
class Reflected:
    """What a hook can see of the step, put into a list that the test holds."""

    told: object = function()

    @hookimpl
    def build_branches(self, step):
        return [Needs(space="x0")]

    @hookimpl
    def postprocess(self, step, guided, reference):
        self.told(step, guided)
        return None


def text(rows=2, tokens=3, width=4, seed=0):
    return torch.randn(rows, tokens, width, generator=torch.Generator().manual_seed(seed))
