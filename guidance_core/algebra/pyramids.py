"""Laplacian pyramids: a plane as a sum of bands, from fine details to what is left when they are blurred away.

    G₀ = x,   Gₖ₊₁ = down(Gₖ),   bandₖ = Gₖ − up(Gₖ₊₁),   the last band is the last G

`down` blurs with [1, 4, 6, 4, 1]/16 along rows and columns, mirrored at the edges, and averages 2 by 2; `up`
interpolates linearly between the centres of the elements and blurs. Planes whose sides cannot be halved often enough,
or neither of which is a power of two, are mirrored to the next powers of two. That is the construction of kornia, which
other libraries use.

The sums are written out, since a convolution may calculate in TF32 or choose its algorithm by the size of the batch.

Source: Burt & Adelson, "The Laplacian Pyramid as a Compact Image Code", 1983.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from guidance_core.errors import ConfigurationError

REACH = 2
"How far a blur sees."


def bands(x: Tensor, count: int) -> list[Tensor]:
    """Return the bands of planes `[N, M, H, W]`, from the highest frequencies to the lowest.

    The first band has the size of the mirrored planes, and each further band has half the sides of the one before.

    Raises:
        ConfigurationError: the planes are too small for so many bands.
    """
    levels = _levels(x, count)
    return [fine - _up(coarse) for fine, coarse in itertools.pairwise(levels)] + levels[-1:]


def collapsed(given: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Return the planes `[N, M, height, width]` that have these bands."""
    total = given[-1]
    for band in reversed(given[:-1]):
        total = _up(total).add_(band)
    return total[..., :height, :width]


def reweighted(x: Tensor, weights: Sequence[float]) -> Tensor:
    """Return planes `[N, M, H, W]` with each band multiplied by its weight, without computing the bands.

        Σ wₖ·bandₖ = w₀·G₀ + Σ (wₖ − wₖ₋₁)·upᵏ(Gₖ)

    Args:
        x: the planes.
        weights: the weight of each band, from the highest frequencies to the lowest.

    Raises:
        ConfigurationError: the planes are too small for so many bands.
    """
    check_room(x, len(weights))
    count = max([1, *(k + 1 for k in range(1, len(weights)) if weights[k] != weights[k - 1])])
    if count == 1:
        return weights[0] * x
    levels = _levels(x, count, of=len(weights))
    total = (weights[count - 1] - weights[count - 2]) * levels[count - 1]
    for k in range(count - 2, 0, -1):
        total = _up(total).add_(levels[k], alpha=weights[k] - weights[k - 1])
    height, width = x.shape[-2:]
    return _up(total)[..., :height, :width].add_(x, alpha=weights[0])


def check_room(x: Tensor, count: int) -> None:
    """Raise `ConfigurationError` unless planes `[N, M, H, W]` have room for that many bands."""
    if not _has_room(x, count):
        height, width = x.shape[-2:]
        room = next(fewer for fewer in range(count - 1, 0, -1) if _has_room(x, fewer))
        raise ConfigurationError(
            f"{height} rows and {width} columns have no room for {count} bands, each half as long as that before, but "
            f"for {room}. Give fewer, or a larger sample."
        )


def _has_room(x: Tensor, count: int) -> bool:
    """Whether the planes that are blurred are longer than the blur sees."""
    return count == 1 or min(_sides(x, count)) >> (count - 2) > REACH


def _sides(x: Tensor, count: int) -> tuple[int, int]:
    """Return how long the sides are for a pyramid of so many levels."""
    height, width = x.shape[-2:]
    has_power_of_two = not (height & (height - 1) and width & (width - 1))
    halves = 1 << (count - 1)
    if has_power_of_two and not height % halves and not width % halves:
        return height, width
    return 1 << (height - 1).bit_length(), 1 << (width - 1).bit_length()


def _levels(x: Tensor, count: int, of: int | None = None) -> list[Tensor]:
    """Return the first levels of the pyramid of blurred planes, which has `of` in all."""
    check_room(x, of or count)
    height, width = _sides(x, of or count)
    more = (0, width - x.shape[-1], 0, height - x.shape[-2])
    levels = [F.pad(x, more, mode="reflect") if any(more) else x]
    while len(levels) < count:
        levels.append(_down(levels[-1]))
    return levels


def _down(x: Tensor) -> Tensor:
    """Blur, and average 2 by 2: [1, 5, 10, 10, 5, 1]/32 at every second place."""
    for dim in (-2, -1):
        a, b, c, d, e, f = _mirrored(x, dim).unfold(dim, 6, 2).unbind(-1)
        x = (a + f).mul_(1 / 32).add_(b + e, alpha=5 / 32).add_(c + d, alpha=10 / 32)
    return x


def _up(x: Tensor) -> Tensor:
    """Interpolate linearly to twice the length, and blur with [1, 4, 6, 4, 1]/16."""
    for dim in (-2, -1):
        size = x.shape[dim]
        first, last = x.narrow(dim, 0, 1), x.narrow(dim, size - 1, 1)
        before = torch.cat([first, x.narrow(dim, 0, size - 1)], dim)
        after = torch.cat([x.narrow(dim, 1, size - 1), last], dim)
        x = torch.stack([x.lerp(before, 0.25), x.lerp(after, 0.25)], dim).flatten(dim - 1, dim)
        a, b, c, d, e = _mirrored(x, dim).unfold(dim, 5, 1).unbind(-1)
        x = (a + e).mul_(1 / 16).add_(b + d, alpha=4 / 16).add_(c, alpha=6 / 16)
    return x


def _mirrored(x: Tensor, dim: int) -> Tensor:
    """Return it continued beyond both ends of a dimension, as seen in a mirror on its last element."""
    return F.pad(x, (REACH, REACH, 0, 0) if dim == -1 else (0, 0, REACH, REACH), mode="reflect")
