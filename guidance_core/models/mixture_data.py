"""The data of the mixture picture: two classes of the plane, each a tree of thin branches, and models that blur it.

The branches of the two trees reach between each other. A model that has learned them imperfectly makes samples that
lie between the branches, as images that are of no kind; guidance is to prevent that, and may cut branches off.
"""

from __future__ import annotations

import functools
import math

import attrs
import torch
from torch import Tensor

from guidance_core.models.gaussians import GaussianMixture

CLASSES = 2
BLUR = 0.07
"How far the model that is guided blurs the data: the standard deviation of what it adds."
WEAK_BLUR = 0.2
"How far the weaker one does."

DEPTH = 4
"How often a branch forks, the trunk included."
BEADS = 5
"Components along a branch."
SHRINK = 0.72
"Length of a branch beside the one it grows from."
FORK = 0.62
"Angle, in radians, between a branch and the one it grows from."


@functools.cache
def tree_mixture() -> GaussianMixture:
    """Return two classes, each a tree whose branches are rows of Gaussians, thinner and lighter towards the tips.

    Source: in the manner of Karras et al., arXiv:2406.02507, appendix D.
    """
    means: list[tuple[float, float]] = []
    stds: list[float] = []
    weights: list[float] = []
    labels: list[int] = []

    def grow(label: int, x: float, y: float, angle: float, length: float, depth: int) -> None:
        for bead in range(BEADS):
            part = (bead + 0.5) / BEADS
            means.append((x + part * length * math.cos(angle), y + part * length * math.sin(angle)))
            stds.append(0.055 * 0.8**depth)
            weights.append(length * 0.6**depth)
            labels.append(label)
        if depth + 1 < DEPTH:
            x, y = x + length * math.cos(angle), y + length * math.sin(angle)
            for turn, shorter in ((-FORK, SHRINK), (FORK * 0.9, SHRINK * 0.95)):
                grow(label, x, y, angle + turn, shorter * length, depth + 1)

    grow(0, -0.12, -1.1, 0.5 * math.pi + 0.45, 0.85, 0)
    grow(1, 0.12, -1.1, 0.5 * math.pi - 0.45, 0.85, 0)
    return GaussianMixture(means, stds, weights, labels)


def branches(mixture: GaussianMixture) -> Tensor:
    """Return the number of the branch that each component of `tree_mixture()` lies on, `[K]`."""
    return torch.arange(len(mixture.stds)) // BEADS


def blurred(mixture: GaussianMixture, std: float) -> GaussianMixture:
    """Return the mixture of samples with Gaussian noise of a standard deviation, as a limited model learns it."""
    stds: Tensor = (mixture.stds**2 + std**2).sqrt()
    return attrs.evolve(mixture, stds=stds)
