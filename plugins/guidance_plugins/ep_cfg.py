"""Energy-preserving guidance."""

from __future__ import annotations

from typing import ClassVar

import attrs
import torch

from guidance_core import (
    ConfigurationError,
    Multiply,
    Needs,
    Quantile,
    Reference,
    Step,
    documented,
    hookimpl,
    number,
    ratio,
)


@documented
@attrs.frozen
class EPCFG:
    """Energy-preserving CFG: the guided prediction g has the energy of the conditional one.

        guided = g·√(E(c)/E(g)),   E(x) = Σ xᵢ² over the elements with P_lo ≤ xᵢ² ≤ P_hi

    P are percentiles of the squares of x itself, for each sample. It corrects the result of the methods before it, such
    as `cfg`. If E(g) is 0, the prediction stays as it is. Without percentiles, as in the authors' code, it is
    `normalize:form=match,over=sample`.

    Source: Zhang et al., arXiv:2412.09966; the plain form is `energy_preserve_cfg` of the authors' minFM.
    """

    shardable: ClassVar[bool] = False  # percentiles are those of the whole tensor
    neutral: ClassVar[None] = None

    lo: float = number(0.45, ge=0, le=1, help="lower percentile of the elements that count; 0 for no limit")
    hi: float = number(0.55, ge=0, le=1, help="upper percentile of the elements that count; 1 for no limit")

    ends: tuple[Quantile, Quantile] = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.lo, float) or not isinstance(self.hi, float) or self.lo >= self.hi:
            raise ConfigurationError(f"EPCFG: lo and hi must be numbers with lo < hi; got lo={self.lo}, hi={self.hi}.")
        object.__setattr__(self, "ends", (Quantile(q=self.lo, absolute=True), Quantile(q=self.hi, absolute=True)))

    @hookimpl
    def build_branches(self, step: Step) -> list[Needs]:
        """Ask for the base prediction."""
        return [Needs(reference=True)]

    @hookimpl
    def postprocess(self, step: Step, guided: torch.Tensor, reference: Reference) -> Multiply:
        """Scale the guided prediction."""
        return Multiply(ratio(self._root(step, reference.tensor), self._root(step, guided)))

    def _root(self, step: Step, x: torch.Tensor) -> torch.Tensor:
        """Return √E, one for each sample."""
        size = x.abs()  # in the order of the squares
        low, high = (step.measure(end, x) for end in self.ends)
        return step.norm(torch.where((size >= low) & (size <= high), x, 0.0))
