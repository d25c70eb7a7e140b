"""Scores with 95 % intervals: Wilson's for shares, the bootstrap's for everything else."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import attrs
import torch
from torch import Tensor

Z = 1.959963984540054
"The 97.5 % quantile of the standard normal distribution."
DRAWS = 500
"How often the bootstrap draws the samples anew; its seed is always the same."
AT_ONCE = 4_000_000
"About how many weights are held at a time."

Statistic: TypeAlias = Callable[[Tensor], Tensor]
"""Maps weights `[D, N]` in float64, how often each of N samples counts, to D values `[D]`. Each row sums to N."""


@attrs.frozen
class Score:
    """A score and its 95 % interval. Without samples all three are nan, with one the ends may be."""

    value: float
    low: float
    high: float

    @property
    def is_known(self) -> bool:
        """Whether there is a value."""
        return not math.isnan(self.value)

    @property
    def has_interval(self) -> bool:
        """Whether there were enough samples for an interval."""
        return not math.isnan(self.low)

    def written(self, percent: bool = False, places: int = 1) -> str:
        """Return it as people read it, such as `93.8 % [79.9, 98.3]`; a dash where it is unknown.

        `places` are the decimals of a percentage.
        """
        if not self.is_known:
            return "–"
        if percent:
            value, low, high = (f"{100 * each:.{places}f}" for each in (self.value, self.low, self.high))
            value += " %"
        else:
            value, low, high = (plainly(each) for each in (self.value, self.low, self.high))
        return value if not self.has_interval else f"{value} [{low}, {high}]"


def plainly(number: float, digits: int = 3) -> str:
    """Return a number with some significant digits, and without an exponent where it is large."""
    return f"{number:.{digits}g}" if abs(number) < 10**digits else f"{number:.0f}"


UNKNOWN = Score(math.nan, math.nan, math.nan)
"The score of too few samples."


def share(hits: Tensor) -> Score:
    """Return the share of samples that are hits, with Wilson's interval.

        (p̂ + z²/2N ± z·√(p̂(1 − p̂)/N + z²/4N²)) / (1 + z²/N)

    It stays within [0, 1] and has a length where all samples are hits, or none.

    Args:
        hits: bools, `[N]`.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    count = len(hits)
    if count == 0:
        return UNKNOWN
    found = int(hits.sum())
    part = found / count
    middle = part + Z**2 / (2 * count)
    half = Z * math.sqrt(part * (1 - part) / count + Z**2 / (4 * count**2))
    whole = 1 + Z**2 / count
    # At the ends the two terms are equal, up to their rounding.
    low = 0.0 if found == 0 else (middle - half) / whole
    return Score(part, low, 1.0 if found == count else (middle + half) / whole)


def mean(values: Tensor) -> Score:
    """Return the mean of values `[N]` with its bootstrap interval."""
    values = values.double()
    return bootstrapped(lambda weights: weights @ values / len(values), len(values))


def bootstrapped(statistic: Statistic, count: int, least: float = -math.inf, draws: int = DRAWS) -> Score:
    """Return a statistic of samples with its percentile interval under the bootstrap.

    The interval is moved by the mean difference between drawn samples and the given ones: a distance or a spread of few
    samples is biased, and that of the drawn ones twice.

    Args:
        statistic: maps weights of the samples to values.
        count: number of samples, N.
        least: below which the statistic cannot lie.
        draws: how often to draw N of the N samples.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), sections 10 and 13.
    """
    if count == 0:
        return UNKNOWN
    value = float(statistic(torch.ones(1, count, dtype=torch.float64)))
    if count == 1 or math.isnan(value):
        return Score(value, math.nan, math.nan)
    generator = torch.Generator().manual_seed(0)
    found, left = [], draws
    while left > 0:
        rows = min(left, max(1, AT_ONCE // count))
        chosen = torch.randint(count, (rows, count), generator=generator)
        once = torch.ones(rows, count, dtype=torch.float64)
        found.append(statistic(torch.zeros_like(once).scatter_add_(1, chosen, once)))
        left -= rows
    values = torch.cat(found)
    values = values[~values.isnan()]  # draws in which no group has two samples
    if len(values) == 0:
        return Score(value, math.nan, math.nan)
    low, high = values.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    bias = float(values.mean()) - value
    return Score(value, max(low - bias, least), max(high - bias, least))
