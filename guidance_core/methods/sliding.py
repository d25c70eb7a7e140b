"""The perturbation that lets the model see its sample through windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from guidance_core.errors import ConfigurationError, brief
from guidance_core.methods.perturbations import Perturbation, real


@attrs.frozen(repr=False)
class SlidingWindows(Perturbation):
    """The model gets overlapping windows of the sample, one after another, each as a sample of its own.

    Where windows overlap, their predictions are averaged. So no prediction depends on anything farther away than the
    length of a window.

    Source: SWG, arXiv:2411.10257, Alg. 1.
    """

    size: float = real(0.75, gt=0, le=1)
    "Length of a window, as a fraction of the height and of the width."
    count: int = attrs.field(default=2, kw_only=True)
    "Number of windows along each of them."

    acts_on: ClassVar[str] = "sample"

    @count.validator
    def _check_count(self, _: object, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigurationError(f"SlidingWindows: count must be a whole number from 1; got {brief(value)}.")

    def along(self, length: int) -> tuple[tuple[int, int], ...]:
        """Return the beginnings and ends of the windows along a side, evenly spaced from one end to the other.

        Args:
            length: the length of the side in pixels, latents or tokens, whichever windows are cut at.
        """
        window = min(max(round(self.size * length), 1), length)
        last = length - window
        starts = [last * number // max(self.count - 1, 1) for number in range(self.count)]
        return tuple(dict.fromkeys((start, start + window) for start in starts))

    def overlap(self, shape: Sequence[int]) -> Tensor:
        """Return how many windows cover each place, `[height, width]`, on the CPU."""
        height, width = (self._covering(length) for length in shape)
        return height[:, None] * width

    def _covering(self, length: int) -> Tensor:
        covering = torch.zeros(length)
        for start, end in self.along(length):
            covering[start:end] += 1
        return covering
