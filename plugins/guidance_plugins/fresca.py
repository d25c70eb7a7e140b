"""Guidance whose low and high frequencies are scaled apart, by a Fourier transform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch

from guidance_core import (
    Branch,
    Needs,
    Request,
    Scale,
    Step,
    documented,
    from_planes,
    grid,
    hookimpl,
    number,
    planes,
    whole,
)


@documented
@attrs.frozen
class FreSca:
    """Frequency scaling: weight the low and the high frequencies of c − u differently.

        guided = u + s·(l·low(c − u) + h·high(c − u))

    `low` keeps the frequencies of rows and columns below `cutoff`, at most half of each; `high` is the rest. With
    `cutoff=none` each sample has a cutoff from its own spectrum, as in the authors' code. Along the middle row and the
    middle column of the centred spectrum, it is the place where the sum of the magnitudes reaches the share `energy`,
    at most a quarter of the shorter side. The cutoff is the mean of both, and at least 3. The method is off if s, l and
    h are 1.

    A prediction is `[B, C, H, W]`, `[B, C, F, H, W]`, or tokens `[B, S, C]` with their `grid`.

    Source: Huang et al., arXiv:2504.02154, and the authors' code.
    """

    form_of: ClassVar[str] = "cfg"
    shardable: ClassVar[bool] = False
    neutral: ClassVar[Mapping[str, float]] = {"scale": 1.0, "low": 1.0, "high": 1.0}
    values_to_try: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "scale": (0.0, 1.0, 3.0),
        "low": (0.0, 1.0, 2.0),
        "high": (0.0, 1.0),
        "energy": (0.0, 1.0),
        "grid": (),  # samples of the shapes below have no tokens
        "cutoff": (3, None),
    }
    shapes_to_try: ClassVar[tuple[tuple[int, ...], ...]] = ((1, 24, 24), (2, 17, 20), (1, 2, 16, 24))

    scale: Scale = number(7.5, help="guidance scale s")
    low: Scale = number(1.0, help="weight l of the low frequencies")
    high: Scale = number(1.5, help="weight h of the high frequencies")
    cutoff: int | None = whole(
        20, ge=0, optional=True, help="frequencies to count as low (none: found from the spectrum of each sample)"
    )
    energy: Scale = number(0.2, ge=0, le=1, help="share of the spectrum below a cutoff that is found from the spectrum")
    grid: Sequence[int] | None = grid(None, help="rows and columns of the tokens [B, S, C], such as [64, 96]")

    @hookimpl
    def build_branches(self, step: Step) -> list[Request]:
        """Ask for the prediction of `uncond`, unless all weights are 1."""
        acting = {output for each in (self.scale, self.low, self.high) for output in step.active(each, neutral=1.0)}
        if not acting:
            return []
        outputs = tuple(output for output in step.outputs if output in acting)
        return [Branch("uncond", condition="negative", required=True), Needs(outputs=outputs)]

    @hookimpl
    def combine(self, step: Step, predictions: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return what to add to c."""
        d = predictions["cond"] - predictions["uncond"]
        s, l, h = (step.value(each) for each in (self.scale, self.low, self.high))  # noqa: E741
        return (s * h - 1) * d + s * (l - h) * self._low(step, d)

    def _low(self, step: Step, d: torch.Tensor) -> torch.Tensor:
        """Return the low frequencies of d, of its shape."""
        x = planes(d, self.grid)
        height, width = x.shape[-2:]
        spectrum = torch.fft.rfft2(x)
        most = min(height, width) // 2
        cutoff: int | torch.Tensor
        if self.cutoff is not None:
            cutoff = min(self.cutoff, most)
        else:
            cutoff = self._found(step, spectrum.unflatten(0, (d.shape[0], -1)).abs(), width).clamp(max=most)
            cutoff = cutoff.repeat_interleave(x.shape[0] // d.shape[0]).view(-1, 1, 1, 1)
        rows = _kept(torch.arange(height, device=d.device), height, cutoff)
        columns = _kept(torch.arange(width // 2 + 1, device=d.device), width, cutoff)
        # At its edge the authors' mask keeps one of two opposite frequencies; of the result they take the real part.
        kept = sum(row.unsqueeze(-1) * column.unsqueeze(-2) for row, column in zip(rows, columns, strict=True)) / 2
        return from_planes(torch.fft.irfft2(spectrum * kept, s=(height, width)), d, self.grid)

    def _found(self, step: Step, sizes: torch.Tensor, width: int) -> torch.Tensor:
        """Return the cutoff of each sample, `[B]`, given the magnitudes of half the spectrum, `[B, P, M, H, W']`."""
        height = sizes.shape[-2]
        energy = step.value(self.energy)
        if isinstance(energy, torch.Tensor):
            energy = energy.flatten(1)[:, :1]
        middles = ((sizes[..., 0, :], width), (sizes[..., :, 0], height))
        first, second = (_reached(line.mean((1, 2)), count, energy) for line, count in middles)
        most = min(height, width) // 4
        return ((first.clamp(max=most) + second.clamp(max=most)) // 2).clamp(min=3)


def _signed(index: torch.Tensor, count: int) -> torch.Tensor:
    """Return the frequencies that stand at places of a transform of that length, from -(count // 2)."""
    return (index + count // 2) % count - count // 2


def _kept(index: torch.Tensor, count: int, cutoff: int | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return whether frequencies, and those opposite to them, are in [-cutoff, cutoff)."""
    both = _signed(index, count), _signed(-index, count)
    if isinstance(cutoff, torch.Tensor):
        cutoff = cutoff[..., 0]
    one, opposite = ((each >= -cutoff) & (each < cutoff) for each in both)
    return one, opposite


def _reached(line: torch.Tensor, count: int, share: float | torch.Tensor) -> torch.Tensor:
    """Return the first place of the centred spectrum at which the share of its sum is reached, `[B]`.

    `line` has the magnitudes `[B, ...]` from frequency 0 on; those of opposite frequencies are equal.
    """
    place = torch.arange(count, device=line.device)
    centred = line[:, (place - count // 2).abs()]
    reached = torch.where(place[:, None] >= place, centred[:, None], 0.0).sum(-1)
    return (reached < share * reached[:, -1:]).sum(-1)
