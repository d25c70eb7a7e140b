"""Mistakes about what lasts: memory that outlives the run, or that a failed step leaves behind."""

from __future__ import annotations

import math
from typing import Any

import attrs
import torch

from guidance_core import Branch, Needs, hookimpl, norm
from zoo.entry import broken
from zoo.sound import Linear, Looking

_momentum: dict[str, torch.Tensor] = {}
_since_the_start: dict[str, torch.Tensor] = {}
_scratch: dict[str, torch.Tensor] = {}
_planned: dict[str, Any] = {}
_calls = [0]


@broken("same-bits-again", "something outlives the run")
@attrs.frozen
class SharesItsMomentum(Looking):
    """Keeps its momentum in the module, where the next run finds it."""

    def direction(self, step, c, u):
        before = _momentum.get(f"{step.output} {tuple(c.shape)}", torch.zeros_like(c))
        d = _momentum[f"{step.output} {tuple(c.shape)}"] = c - u + 0.5 * before.to(c)
        return d


@broken("runs-apart", "Interleaved")
@attrs.frozen
class StartsAnewAtStepZero(Looking):
    """Keeps its momentum in the module and empties it at step 0, also under the feet of another run."""

    def direction(self, step, c, u):
        d = c - u
        if step.index > 0:
            d = d + 0.5 * _since_the_start[step.output]
        _since_the_start[step.output] = d
        return d


@broken("two-halves", "give another result", "gives another result")
@attrs.frozen
class GuidesEveryOtherCall(Looking):
    """Counts its calls in the module and is weaker in every second of three."""

    def direction(self, step, c, u):
        _calls[0] += 1
        return (c - u) * (0.5 if _calls[0] % 3 == 1 else 1.0)


@broken("threads", "thread")
@attrs.frozen
class ReusesABuffer(Looking):
    """Works in a buffer of the module, one for each shape."""

    def direction(self, step, c, u):
        buffer = _scratch.setdefault(f"{tuple(c.shape)} {c.dtype}", torch.empty_like(c))
        torch.sub(c, u, out=buffer)
        return buffer * torch.where(norm(buffer) > 1e6, 0.5, 1.0)


@broken("failed-step", "After a step that failed")
@attrs.frozen
class RemembersStepsThatFailed(Linear):
    """Appends to a list in its state, which a failed step does not take back."""

    def strength(self, step):
        planned = step.shared.setdefault("planned", [])
        planned.append(step.index)
        return super().strength(step) * 0.9 ** len(planned)


@broken("failed-step", "After a step that failed")
@attrs.frozen
class ChangesItsStateInPlace(Looking):
    """Adds to its momentum in the memory of the stored tensor, which a failed step does not take back."""

    def direction(self, step, c, u):
        momentum = step.state.setdefault("momentum", torch.zeros_like(c))
        return momentum.mul_(0.5).add_(c - u).clone()


@broken("second-evaluation", "KeyError")
@attrs.frozen
class HandsOverOnce(Looking):
    """Leaves word for each step where the first evaluation of the step takes it away."""

    @hookimpl
    def build_branches(self, step):
        if step.evaluation == 0:
            step.shared[step.index] = step.count - step.index
        return Looking.build_branches(self, step)

    def direction(self, step, c, u):
        step.shared.pop(step.index)
        return c - u


@broken("second-evaluation", "math domain error")
@attrs.frozen
class AssumesThatSigmaFalls(Looking):
    """Takes the root of how far the noise level fell, which rises again after an evaluation in between."""

    def direction(self, step, c, u):
        fallen = step.state.get("sigma", 1.0) - step.sigma
        step.state["sigma"] = step.sigma
        return (c - u) * (1 + math.sqrt(fallen))


@broken("plugin-unchanged", "state belongs in step.state")
@attrs.frozen
class FillsADictOfItsOwn(Looking):
    """Is frozen, but keeps its momentum in a dict that it holds."""

    memory: dict = attrs.field(factory=dict, init=False, eq=False, repr=False)

    def direction(self, step, c, u):
        d = c - u
        if step.index > 0:
            d = d + 0.5 * self.memory[step.output]
        self.memory[step.output] = d
        return d


@broken("scheduled-parameters", "is still what")
@attrs.frozen
class KeepsTheFirstValue(Looking):
    """Asks for the value of its scale at the first step and keeps it."""

    def delta(self, step, c, u):
        scale = step.state.setdefault("scale", step.value(self.scale))
        return (scale - 1) * (c - u)


@broken("scheduled-parameters", "acts otherwise")
@attrs.frozen
class TakesTheLastValuePlanned(Looking):
    """Leaves its scale in the module for later, when all steps were planned before the first is made."""

    @hookimpl
    def build_branches(self, step):
        _planned["scale"] = step.value(self.scale)
        return Looking.build_branches(self, step)

    def delta(self, step, c, u):
        return (_planned["scale"] - 1) * (c - u)


@broken("stable-branches", "give another pass another name")
@attrs.frozen
class ChangesWhatABranchIs(Linear):
    """Gives the model the step's index under one branch name, so that caches hold the wrong pass."""

    @hookimpl
    def build_branches(self, step):
        return [Branch("now", condition="negative", overrides={"index": step.index}, strength=self.strength(step))]


@broken("data-independent-plan", "for one sample and")
@attrs.frozen
class PlansByWhatItSaw(Looking):
    """Leaves its pass out where the last one differed much, as seen on this rank's sample."""

    @hookimpl
    def build_branches(self, step):
        if step.shared.get("largest", 0.0) > 50.0:
            return [Needs(outputs=())]
        return Looking.build_branches(self, step)

    def direction(self, step, c, u):
        step.shared["largest"] = float((c - u).abs().max())
        return c - u
