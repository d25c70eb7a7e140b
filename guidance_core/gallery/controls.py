"""Methods that cannot help: a fair comparison must say so."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch

from guidance_core.methods.hookspecs import hookimpl
from guidance_core.methods.requests import Branch, Needs, Request
from guidance_core.methods.step import Step


@attrs.frozen
class Jitter:
    """Cfg whose scale is drawn anew in each step, for each sample; the mean is that of plain cfg.

    guided = c + (s − 1 + a·n)·(c − u),   n standard normal
    """

    scale: float = 3.0
    amplitude: float = 0.5

    @hookimpl
    def build_branches(self, step: Step) -> list[Request]:
        """Ask for the prediction of `uncond`, with strength s − 1."""
        return [Branch("uncond", condition="negative", strength=self.scale - 1, required=True), Needs()]

    @hookimpl
    def combine(self, step: Step, predictions: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return what is too much or too little."""
        d = predictions["cond"] - predictions["uncond"]
        n = step.noise_like(d.flatten(1)[:, :1].reshape(-1, *(1,) * (d.ndim - 1)), "scale")
        return self.amplitude * n * d


@attrs.frozen
class RandomDirection:
    """Cfg, and a random direction as long as a share of what cfg adds.

    guided = c + (s − 1)·(c − u) + a·‖c − u‖·n/‖n‖,   n standard normal
    """

    scale: float = 3.0
    amplitude: float = 0.5

    @hookimpl
    def build_branches(self, step: Step) -> list[Request]:
        """Ask for the prediction of `uncond`, with strength s − 1."""
        return [Branch("uncond", condition="negative", strength=self.scale - 1, required=True), Needs()]

    @hookimpl
    def combine(self, step: Step, predictions: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the random direction."""
        d = predictions["cond"] - predictions["uncond"]
        n = step.noise_like(d, "direction")
        dims = tuple(range(1, d.ndim))
        length = (d.square().sum(dims, keepdim=True) / n.square().sum(dims, keepdim=True).clamp(min=1e-12)).sqrt()
        return self.amplitude * length * n
