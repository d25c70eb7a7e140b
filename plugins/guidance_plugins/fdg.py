"""Guidance with a scale for each band of frequencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import attrs
import torch

from guidance_core import (
    ConfigurationError,
    Request,
    Space,
    Step,
    bands,
    choice,
    collapsed,
    documented,
    flag,
    from_planes,
    grid,
    hookimpl,
    nearest_scale,
    negative_pass,
    numbers,
    parallel,
    planes,
    reweighted,
)


@documented
@attrs.frozen
class FDG:
    """Frequency-decoupled guidance: guide each band of a Laplacian pyramid with its own scale.

        dₖ = cₖ − uₖ                             k-th band, from the highest frequencies to the lowest
        dₖ = dₖ⊥ + wₖ·dₖ∥                        dₖ∥ is the part of dₖ parallel to cₖ, per sample
        guidedₖ = cₖ + (sₖ − 1)·dₖ               form=paper
        guidedₖ = uₖ + sₖ·dₖ                     form=diffusers; cₖ where sₖ is 1

    The forms differ if a weight is not 1. If sₖ is 1 for all bands, the method is off and `uncond` is not run. With
    `zero_star`, α·u replaces u, where α = ⟨c, u⟩/(‖u‖² + 1e−8) as in `cfg-zero-star`. Followed by `rescale`, this is
    the guidance of ZeResFDG.

    A prediction is `[B, C, H, W]`, `[B, C, F, H, W]`, or tokens `[B, S, C]` with their `grid`. Sides that cannot be
    halved for each band are extended by mirroring to the next power of two, and the result is cropped.

    Source: Sadat et al., arXiv:2506.19713, Alg. 2, with the pyramid of kornia; `zero_star`: arXiv:2510.12954.
    """

    form_of: ClassVar[str] = "cfg"
    shardable: ClassVar[bool] = False
    neutral: ClassVar[Mapping[str, Any]] = {"scales": (1.0, 1.0)}
    values_to_try: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "scales": ((1.0, 1.0), (3.0,), (0.0, 2.0)),
        "parallel": ((0.0,), (1.0, 0.5)),
        "grid": (),  # samples of the shapes below have no tokens
    }
    shapes_to_try: ClassVar[tuple[tuple[int, ...], ...]] = ((2, 4, 4), (3, 8, 8), (1, 5, 6), (2, 3, 4, 8))

    scales: Sequence[float] = numbers(
        (10.0, 5.0), least=1, help="guidance scale of each band, from the highest frequencies to the lowest; 1 is off"
    )
    parallel: Sequence[float] = numbers(
        (1.0,), least=1, help="weight of the part parallel to c: one for each band, or one for all"
    )
    zero_star: bool = flag(False, help="whether to replace u with α·u, as CFG-Zero* does")
    grid: Sequence[int] | None = grid(None, help="rows and columns of the tokens [B, S, C], such as [64, 96]")
    form: Literal["paper", "diffusers"] = choice(
        "paper", ("paper", "diffusers"), help="whether the formula starts from c or from u"
    )
    space: Space | None = choice(
        "x0", ("epsilon", "v", "x0", "flow"), optional=True, help="space to work in (none: the model's own)"
    )

    def __attrs_post_init__(self) -> None:
        if len(self.parallel) not in (1, len(self.scales)):
            raise ConfigurationError(
                f"FDG: parallel has {len(self.parallel)} weights, and there are {len(self.scales)} scales. Give one "
                "weight for each band, or one for all."
            )

    @hookimpl
    def build_branches(self, step: Step) -> list[Request]:
        """Ask for the prediction of `uncond`, unless every scale is 1."""
        farthest = max(self.scales, key=lambda scale: abs(scale - 1))
        return negative_pass(step, farthest, space=self.space)

    @hookimpl
    def combine(self, step: Step, predictions: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return what to add to c."""
        c, u = predictions["cond"], predictions["uncond"]
        d = planes(c - nearest_scale(step, c, u) * u if self.zero_star else c - u, self.grid)
        if all(weight == 1 for weight in self.parallel):
            guided = reweighted(d, [scale - 1 for scale in self.scales])
        else:
            base = planes(c, self.grid)
            count = len(self.scales)
            weights = self.parallel if len(self.parallel) == count else [*self.parallel] * count
            moved = [
                self._moved(step, *each, samples=c.shape[0])
                for each in zip(bands(base, count), bands(d, count), self.scales, weights, strict=True)
            ]
            guided = collapsed(moved, *d.shape[-2:])
        return from_planes(guided, c, self.grid)

    def _moved(
        self, step: Step, c: torch.Tensor, d: torch.Tensor, scale: float, weight: float, samples: int
    ) -> torch.Tensor:
        """Return what to add to the band c, `[N, M, H, W]`."""
        if scale == 1 or weight == 1:
            return (scale - 1) * d
        by_sample = (samples, -1, *d.shape[1:])
        along = parallel(step, d.reshape(by_sample), c.reshape(by_sample)).reshape(d.shape)
        return (scale - 1) * d + (scale - 1 if self.form == "paper" else scale) * (weight - 1) * along
