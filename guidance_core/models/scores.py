"""Scores of samples: what guidance gains, and what it costs, each with a 95 % interval."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from guidance_core.models.intervals import UNKNOWN, Score, Statistic, bootstrapped, mean

OVER = 0.1
"How far outside [-1, 1] a value counts as saturated."


def frechet_distance(features: Tensor, center: Tensor, covariance: Tensor) -> Score:
    """Return the Fréchet distance between samples and real ones, as normal distributions of their features.

        ‖m − μ‖² + tr(S + Σ − 2·(Σ^½·S·Σ^½)^½)

    It falls with the number of samples, so compare equal numbers only. It is unknown for fewer than two.

    Args:
        features: of the samples, `[N, F]`.
        center: μ, the mean of the real ones, `[F]`.
        covariance: Σ of the real ones, `[F, F]`.

    Source: Heusel et al., arXiv:1706.08500.
    """
    if len(features) < 2:
        return UNKNOWN
    return bootstrapped(frechet(features, center, covariance), len(features), least=0.0, draws=200)


def frechet(features: Tensor, center: Tensor, covariance: Tensor) -> Statistic:
    """Return what `frechet_distance` measures as a statistic of weighted samples."""
    count = len(features)
    features, center, covariance = features.double(), center.double(), covariance.double()
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    total = covariance.trace()

    def distance(weights: Tensor) -> Tensor:
        middle = weights @ features / count
        spreads = []
        for weight, each in zip(weights, middle, strict=True):
            kept = weight > 0
            offset = (features[kept] - each) * weight[kept, None].sqrt() / (count - 1) ** 0.5
            spreads.append((offset.square().sum(), _root_trace(offset @ root)))
        spread, between = (torch.stack(part) for part in zip(*spreads, strict=True))
        return (middle - center).square().sum(1) + spread + total - 2 * between

    return distance


def _root_trace(rows: Tensor) -> Tensor:
    """Return tr((rowsᵀ·rows)^½), from the smaller of the two products."""
    product = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    roots: Tensor = torch.linalg.eigvalsh(product).clamp(min=0).sqrt()
    return roots.sum()


def diversity(features: Tensor, group: Tensor) -> Score:
    """Return the mean distance between two samples of one group, in their features; unknown where no group has two.

    Args:
        features: of the samples, `[N, F]`.
        group: the number of each sample's group, `[N]`.
    """
    return bootstrapped(mean_distance(features, group), len(features), least=0.0)


def mean_distance(features: Tensor, group: Tensor) -> Statistic:
    """Return what `diversity` measures as a statistic of weighted samples; nan where no group has two."""
    members = [(group == each).nonzero().flatten() for each in set(group.tolist())]
    apart = [torch.cdist(features[each], features[each]).double() for each in members]

    def spread(weights: Tensor) -> Tensor:
        distance, pairs = weights.new_zeros(len(weights)), weights.new_zeros(len(weights))
        for each, distances in zip(members, apart, strict=True):
            inside = weights[:, each]
            distance += (inside @ distances * inside).sum(1)
            pairs += inside.sum(1).square() - inside.square().sum(1)  # a sample drawn twice is not a pair
        return distance / pairs

    return spread


def saturation(images: Tensor) -> Score:
    """Return the share of values more than 0.1 outside [-1, 1], with an interval over images `[N, ...]`."""
    return mean((images.abs() > 1 + OVER).double().flatten(1).mean(1))


def sharpness(images: Tensor) -> Score:
    """Return how much pixels differ from their neighbours, once values are clipped to [-1, 1].

    The root mean square of the Laplacian.

    Args:
        images: `[N, 1, H, W]`.
    """
    kernel = images.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    squares = F.conv2d(images.clamp(-1, 1), kernel[None, None]).double().square().flatten(1).mean(1)
    return bootstrapped(lambda weights: (weights @ squares / len(squares)).sqrt(), len(squares), least=0.0)
