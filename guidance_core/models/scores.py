"""Scores of pictures: what a guided picture gains, and what it pays for it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

OVER = 0.1
"How far outside [-1, 1] a value counts as saturated."


def frechet_distance(features: Tensor, mean: Tensor, covariance: Tensor) -> float:
    """Return the Fréchet distance between pictures and real ones, as normal distributions of their features.

        ‖m − μ‖² + tr(S + Σ − 2·(Σ^½·S·Σ^½)^½)

    It falls with the number of pictures, so compare equal numbers only.

    Args:
        features: of the pictures, `[N, F]`, at least two.
        mean: μ of the real ones, `[F]`.
        covariance: Σ of the real ones, `[F, F]`.

    Source: Heusel et al., arXiv:1706.08500.
    """
    features, mean, covariance = features.double(), mean.double(), covariance.double()
    spread = features.T.cov()
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    between = torch.linalg.eigvalsh(root @ spread @ root).clamp(min=0).sqrt().sum()
    apart = (features.mean(0) - mean).square().sum()
    return float(apart + spread.trace() + covariance.trace() - 2 * between)


def diversity(features: Tensor, group: Tensor) -> float:
    """Return the mean distance between two pictures of one group, in their features; 0 where no group has two.

    Args:
        features: of the pictures, `[N, F]`.
        group: the number of each picture's group, `[N]`.
    """
    pairs = (group[:, None] == group).triu(1)
    distances = torch.cdist(features, features)[pairs]
    return float(distances.mean()) if len(distances) else 0.0


def saturation(images: Tensor) -> float:
    """Return the share of values more than 0.1 outside [-1, 1]."""
    return float((images.abs() > 1 + OVER).float().mean())


def sharpness(images: Tensor) -> float:
    """Return how much pixels differ from their neighbours, once values are clipped to [-1, 1].

    The root mean square of the Laplacian.

    Args:
        images: `[N, 1, H, W]`.
    """
    kernel = images.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    return float(F.conv2d(images.clamp(-1, 1), kernel[None, None]).square().mean().sqrt())
