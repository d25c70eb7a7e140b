"""Condition-annealed sampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch

from guidance_core import (
    Amend,
    ConfigurationError,
    Step,
    chosen_inputs,
    documented,
    hookimpl,
    names,
    number,
    ratio,
    text,
)


@documented
@attrs.frozen
class CADS:
    """Condition-annealed diffusion sampling: decreasing noise on the condition, for more diverse results.

        y′ = √γ·y + k·√(1 − γ)·n,   n ~ N(0, 1)
        y″ = mean(y) + std(y)·(y′ − mean(y′))/std(y′)
        y ← ψ·y″ + (1 − ψ)·y′

    γ rises from 0 where t ≥ `high` to 1 where t ≤ `low`; t is the fraction of the steps that remain. Mean and std are
    per sample. It changes every pass with the condition, and adds none. The noise depends only on the sample's seed and
    the step. At k = 0 it is off.

    Source: Sadat et al., arXiv:2310.17347, as in the code of sd-webui-cads.
    """

    noise: float = number(0.25, ge=0, varies=False, help="k, the size of the noise; 0 is off")
    low: float = number(
        0.6, ge=0, le=1, varies=False, help="fraction of remaining steps up to which the condition has no noise"
    )
    high: float = number(
        0.9, ge=0, le=1, varies=False, help="fraction of remaining steps from which the condition is only noise"
    )
    mixing: float = number(1.0, ge=0, le=1, varies=False, help="ψ, how far mean and std of the condition are restored")
    condition: str = text("positive", help="name of the condition")
    inputs: Sequence[str] = names(help="names of the inputs to noise (none: every floating-point one)")

    def __attrs_post_init__(self) -> None:
        if self.low >= self.high:
            raise ConfigurationError(f"CADS: low must be less than high; got {self.low:g} and {self.high:g}.")

    @hookimpl
    def build_branches(self, step: Step) -> list[Amend]:
        """Edit the inputs of the condition as long as there is noise."""
        gamma = min(max((self.high - (1 - step.fraction)) / (self.high - self.low), 0.0), 1.0)
        if gamma == 1.0 or self.noise == 0:
            return []
        return [Amend(self.condition, edit=Annealed(gamma, self.noise, self.mixing, tuple(self.inputs)))]


@attrs.frozen
class Annealed:
    """The edit of one step: the same for the same numbers."""

    gamma: float
    noise: float
    mixing: float
    inputs: tuple[str, ...]

    def __call__(
        self, inputs: Mapping[str, Any], noise: Callable[[torch.Tensor, str], torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Return the inputs with noise."""
        chosen = chosen_inputs(inputs, self.inputs)
        return {name: self._noised(y, noise(y, name)) for name, y in chosen.items()}

    def _noised(self, y: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        dims = tuple(range(1, y.ndim))
        exact = y.to(torch.promote_types(y.dtype, torch.float32))
        noised: torch.Tensor = self.gamma**0.5 * exact + self.noise * (1 - self.gamma) ** 0.5 * n
        if dims and self.mixing > 0:
            mean, own = exact.mean(dims, keepdim=True), noised.mean(dims, keepdim=True)
            std = ratio(*(each.std(dims, correction=0, keepdim=True) for each in (exact, noised)))
            noised = torch.lerp(noised, mean + std * (noised - own), self.mixing)
        return noised.to(y.dtype)
