"""Scores as functions of weights, so that samples can be drawn anew; and differences of two stacks on equal noise."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TypeAlias

import attrs
import torch
from torch import Tensor

from guidance_core.models.letters_judge import load_letters_judge

Statistic: TypeAlias = Callable[[Tensor], Tensor]
"Maps weights `[D, N]` in float64, how often each of N samples counts, to D values `[D]`. Each row sums to N."
Z95, Z99 = 1.959963984540054, 2.5758293035489004
"Quantiles of the standard normal distribution, for intervals of 95 and 99 %."


@attrs.frozen
class Estimate:
    """A number and an interval of it."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def average(values: Tensor) -> Statistic:
    """Return the mean of values `[N]` as a statistic."""
    return lambda weights: weights @ values.double() / len(values)


def root_mean(values: Tensor) -> Statistic:
    """Return the root of the mean of values `[N]` as a statistic."""
    return lambda weights: (weights @ values.double() / len(values)).sqrt()


def frechet(features: Tensor) -> Statistic:
    """Return the Fréchet distance of features `[N, 64]` from those of real letters as a statistic; arXiv:1706.08500."""
    features = features.double()
    center, root, total = _real()

    def distance(weights: Tensor) -> Tensor:
        found = []
        for weight in weights:
            middle = weight @ features / len(features)
            rows = (features - middle) * (weight / (len(features) - 1)).sqrt()[:, None]
            spread = rows.square().sum()
            moved = rows @ root
            product = moved @ moved.T if len(moved) < moved.shape[1] else moved.T @ moved
            between = torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum()
            found.append((middle - center).square().sum() + spread + total - 2 * between)
        return torch.stack(found)

    return distance


@functools.cache
def _real() -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean of real letters' features, the root of their covariance, and its trace."""
    judge = load_letters_judge()
    covariance = judge.covariance.double()
    values, vectors = torch.linalg.eigh(covariance)
    return judge.mean.double(), (vectors * values.clamp(min=0).sqrt()) @ vectors.T, covariance.trace()


def spread(features: Tensor, group: Tensor) -> Statistic:
    """Return the mean distance of two samples of one group as a statistic; nan where no group has two."""
    same = (group[:, None] == group).double()
    apart = torch.cdist(features.double(), features.double()) * same

    def mean_distance(weights: Tensor) -> Tensor:
        pairs = (weights @ same * weights).sum(1) - weights.square().sum(1)  # a sample drawn twice is no pair
        return (weights @ apart * weights).sum(1) / pairs

    return mean_distance


def energy_distance(points: Tensor, real: Tensor, group: Tensor) -> Statistic:
    """Return the energy distance between points `[N, 2]` and real ones, class by class, as a statistic.

    2·E‖x − y‖ − E‖x − x′‖ − E‖y − y′‖, a mean over the classes (Székely and Rizzo, 2013). The real
    ones stay as they are.
    """
    points, real = points.double(), real.double()
    same = (group[:, None] == group).double() / (group[:, None] == group).sum(1)
    across = (torch.cdist(points, real) * same).sum(1)
    inside = torch.cdist(points, points) * same
    theirs = (torch.cdist(real, real) * same).sum(1).mean()

    def distance(weights: Tensor) -> Tensor:
        count = len(points)
        return 2 * weights @ across / count - (weights @ inside * weights).sum(1) / count - theirs

    return distance


def resampled(statistic: Statistic, count: int, draws: int) -> Tensor:
    """Return a statistic of N samples, and what it is when N of them are drawn anew, `[1 + draws]` in float64.

    The draws are the same for every statistic of N samples.
    """
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(count, (draws, count), generator=generator)
    weights = torch.zeros(1 + draws, count, dtype=torch.float64)
    weights[0] = 1
    weights[1:].scatter_add_(1, chosen, torch.ones_like(chosen).double())
    return statistic(weights)


def estimate(values: Tensor) -> Estimate:
    """Return a statistic and its 95 % interval, two standard deviations under the bootstrap, of `resampled` values."""
    return _around(values, Z95)


def difference(ours: Tensor, theirs: Tensor) -> Estimate:
    """Return how much larger a statistic is for one stack than for another, and its 99 % interval.

    The samples of both start from the same noise and are drawn anew together, so that what both share cancels.

    Args:
        ours: of the one, what `resampled` returns.
        theirs: of the other, of as many samples.
    """
    return _around(ours - theirs, Z99)


def share(hits: Tensor) -> Estimate:
    """Return the share of samples that are hits, `[N]` of 0 and 1, with Wilson's 95 % interval."""
    count, part = len(hits), float(hits.mean())
    middle = (part + Z95**2 / (2 * count)) / (1 + Z95**2 / count)
    half = Z95 * math.sqrt(part * (1 - part) / count + Z95**2 / (4 * count**2)) / (1 + Z95**2 / count)
    return Estimate(part, max(middle - half, 0.0), min(middle + half, 1.0))


def _around(values: Tensor, z: float) -> Estimate:
    value, drawn = float(values[0]), values[1:][values[1:].isfinite()]
    half = z * float(drawn.std()) if len(drawn) > 1 else math.nan
    return Estimate(value, value - half, value + half)
