"""Outputs that keep their last x0 while a method holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import TypeAlias

import torch
from torch import Tensor

from guidance_core.algebra.arithmetic import evaluate
from guidance_core.algebra.spaces import affine
from guidance_core.steps.plan import Plan
from guidance_core.steps.selection import Selection

Kept: TypeAlias = dict[str, tuple[Tensor, torch.dtype]]
"By output: x0 in the accumulation dtype, and the dtype of the predictions."


class HeldOutputs:
    """The last x0 of the outputs of a run that some step holds."""

    def __init__(self, prediction_type: str) -> None:
        self._type = prediction_type
        self._kept: Kept = {}

    @property
    def names(self) -> Set[str]:
        """The outputs that have an x0 to keep."""
        return self._kept.keys()

    def kept(self, plan: Plan, results: Mapping[str, Tensor], outputs: Iterable[str]) -> Kept:
        """Return the x0 of a step's results, of those of `outputs` that it did not hold; `update` takes them."""
        kept: Kept = {}
        for name in outputs:
            if name in plan.layout.holds:
                continue
            result = results[name]
            x0 = evaluate([(result, 1.0)], plan.samples[name], affine(self._type, "x0", plan.noise[name]))
            kept[name] = (x0.clone() if x0 is result else x0, result.dtype)
        return kept

    def select(self, selection: Selection) -> None:
        """Keep some samples only."""
        self._kept = {name: (selection.of(x0, ""), dtype) for name, (x0, dtype) in self._kept.items()}

    def copied(self) -> HeldOutputs:
        """Return another that keeps the same."""
        other = HeldOutputs(self._type)
        other._kept = dict(self._kept)
        return other

    def to_dict(self) -> dict[str, tuple[Tensor, str]]:
        """Return what is kept as plain data."""
        return {name: (x0, str(dtype).removeprefix("torch.")) for name, (x0, dtype) in self._kept.items()}

    def load(self, data: Mapping[str, tuple[Tensor, str]]) -> None:
        """Keep what `to_dict` returned."""
        self._kept = {name: (x0, getattr(torch, dtype)) for name, (x0, dtype) in data.items()}

    def update(self, kept: Kept) -> None:
        """Take the x0 of a step that succeeded."""
        self._kept.update(kept)

    def result(self, plan: Plan, output: str) -> Tensor:
        """Return the kept x0 as a prediction for the plan's sample, `[B, ...]`."""
        x0, dtype = self._kept[output]
        conversion = affine("x0", self._type, plan.noise[output])
        result = evaluate([(x0, 1.0)], plan.samples[output], conversion, dtype=dtype)
        return result.clone() if result is x0 else result
