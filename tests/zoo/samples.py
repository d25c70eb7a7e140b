"""Mistakes about the batch: samples that know of each other, and tensors that are given back or changed."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import attrs
import numpy
import torch

from guidance_core import hookimpl, std
from zoo.entry import broken
from zoo.sound import Correcting, Looking


@broken("batch-order", "in the order")
@attrs.frozen
class FavoursTheFirst(Looking):
    """Counts the samples of the batch and moves each a little less than the one before."""

    def direction(self, step, c, u):
        place = torch.arange(c.shape[0], device=c.device).view(-1, *(1,) * (c.ndim - 1))
        return (c - u) / (1 + place)


@broken("batch-mates", "in a batch of")
@attrs.frozen
class TakesTheSpreadOfTheBatch(Correcting):
    """Takes one standard deviation of the whole batch."""

    def factor(self, step, guided, reference):
        return reference.std() / (guided.std(correction=0) + 1e-3)


@broken("batch-mates", "in a batch of")
@attrs.frozen
class CentresTheBatch(Looking):
    """Takes the mean over the batch off the direction, meaning the mean of each sample."""

    def direction(self, step, c, u):
        return c - u - (c - u).mean()


@broken("pieces-equal-the-whole", "another result than in the whole")
@attrs.frozen
class TakesTheSpreadOfItsPiece(Correcting):
    """Takes the standard deviation of what is at hand, which is one piece of a split sequence."""

    def factor(self, step, guided, reference):
        return reference.std() / (std(guided) + 1e-3)


@broken("batch-mates", "mixes_samples")
@attrs.frozen
class SaysThatItMixesSamples(Looking):
    """Says that a sample's result depends on its batch, left over from an earlier version."""

    mixes_samples = {"scale": (3.3,)}  # noqa: RUF012


@broken("nan-stays-in-its-sample", "spread to another sample")
@attrs.frozen
class GivesUpOnAllSamples(Looking):
    """Drops the guidance of the whole batch where one value of it is not finite."""

    def direction(self, step, c, u):
        d = c - u
        return torch.where(torch.isfinite(d).all(), d, torch.zeros_like(d))


@broken("works", "--shape")
@attrs.frozen
class AssumesAnImage(Looking):
    """Takes every sample for an image of channels, height and width."""

    def direction(self, step, c, u):
        return (c - u) - (c - u).mean(dim=(-2, -1), keepdim=True).expand(-1, c.shape[1], c.shape[2], c.shape[3])


@broken("inputs-unchanged", "changes the prediction")
@attrs.frozen
class DimsInPlace(Correcting):
    """Dims the guided prediction in its own memory, which is the denoiser's where nothing was added to it."""

    @hookimpl
    def postprocess(self, step, guided, reference):
        return guided.mul_(1 - 0.5 * step.value(self.share))


@broken("inputs-unchanged", "of branch 'cond' in place")
@attrs.frozen
class ChangesThePrediction(Looking):
    """Subtracts in the memory of the prediction."""

    def direction(self, step, c, u):
        return c.sub_(u)


@broken("inputs-unchanged", "the sample in place")
@attrs.frozen
class ChangesTheSample(Looking):
    """Scales the sample in its own memory."""

    def direction(self, step, c, u):
        return c - u + 0.01 * step.sample.mul_(0.5)


@broken("results-stay", "changed an earlier step's result")
@attrs.frozen
class WritesOverItsResult(Correcting):
    """Returns a buffer that it keeps outside its state, and which the next step writes into."""

    buffers: ClassVar[dict[Any, torch.Tensor]] = {}

    @hookimpl
    def postprocess(self, step, guided, reference):
        buffer = self.buffers.setdefault((step.run_id, step.output), torch.empty_like(guided))
        share = step.value(self.share)
        return torch.mul(guided, share * self.factor(step, guided, reference) + (1 - share), out=buffer)


@broken("no-waiting", "reads a value off a tensor")
@attrs.frozen
class AsksForANumber(Looking):
    """Takes the largest difference as a Python number."""

    def direction(self, step, c, u):
        d = c - u
        return d / max(1.0, d[0].abs().max().item() / 1e6)


@broken("no-waiting", "reads a value off a tensor")
@attrs.frozen
class BranchesOnATensor(Looking):
    """Tests a tensor with `if`."""

    def direction(self, step, c, u):
        d = c - u
        if (d.abs() > 1e6).any():
            d = d.clamp(-1e6, 1e6)
        return d


@broken("no-graph-break", "does not compile as one graph")
@attrs.frozen
class LogsWhatItDoes(Looking):
    """Still has the line that its author looked for a mistake with."""

    def direction(self, step, c, u):
        d = c - u
        logging.getLogger(__name__).debug("direction of step %d: %s", step.index, tuple(d.shape))
        return d


@broken("any-device", "numpy")
@attrs.frozen
class GoesThroughNumpy(Looking):
    """Computes with NumPy, which has no tensors of other devices."""

    def direction(self, step, c, u):
        return torch.from_numpy(numpy.subtract(c.numpy(), u.numpy()))


@broken("any-device", "device")
@attrs.frozen
class MakesItsConstantOnTheCPU(Looking):
    """Makes a ramp of weights without saying on which device."""

    def direction(self, step, c, u):
        return (c - u) * torch.linspace(0.5, 1.0, c.shape[-1], dtype=c.dtype)


@broken("any-device", "same device")
@attrs.frozen
class GoesThroughTheSamples(Looking):
    """Weighs one sample after the other with a tensor that it makes on the CPU."""

    def direction(self, step, c, u):
        d = c - u
        return torch.stack([d[number] * torch.ones(d.shape[1:]) for number in range(len(d))])
