"""What a run takes the result for, step by step, kept while it draws."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Estimates:
    """Keeps the estimate of x0 in some steps: of flow predictions, `x − σ·v`."""

    def __init__(self, steps: Sequence[int], every: int = 1) -> None:
        """Keep nothing yet.

        Args:
            steps: the steps to keep, counted from 0.
            every: keeps one sample of so many that follow each other, the first.
        """
        self.steps = tuple(steps)
        self.sigmas: list[float] = []
        "The noise levels of the kept steps."
        self._kept: list[Tensor] = []
        self._every = every

    def see(self, step: int, sigma: float, x: Tensor, velocity: Tensor) -> None:
        """Keep the estimate of a step, if it is one of those to be kept.

        Args:
            step: its number.
            sigma: its noise level.
            x: its sample, `[B, ...]`.
            velocity: its guided flow prediction, `[B, ...]`.
        """
        if step in self.steps:
            self.sigmas.append(sigma)
            self._kept.append((x - sigma * velocity)[:: self._every])

    @property
    def x0(self) -> Tensor:
        """The estimates, `[steps, ceil(B / every), ...]`."""
        return torch.stack(self._kept)


def spread(steps: int, most: int) -> tuple[int, ...]:
    """Return at most so many of a run's steps, evenly spread, the first and the last among them."""
    if steps <= most:
        return tuple(range(steps))
    return tuple(round(number * (steps - 1) / (most - 1)) for number in range(most))
