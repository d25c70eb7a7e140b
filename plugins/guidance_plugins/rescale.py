"""Rescaling the guided prediction to the spread of the conditional one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import torch

from guidance_core import (
    Multiply,
    Needs,
    Over,
    Reference,
    Scale,
    Space,
    Std,
    Step,
    choice,
    documented,
    extent,
    hookimpl,
    number,
    ratio,
    whole,
)


def rescaling(step: Step, guided: torch.Tensor, reference: Reference, phi: float | torch.Tensor, std: Std) -> Multiply:
    """Return the correction g·(φ·std(c)/std(g) + 1 − φ), which does not change a constant g.

    `guided` is `[B, ...]`; the factor has the shape of the statistics, `[B, 1, ...]`.
    """
    return Multiply(ratio(reference.measure(std), step.measure(std, guided), share=phi))


@documented
@attrs.frozen
class Rescale:
    """Guidance rescale: give the guided prediction the standard deviation of the conditional one.

        guided = φ·g·std(c)/std(g) + (1 − φ)·g

    Each sample has its own statistics. A guided prediction without spread stays as it is.

    Source: Lin et al., arXiv:2305.08891, eq. 15 and 16.
    """

    mixes_samples: ClassVar[Mapping[str, tuple[str, ...]]] = {"over": ("tensor",)}
    values_to_try: ClassVar[Mapping[str, tuple[Any, ...]]] = {"first": ()}  # samples of every shape have no tokens

    phi: Scale = number(0.7, ge=0, le=1, help="how much of the rescaled prediction to use; 0 is off")
    over: Over = extent(
        "sample",
        help="range of one std: a sample, its channels or tokens, the whole tensor, or dimensions such as [-1, -2]",
    )
    space: Space | None = choice(
        None,
        ("epsilon", "v", "x0", "flow"),
        optional=True,
        help="space to rescale in (none: the model's own)",
    )
    first: int | None = whole(
        None, ge=1, optional=True, help="number of first tokens of [B, ..., S, C] to use (none: all)"
    )
    std: Std = attrs.field(
        init=False,
        repr=False,
        eq=False,
        default=attrs.Factory(lambda self: Std(self.over, self.first), takes_self=True),
    )

    @hookimpl
    def build_branches(self, step: Step) -> list[Needs]:
        """Ask for the base prediction's std, for the outputs whose φ is not 0."""
        rescaled = step.active(self.phi, neutral=0.0)
        return [Needs(space=self.space, statistics=self.std, outputs=rescaled)] if rescaled else []

    @hookimpl
    def postprocess(self, step: Step, guided: torch.Tensor, reference: Reference) -> Multiply:
        """Scale the guided prediction."""
        return rescaling(step, guided, reference, step.value(self.phi), self.std)
