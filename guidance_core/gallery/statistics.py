"""Scores as functions of weights, so that samples can be drawn anew; and differences of two stacks on equal noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from guidance_core.models.intervals import Score, Statistic, Z

Z99 = 2.5758293035489004
"The 99.5 % quantile of the standard normal distribution, for intervals of 99 %."


def excludes_zero(found: Score) -> bool:
    """Whether the interval lies on one side of 0."""
    return found.low > 0 or found.high < 0


def average(values: Tensor) -> Statistic:
    """Return the mean of values `[N]` as a statistic."""
    return lambda weights: weights @ values.double() / len(values)


def root_mean(values: Tensor) -> Statistic:
    """Return the root of the mean of values `[N]` as a statistic."""
    return lambda weights: (weights @ values.double() / len(values)).sqrt()


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


def estimate(values: Tensor) -> Score:
    """Return a statistic and its 95 % interval, two standard deviations under the bootstrap, of `resampled` values."""
    return _around(values, Z)


def difference(ours: Tensor, theirs: Tensor) -> Score:
    """Return how much larger a statistic is for one stack than for another, and its 99 % interval.

    The samples of both start from the same noise and are drawn anew together, so that what both share cancels.

    Args:
        ours: of the one, what `resampled` returns.
        theirs: of the other, of as many samples.
    """
    return _around(ours - theirs, Z99)


def _around(values: Tensor, z: float) -> Score:
    value, drawn = float(values[0]), values[1:][values[1:].isfinite()]
    half = z * float(drawn.std()) if len(drawn) > 1 else math.nan
    return Score(value, value - half, value + half)
