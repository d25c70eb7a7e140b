"""How samples of the plane differ from a mixture of Gaussians whose densities are known."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from guidance_core.models.gaussians import GaussianMixture
from guidance_core.models.intervals import Score, bootstrapped, mean, share
from guidance_core.models.scores import diversity

FAR = 0.001
"The share of data that counts as outliers."
DIRECTIONS, POINTS = 16, 256
"Of the sliced distance: the lines that samples are projected to, and the places where the exact distribution is taken."


def mixture_scores(data: GaussianMixture, modes: Tensor, samples: Tensor, label: Tensor) -> dict[str, Score]:
    """Score samples `[N, 2]`, asked to be of classes `[N]`, by the densities of the data.

    - class: the share that are most likely of the class asked for.
    - outliers: the share less likely, within their class, than all but a thousandth of the data.
    - coverage: how much of the data's weight the samples fill, mode by mode; 1 where each mode has its share.
    - likelihood: the mean log density within the class.
    - distance: from the data of the class, the Wasserstein distance of projections, averaged over directions.
    - diversity: the mean distance between two samples of one class.

    `modes` is the number of each component's mode, `[K]`. The last two and the first three are means over classes where
    a class has samples.
    """
    classes = sorted(set(data.labels.tolist()))
    each = torch.stack([data.log_density(samples, number) for number in classes], 1)
    density = data.log_density(samples, label)
    likely = torch.tensor(classes)[each.argmax(1)]
    return {
        "class": share(likely == label),
        "outliers": share(~(density >= _far(data)[label])),
        "coverage": coverage(data, modes, samples, label),
        "likelihood": mean(density),
        "distance": sliced_distance(data, samples, label),
        "diversity": diversity(samples.double(), label),
    }


@functools.cache
def _far(data: GaussianMixture) -> Tensor:
    """Return the log density below which a thousandth of the data of each class lies, by label."""
    generator, levels = torch.Generator().manual_seed(0), torch.zeros(int(data.labels.max()) + 1, dtype=torch.float64)
    for number in set(data.labels.tolist()):
        drawn = data.sample(20_000, number, generator, dtype=torch.float64)
        levels[number] = data.log_density(drawn, number).quantile(FAR)
    return levels


def coverage(data: GaussianMixture, modes: Tensor, samples: Tensor, label: Tensor) -> Score:
    """Return `Σ min(pₖ, wₖ)` over the modes of a class, its mean over classes.

    wₖ is the weight of mode k in the data of the class, and pₖ the mean probability that a sample belongs to it. One
    minus this is the total variation between the two.
    """
    parts = []
    for number in sorted(set(label.tolist())):
        inside = data.labels == number
        weights = data.weights[inside] / data.weights[inside].sum()
        offset = samples[label == number].double()[:, None] - data.means[inside]
        variance = data.stds[inside].square()
        joint = weights.log() - variance.log() - offset.square().sum(-1) / (2 * variance)
        names, mode = modes[inside].unique(return_inverse=True)  # type: ignore[no-untyped-call]
        into = torch.nn.functional.one_hot(mode, len(names)).double()
        parts.append((label == number, joint.softmax(1) @ into, weights @ into))

    def filled(drawn: Tensor) -> Tensor:
        total = drawn.new_zeros(len(drawn))
        for asked, belongs, weights in parts:
            chosen = drawn[:, asked]
            total += torch.minimum(chosen @ belongs / chosen.sum(1, keepdim=True), weights).sum(1)
        return total / len(parts)

    return bootstrapped(filled, len(samples))


def sliced_distance(data: GaussianMixture, samples: Tensor, label: Tensor) -> Score:
    """Return the 1-Wasserstein distance between projections of samples and of the data, `∫|F̂(t) − F(t)| dt`.

    The mean over directions, and over classes. F, of the projected mixture, is exact; the integral is a sum over the
    samples and `POINTS` places. It is in the units of the plane, and falls with the number of samples: compare equal
    numbers only.

    Source: Bonneel et al., Sliced and Radon Wasserstein barycenters of measures, JMIV 51 (2015).
    """
    parts = []
    for number in sorted(set(label.tolist())):
        inside = data.labels == number
        for turn in range(DIRECTIONS):
            angle = math.pi * (turn + 0.5) / DIRECTIONS
            direction = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
            means, stds = data.means[inside] @ direction, data.stds[inside]
            weights = data.weights[inside] / data.weights[inside].sum()
            order = (samples[label == number].double() @ direction).sort()
            low, high = (means - 6 * stds).min(), (means + 6 * stds).max()
            places = torch.cat((order.values, torch.linspace(float(low), float(high), POINTS, dtype=torch.float64)))
            places = places.sort().values
            middles, lengths = (places[1:] + places[:-1]) / 2, places.diff()
            below = torch.special.ndtr((middles[:, None] - means) / stds) @ weights
            parts.append((label == number, order.indices, torch.searchsorted(order.values, middles), below, lengths))

    def distance(drawn: Tensor) -> Tensor:
        total = drawn.new_zeros(len(drawn))
        for asked, order, before, below, lengths in parts:
            chosen = drawn[:, asked][:, order]
            summed = torch.nn.functional.pad(chosen.cumsum(1), (1, 0))
            total += ((summed / summed[:, -1:])[:, before] - below).abs() @ lengths
        return total / len(parts)

    return bootstrapped(distance, len(samples), least=0.0)
