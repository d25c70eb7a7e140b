"""Mistakes in the formula: where it is neutral, how it rounds, what it takes for given."""

from __future__ import annotations

import math
import random
from typing import Any, ClassVar

import attrs
import torch

from guidance_core import Needs, hookimpl, inner, norm, number, std
from zoo.entry import broken
from zoo.sound import Correcting, Linear, Looking

_evaluations: list[int] = []


@broken("neutral", "cannot switch it off")
@attrs.frozen
class RunsItsPassAtScaleOne(Looking):
    """Asks for its pass whatever the scale is."""

    @hookimpl
    def build_branches(self, step):
        return [*self.branches(step), Needs()]


@broken("neutral", "combine is still called")
@attrs.frozen
class ActsWhereItIsNeutral(Looking):
    """Leaves its pass out where the scale is 1, but has its combine called all the same."""

    @hookimpl
    def build_branches(self, step):
        return [*(self.branches(step) if step.active(self.scale, neutral=1.0) else []), Needs()]

    @hookimpl
    def combine(self, step, predictions):
        return self.delta(step, predictions["cond"], predictions["uncond"]) if "uncond" in predictions else None


@broken("neutral", "it should run cond alone")
@attrs.frozen
class SaysThatTwoIsNeutral(Linear):
    """Declares a neutral scale that is not."""

    neutral: ClassVar = {"scale": 2.0}


@broken("neutral", "1.0000000000000002")
@attrs.frozen
class TakesNearlyOneForAnother(Looking):
    """Compares the scale with 1 exactly, so that one that is off by rounding runs a pass."""

    @hookimpl
    def build_branches(self, step):
        return [Needs(outputs=())] if step.value(self.scale) == 1.0 else [*self.branches(step), Needs()]


@broken("neutral", "not the base prediction")
@attrs.frozen
class RoundsWhereItIsNeutral(Linear):
    """Divides by a spread and multiplies by it again, where there is nothing to correct too."""

    neutral: ClassVar = {"scale": 1.0}

    @hookimpl
    def build_branches(self, step):
        return [*Linear.build_branches(self, step), Needs(std="sample")]

    @hookimpl
    def postprocess(self, step, guided, reference):
        return guided / (std(guided) + 1e-6) * (reference.std() + 1e-6)


@broken("zero-is-a-value", "not given")
@attrs.frozen
class TakesZeroForNotGiven(Linear):
    """Writes `scale or default`, so that a scale of 0 becomes the default."""

    def strength(self, step):
        return (step.value(self.scale) or 3.3) - 1


@broken("shift-equivariance", "does not move by it")
@attrs.frozen
class WearsOff(Linear):
    """Lets the strength fall with every step that the process ever planned."""

    def strength(self, step):
        _evaluations.append(step.index)
        return (step.value(self.scale) - 1) * 0.999 ** len(_evaluations)


@broken("space-invariance", "gets another result")
@attrs.frozen
class ConvertsAgain(Looking):
    """Asks for x0 and converts what a flow model predicts to x0 once more by hand."""

    @hookimpl
    def build_branches(self, step):
        active = step.active(self.scale, neutral=1.0)
        return [*(self.branches(step) if active else []), Needs(space="x0", outputs=active)]

    def direction(self, step, c, u):
        return step.sigma * (u - c) if step.prediction_type == "flow" else c - u


@broken("space-invariance", "gets another result")
@attrs.frozen
class KnowsTwoKindsOfModels(Linear):
    """Has a table of strengths by prediction type, which the other models miss."""

    def strength(self, step):
        return super().strength(step) * {"flow": 1.0, "epsilon": 1.0}.get(step.prediction_type, 0.5)


@broken("accumulation", "further from the same in float64")
@attrs.frozen
class AddsUpInHalf(Looking):
    """Computes with the eleven bits of float16 instead of float32."""

    def direction(self, step, c, u):
        return _in_half(c) - _in_half(u)


def _in_half(x):
    """Return what float16 would make of `x`, in the dtype of `x`; float64 is left as it is."""
    if x.dtype == torch.float64:
        return x
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp(torch.round(mantissa * 2**11) / 2**11, exponent)


@broken("accumulation", "makes tensors of bfloat16")
@attrs.frozen
class RoundsToBfloat16(Looking):
    """Rounds what it adds to bfloat16, whatever the model's dtype is."""

    def direction(self, step, c, u):
        return (c - u).bfloat16()


@broken("accumulation", "further from the same in float64")
@attrs.frozen
class WeighsInHalf(Looking):
    """Makes a tensor of its weight in float16, where it is another number."""

    def delta(self, step, c, u):
        weight = torch.as_tensor((step.value(self.scale) - 1) * (1 + step.sigma / 3))
        return _in_half(weight.to(c.dtype)) * (c - u)


@broken("accumulation", "further from the same in float64")
@attrs.frozen
class RoundsCoarserThanItsDtype(Looking):
    """Says that it rounds to a dtype, and keeps six bits of a dtype that has eight."""

    rounds_as_told: ClassVar[bool] = True

    def direction(self, step, c, u):
        coarse = (c - u).bfloat16().to(c.dtype)
        mantissa, exponent = torch.frexp(coarse)
        return coarse if c.dtype == torch.float64 else torch.ldexp(torch.round(mantissa * 8) / 8, exponent)


@broken("structure-and-dtype", "dtype")
@attrs.frozen
class AssumesFloat32(Looking):
    """Interpolates with a float32 weight, which float64 predictions do not take."""

    def direction(self, step, c, u):
        return torch.lerp(torch.zeros_like(c), c - u, torch.ones(c.shape, dtype=torch.float32, device=c.device))


@broken("structure-and-dtype", "must return a floating-point tensor of shape")
@attrs.frozen
class DropsDimensionsOfSizeOne(Looking):
    """Squeezes its result, so that a batch of one loses its dimension."""

    def direction(self, step, c, u):
        return (c - u).squeeze()


@broken("one-structure-as-another", "size of tensor")
@attrs.frozen
class AssumesOneOutput(Looking):
    """Keeps one momentum for all outputs, which have different shapes."""

    def direction(self, step, c, u):
        d = 0.5 * step.shared.get("direction", 0.0) + c - u
        step.shared["direction"] = d
        return d


@broken("finite", "not finite")
@attrs.frozen
class OverflowsForLargePredictions(Looking):
    """Computes a softmax without taking the largest value off first."""

    def direction(self, step, c, u):
        weight = torch.exp((c - u).abs())
        return (c - u) * weight / weight.flatten(1).sum(1).view(-1, *(1,) * (c.ndim - 1))


@broken("zero-variance", "not finite")
@attrs.frozen
class DividesByZeroSpread(Correcting):
    """Divides by the spread of the guided prediction, which may be 0."""

    def factor(self, step, guided, reference):
        return reference.std() / std(guided)


@broken("zero-norm", "not finite")
@attrs.frozen
class DividesByZeroNorm(Looking):
    """Projects on the base prediction, whose norm may be 0."""

    def direction(self, step, c, u):
        d = c - u
        return d - inner(d, c) / inner(c, c) * c


@broken("parallel-branches", "not finite")
@attrs.frozen
class DividesByZeroDifference(Looking):
    """Takes the direction of c − u, which has none where the branches predict the same."""

    def direction(self, step, c, u):
        d = c - u
        return norm(c) * d / norm(d)


@broken("finite-at-bounds", "'first': 0.0, 'second': 0.0")
@attrs.frozen
class WeighsByTwoThatMayBothBeZero(Looking):
    """Shares out its strength by two parameters, of which either may be 0, and forgets that both may."""

    first: Any = number(0.5, ge=0, help="weight of the difference; 0 is off")
    second: Any = number(0.5, ge=0, help="weight of the rest; 0 is off")

    def direction(self, step, c, u):
        size = 1 + torch.tanh(norm(c))
        first, second = step.value(self.first) * size, step.value(self.second) * size
        return first / (first + second) * (c - u)


@broken("finite-at-bounds", "'decay': 0.0")
@attrs.frozen
class DecaysByAnInfiniteRatio(Looking):
    """Weakens its strength by exp(−α‖c − u‖/‖u‖), which is 0 where u is 0, unless α is 0 as well."""

    decay: Any = number(8.0, ge=0, help="how fast it weakens, α; 0 is off")

    def direction(self, step, c, u):
        ratio = (norm(c - u) / norm(u)).nan_to_num(nan=0.0, posinf=math.inf)
        return torch.exp(-step.value(self.decay) * ratio) * (c - u)


@broken("same-bits-again", "another result")
@attrs.frozen
class JittersItsScale(Looking):
    """Jitters the strength with a number that no run can draw again."""

    def direction(self, step, c, u):
        return (c - u) * (1 + 0.01 * random.random())


@broken("same-bits-again", "global random generator")
@attrs.frozen
class DrawsFromTheGlobalGenerator(Looking):
    """Draws a direction that it only uses at some steps from the generator that all code shares."""

    def direction(self, step, c, u):
        noise = torch.randn_like(c)
        return c - u if step.sigma > 0.05 else c - u + 0.01 * noise
