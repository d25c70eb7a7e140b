"""Scores with 95 % intervals: Wilson's for shares, the bootstrap's for everything else; and how two of them differ."""

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
    hits: Tensor | None = attrs.field(default=None, eq=False, repr=False, kw_only=True)
    "Of a share: which samples are hits, bools `[N]`."
    drawn: Tensor | None = attrs.field(default=None, eq=False, repr=False, kw_only=True)
    "Of anything else: its values under the bootstrap, `[D]` in float64, drawn alike for equal numbers of samples."

    @property
    def is_known(self) -> bool:
        """Whether there is a value."""
        return not math.isnan(self.value)

    @property
    def has_interval(self) -> bool:
        """Whether there were enough samples for an interval."""
        return not math.isnan(self.low)

    def written(self, percent: bool = False, places: int = 1, *, signed: bool = False) -> str:
        """Return it as people read it, such as `93.8 % [79.9, 98.3]`; a dash where it is unknown.

        `places` are the decimals of a percentage. A difference is `signed`: `+3.1 % [-2.0, 8.2]`.
        """
        if not self.is_known:
            return "–"
        if percent:
            value, low, high = (f"{100 * each:.{places}f}" for each in (self.value, self.low, self.high))
            value += " %"
        else:
            value, low, high = (plainly(each) for each in (self.value, self.low, self.high))
        value = f"+{value}" if signed and self.value > 0 else value
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
    return Score(part, low, 1.0 if found == count else (middle + half) / whole, hits=hits)


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
    return attrs.evolve(_around(value, values, least), drawn=values)


def difference(ours: Score, theirs: Score) -> Score:
    """Return how much larger a score is than another one whose samples start from the same noise, with its interval.

    Samples are compared in pairs, so that what both scores share cancels. Of shares, Newcombe's interval joins Wilson's
    of both by the correlation of their hits; it has a length where all pairs are equal. Others take the bootstrap's,
    with both drawn alike. Without equal numbers of samples there is no interval.

    Source: Newcombe, Improved confidence intervals for the difference between binomial proportions based on paired
    data, Statistics in Medicine 17 (1998), method 10.
    """
    value = ours.value - theirs.value
    if ours.hits is not None and theirs.hits is not None and len(ours.hits) == len(theirs.hits):
        shared = _correlation(ours.hits, theirs.hits)
        down, up = ours.value - ours.low, ours.high - ours.value
        their_down, their_up = theirs.value - theirs.low, theirs.high - theirs.value
        below = down**2 - 2 * shared * down * their_up + their_up**2
        above = up**2 - 2 * shared * up * their_down + their_down**2
        return Score(value, value - math.sqrt(max(below, 0.0)), value + math.sqrt(max(above, 0.0)))
    if ours.drawn is not None and theirs.drawn is not None and len(ours.drawn) == len(theirs.drawn):
        return _around(value, ours.drawn - theirs.drawn)
    return Score(value, math.nan, math.nan)


def _correlation(ours: Tensor, theirs: Tensor) -> float:
    """Return φ of two lists of hits, corrected for continuity; 0 where one of them has no or only hits."""
    both, neither = int((ours & theirs).sum()), int((~ours & ~theirs).sum())
    mine, other = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
    scale = math.sqrt((both + mine) * (neither + other) * (both + other) * (neither + mine))
    apart = float(both * neither - mine * other)
    if apart > 0:
        apart = max(apart - len(ours) / 2, 0.0)
    return apart / scale if scale else 0.0


def _around(value: float, drawn: Tensor, least: float = -math.inf) -> Score:
    """Return a value with the percentile interval of what was drawn, moved by the drawn ones' bias."""
    drawn = drawn[~drawn.isnan()]  # draws in which no group has two samples
    if len(drawn) == 0:
        return Score(value, math.nan, math.nan)
    low, high = drawn.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    bias = float(drawn.mean()) - value
    return Score(value, max(low - bias, least), max(high - bias, least))
