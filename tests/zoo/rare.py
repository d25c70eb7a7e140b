"""Mistakes that show now and then: at late steps, in second evaluations, in large samples, batches or numbers."""

from __future__ import annotations

from typing import Any

import attrs
import torch

from guidance_core import Branch, ConfigurationError, Needs, SkipBlocks, hookimpl, norm, number
from zoo.entry import broken
from zoo.sound import Linear, Looking


@broken("batch-mates", "than alone")
@attrs.frozen
class BoundsTheWholeBatch:
    """Wraps all deltas and bounds the norm of the batch instead of that of each sample."""

    bound: Any = number(1.5, ge=0.01, help="the longest delta, m")

    @hookimpl(wrapper=True)
    def combine(self, step, predictions):
        delta = yield
        return None if delta is None else delta * (step.value(self.bound) / delta.norm()).clamp(max=1.0)


@broken("batch-mates", "than alone")
@attrs.frozen
class NormalizesTheBatchLateInTheRun(Looking):
    """Takes the norm of the batch from the tenth step on."""

    def direction(self, step, c, u):
        d = c - u
        return d if step.index < 10 else d / d.norm() * norm(c)


@broken("batch-mates", "than alone")
@attrs.frozen
class ClampsLargeSamplesTogether(Looking):
    """Clamps large samples by the largest value of the batch, to save a reduction."""

    def direction(self, step, c, u):
        d = c - u
        each = d.abs().flatten(1).amax(1).view(-1, *(1,) * (d.ndim - 1))
        top = 0.9 * (each if d.numel() <= 4096 else d.abs().amax())
        return d.clamp(-top, top)


@broken("batch-mates", "than alone")
@attrs.frozen
class AveragesLargeBatches(Looking):
    """Takes one mean norm for batches of more than four."""

    def direction(self, step, c, u):
        d = c - u
        return d * (norm(c).mean() / norm(c)) if len(d) > 4 else d


@broken("finite", "division by zero")
@attrs.frozen
class DividesByTheSignal(Looking):
    """Weighs by σ/(1 − σ), which a run from pure noise does not survive."""

    def direction(self, step, c, u):
        return step.sigma / (1 - step.sigma) * (c - u)


@broken("works", "out of range")
@attrs.frozen
class KnowsTwoOutputs(Looking):
    """Looks the weight of an output up by its place, for two places."""

    def direction(self, step, c, u):
        return (1.0, 0.5)[step.outputs.index(step.output)] * (c - u)


@broken("stable-branches", "give another pass another name")
@attrs.frozen
class SkipsOtherBlocksAtTheEnd(Linear):
    """Skips other blocks in the last tenth of the steps, under the same name."""

    @hookimpl
    def build_branches(self, step):
        blocks = (7, 8) if step.fraction < 0.9 else (9,)
        return [Branch("skipped", perturbations=(SkipBlocks(blocks),), strength=step.value(self.scale) - 1)]


@broken("stable-branches", "give another pass another name")
@attrs.frozen
class SkipsOtherBlocksTheSecondTime(Linear):
    """Skips other blocks in the second evaluation of a step, under the same name."""

    @hookimpl
    def build_branches(self, step):
        blocks = (9,) if step.evaluation else (7, 8)
        return [Branch("skipped", perturbations=(SkipBlocks(blocks),), strength=step.value(self.scale) - 1)]


@broken("bad-parameters", "every=nan")
@attrs.frozen
class CountsToNaN(Linear):
    """Guides at every n-th step, and takes NaN for an n."""

    every: int = attrs.field(default=2, metadata={"help": "guide at every n-th step, n"})

    @every.validator
    def _is_a_number(self, _, value):
        if not isinstance(value, (int, float)):
            raise ConfigurationError(f"every must be a number; got {value!r}.")

    @hookimpl
    def build_branches(self, step):
        if self.every and step.index % self.every:
            return []
        return [Branch("uncond", condition="negative", strength=step.value(self.scale) - 1)]


@broken("failed-step", "another result")
@attrs.frozen
class ChangesItsStateTheSecondTime(Looking):
    """Updates its momentum in place in the second evaluation of a step."""

    def direction(self, step, c, u):
        d = c - u
        if "momentum" not in step.state:
            step.state["momentum"] = d
        elif step.evaluation:
            step.state["momentum"].mul_(0.5).add_(d, alpha=0.5)
        else:
            step.state["momentum"] = 0.5 * step.state["momentum"] + 0.5 * d
        return step.state["momentum"].clone()


_DIRECTIONS: dict[Any, torch.Tensor] = {}


@broken("plugin-unchanged", "_DIRECTIONS")
@attrs.frozen
class RemembersDirectionsInItsModule(Looking):
    """Keeps the direction of each step in a dict of the module, which no run ever empties."""

    def direction(self, step, c, u):
        return _DIRECTIONS.setdefault((step.run_id, step.index, step.evaluation, step.output), c - u)


@broken("no-waiting", "reads a value off a tensor")
@attrs.frozen
class ReadsWhilePlanning(Looking):
    """Looks at the largest difference of the last step when it plans the next."""

    @hookimpl
    def build_branches(self, step):
        if "largest" in step.shared and float(step.shared["largest"]) > 1e30:
            raise ConfigurationError("the run has diverged.")
        active = step.active(self.scale, neutral=1.0)
        if not active:
            return [Needs(outputs=())]
        return [Branch("uncond", condition="negative", required=True), Needs(outputs=active)]

    def direction(self, step, c, u):
        step.shared["largest"] = (c - u).abs().amax()
        return c - u


@broken("any-device", "copied to the CPU")
@attrs.frozen
class GoesThroughTheCPU(Looking):
    """Takes the largest value of each sample on the CPU."""

    def direction(self, step, c, u):
        d = c - u
        top = 0.9 * d.abs().flatten(1).to("cpu").amax(1).to(d.device).view(-1, *(1,) * (d.ndim - 1))
        return d.clamp(-top, top)


@broken("same-bits-again", "seeds it")
@attrs.frozen
class SeedsTheGlobalGenerator(Looking):
    """Seeds the generator that all others draw from too, so as to draw the same in every run."""

    def direction(self, step, c, u):
        torch.manual_seed(step.index)
        return (c - u) * (1 + 0.01 * torch.randn(c.shape[1:]).to(c))


@broken("parameters-count", "only_cost")
@attrs.frozen
class SaysThatItsScaleCostsOnly(Linear):
    """Declares that its scale changes what it costs, and nothing else."""

    only_cost = ("scale",)
