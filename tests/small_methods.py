"""Small methods, one for each thing that a plugin can say or see, with their formulas."""

from __future__ import annotations

import attrs
import torch

from guidance_core import (
    Amend,
    Branch,
    Multiply,
    Needs,
    Perturbation,
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
    """Noise on the positive condition, less and less of it. Source: CADS, arXiv:2310.17347, eq. 5.

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


@attrs.frozen(repr=False)
class NormalizedAttention(Perturbation):
    """Attention to the negative text inside the positive pass. Source: NAG, arXiv:2505.21179, eq. 7 to 10."""

    scale: float = 5.0
    acts_on = "cross-attention"


@attrs.frozen
class Negated:
    """A negative inside the positive pass, which costs no pass more."""

    scale: float = number(5.0)

    @hookimpl
    def build_branches(self, step):
        return [Amend(perturbations=(NormalizedAttention(scale=self.scale),), also=("negative",))]


@attrs.frozen(repr=False)
class BlurredAttention(Perturbation):
    """Self-attention with blurred queries. Source: SEG, arXiv:2408.00760."""

    width: float = 10.0


@attrs.frozen
class Blurred:
    """Moves away from a pass that blurs attention in some blocks and skips others."""

    scale: object = number(3.0)
    width: float = number(10.0, gt=0)

    @hookimpl
    def build_branches(self, step):
        changes = (BlurredAttention((0, 1), width=self.width), SkipBlocks((2,)))
        return [Branch("blurred", perturbations=changes, strength=step.value(self.scale))]


@attrs.frozen
class Renoised:
    """CFG++ with Euler or DDIM, which is CFG with a scale of its own. Source: arXiv:2406.08070, Alg. 1.

    guided = u + λ·α′σ/(α′σ − ασ′)·(c − u)            α′, σ′ of the next step
    """

    weight: float = number(0.6, ge=0, le=1)

    @hookimpl
    def build_branches(self, step):
        moved = step.next_alpha * step.sigma
        scale = self.weight * moved / (moved - step.alpha * step.next_sigma)
        return [Branch("uncond", condition="negative", strength=scale - 1)]


@attrs.frozen
class Classified:
    """The gradient of a loss of the x0 estimate. Source: universal guidance, arXiv:2302.07121, eq. 5.

    ε ← ε + w·σ·∇ₓ loss(x0(x))
    """

    loss: object = function()
    weight: object = number(1.0)

    @hookimpl
    def build_branches(self, step):
        return [Needs(space="x0", gradient=True)]

    @hookimpl
    def combine(self, step, predictions):
        # In x0 space, a change of ε by d is one of x0 by -(σ/α)·d.
        gradient = step.gradient(self.loss(predictions["cond"]))
        return -(step.sigma / step.alpha) * step.value(self.weight) * step.sigma * gradient


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
