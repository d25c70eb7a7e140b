"""Negative prompts that leave the positive one alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch

from guidance_core import (
    Branch,
    ConfigurationError,
    Needs,
    Request,
    Scale,
    Step,
    documented,
    hookimpl,
    names,
    number,
    numbers,
    parallel,
    text,
)


@documented
@attrs.frozen
class PerpNeg:
    """Perp-Neg: move away from each negative prompt only where that does not weaken the positive one.

        d = c − u,   dᵢ = nᵢ − u
        guided = u + s·(d − Σ wᵢ·dᵢ⊥),   dᵢ⊥ = dᵢ − ⟨dᵢ, d⟩·d/‖d‖²     per sample

    nᵢ are the predictions with negative prompts, and u is that with the empty prompt, which is a condition of its own.
    The authors' weights are the negatives of these. Without negative prompts it is `cfg` with the empty prompt. At s =
    1 with weights of 0, no extra pass is run.

    Source: Armandpour et al., arXiv:2304.04968, Alg. 1, and the authors' code.
    """

    form_of: ClassVar[str] = "cfg"
    neutral: ClassVar[Mapping[str, Any]] = {"scale": 1.0, "weights": (0.0,)}
    values_to_try: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "conditions": (),
        "weights": ((0.5,), (0.0,), (-2.0,)),
        "empty": ("none",),
    }

    scale: Scale = number(7.5, help="guidance scale s")
    conditions: Sequence[str] = names(("negative",), help="names of the conditions with negative prompts")
    weights: Sequence[float] = numbers((1.0,), help="weight of each; positive moves away from it, 0 does not run it")
    empty: str = text("empty", help="name of the condition with the empty prompt")

    def __attrs_post_init__(self) -> None:
        if len(self.weights) != len(self.conditions):
            raise ConfigurationError(
                f"PerpNeg: there are {len(self.conditions)} conditions and {len(self.weights)} weights; give a weight "
                "for each condition."
            )
        named = (*self.conditions, self.empty, "positive")
        twice = next((name for name in named if named.count(name) > 1), None)
        if twice is not None:
            raise ConfigurationError(
                f"PerpNeg: the condition {twice!r} is given twice. Negative prompts, the empty prompt and the positive "
                "one must be different conditions."
            )

    @property
    def weighted(self) -> dict[str, float]:
        """The weights by condition, without those that are 0."""
        return {name: weight for name, weight in zip(self.conditions, self.weights, strict=True) if weight}

    @hookimpl
    def build_branches(self, step: Step) -> list[Request]:
        """Ask for all predictions, or for none if the result is c."""
        acting = step.outputs if self.weighted else step.active(self.scale, neutral=1.0)
        if not acting:
            return []
        passes = [Branch(_branch(name), condition=name, required=True) for name in (self.empty, *self.weighted)]
        return [*passes, Needs(outputs=acting)]

    @hookimpl
    def combine(self, step: Step, predictions: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return what to add to c."""
        u = predictions[_branch(self.empty)]
        d = predictions["cond"] - u
        s = step.value(self.scale)
        guided = (s - 1) * d
        if self.weighted:
            away = torch.zeros_like(u)
            for name, weight in self.weighted.items():
                away = away + weight * (predictions[_branch(name)] - u)
            guided = guided - s * (away - parallel(step, away, d))
        return guided


def _branch(condition: str) -> str:
    """Return the name of the pass with a condition, which is the same in other methods."""
    return "uncond" if condition == "negative" else condition
