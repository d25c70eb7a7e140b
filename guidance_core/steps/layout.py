"""The branches of one step and what is made of their predictions.

A layout is the part of a plan that does not depend on the sample: which branches run, with which
weights, and which hooks see their predictions. Layouts are built before the first forward.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import attrs
import torch
from torch import Tensor

from guidance_core.algebra.arithmetic import Term, Weight, accumulation_dtype
from guidance_core.algebra.digest import digest
from guidance_core.methods.hooks import Implementation
from guidance_core.methods.randomized import draws
from guidance_core.methods.requests import BASE, Amend, Branch, Needs
from guidance_core.methods.resolving import placed
from guidance_core.methods.step import Answers

Of = TypeVar("Of")


def largest_first(away: Iterable[tuple[Of, Weight]]) -> list[tuple[Of, Weight]]:
    """Return what to move away from in the order in which it is summed: tensors, then the largest number first."""
    return sorted(away, key=lambda each: -math.inf if isinstance(each[1], Tensor) else -abs(each[1]))


@attrs.frozen
class Acting:
    """A hook that is called for one output, with what it may see."""

    implementation: Implementation
    plugin: object
    needs: Needs
    space: str
    "The space it works in: the one it asked for, or the host's."
    own: str
    "The host's."
    branches: tuple[str, ...]
    "The branches whose predictions it may look at, `cond` first."


@attrs.frozen(eq=False)
class OutputLayout:
    """How one output is guided in a step."""

    name: str
    strengths: tuple[tuple[str, float | Tensor], ...]
    "The branches to move away from."
    held: bool
    combining: tuple[Acting, ...]
    combine_wrappers: tuple[Acting, ...]
    correcting: tuple[Acting, ...]
    correct_wrappers: tuple[Acting, ...]
    "Wrappers stand from the innermost to the outermost."

    needs_samples: bool = attrs.field(init=False)
    "Whether passes must know the noisy sample: for edits of inputs, random changes and gradients."
    has_tensor_strengths: bool = attrs.field(init=False)

    @has_tensor_strengths.default
    def _default_has_tensor_strengths(self) -> bool:
        return any(isinstance(strength, Tensor) for _, strength in self.strengths)

    is_plain: bool = attrs.field(init=False)
    "Whether the result is the weighted sum and no hook acts."
    seen: tuple[str, ...] = attrs.field(init=False)
    "The branches whose predictions a hook looks at, alone or in a statistic."
    first_space: str | None = attrs.field(init=False)
    "The space of the hook that gets the sum first; None where no hook corrects it."

    @is_plain.default
    def _default_is_plain(self) -> bool:
        return not self.held and not self.all_acting

    @seen.default
    def _default_seen(self) -> tuple[str, ...]:
        base = [BASE] if self.all_acting else []
        others = [branch for acting in (*self.combining, *self.combine_wrappers) for branch in acting.branches]
        return tuple(dict.fromkeys([*base, *others]))

    @first_space.default
    def _default_first_space(self) -> str | None:
        in_order = (*reversed(self.correct_wrappers), *self.correcting)
        return in_order[0].space if in_order else None

    @property
    def all_correcting(self) -> tuple[Acting, ...]:
        """Everything that sees the guided prediction."""
        return (*self.correcting, *self.correct_wrappers)

    @property
    def all_acting(self) -> tuple[Acting, ...]:
        """Every hook that is called for this output."""
        return (*self.combining, *self.combine_wrappers, *self.all_correcting)

    def weights(self, sample: Tensor) -> list[tuple[str, Weight]]:
        """Return the weight of each branch in the sum of predictions, `cond` first; they add up to 1.

        Raises:
            ConfigurationError: a tensor strength does not broadcast to the sample.
        """
        strengths = self.placed_strengths(sample)
        base: Any = 1.0
        for _, strength in strengths:
            # Strengths of both signs cancel, which must not show what they were rounded to.
            if isinstance(strength, Tensor) and strength.device.type != "mps":  # which has no float64
                strength = strength.double()
            base = base + strength
        if isinstance(base, Tensor):
            base = base.to(accumulation_dtype(sample))
        return [(BASE, base), *((branch, -strength) for branch, strength in strengths)]

    center: str = attrs.field(init=False)
    """The branch from which the sum is formed: the one of the largest weight, which is nearly always `cond`.

    Whatever branch is taken, `Σ wᵢ·pᵢ = p + Σ wᵢ·(pᵢ − p)`, since the weights add up to 1. With the branch
    of the largest weight, rounding errors stay within those of the terms.
    """

    @property
    def _weight_of_base(self) -> Any:
        return 1.0 + sum(strength for _, strength in self.strengths)

    @center.default
    def _default_center(self) -> str:
        if self.has_tensor_strengths:
            return BASE  # or another in each sample; see `centered`
        weights: dict[str, Any] = {BASE: self._weight_of_base, **dict(self.strengths)}
        return max(weights, key=lambda branch: abs(weights[branch]))

    has_other_centers: bool = attrs.field(init=False)
    "Whether, with tensors, a branch has a larger weight than `cond` in some sample; yes where only a device knows."

    @has_other_centers.default
    def _default_has_other_centers(self) -> bool:
        tensors = [strength for _, strength in self.strengths if isinstance(strength, Tensor)]
        if not tensors:
            return False
        if any(tensor.device.type != "cpu" for tensor in tensors):
            return True
        dims = max(tensor.ndim for tensor in tensors)
        aligned = [
            strength.reshape(*strength.shape, *(1,) * (dims - strength.ndim))
            if isinstance(strength, Tensor)
            else torch.tensor(strength, device="cpu")
            for _, strength in self.strengths
        ]
        base = functools.reduce(torch.add, aligned).add(1.0).abs()
        return any(bool((base < strength.abs()).any()) for strength in aligned)

    away: tuple[tuple[str, float | Tensor], ...] = attrs.field(init=False)
    "How far to move from the center away from each other branch; a tensor or the largest number first."

    @away.default
    def _default_away(self) -> tuple[tuple[str, float | Tensor], ...]:
        away = dict(self.strengths)
        if self.center != BASE:
            del away[self.center]
            away[BASE] = -self._weight_of_base
        moving = [each for each in away.items() if isinstance(each[1], Tensor) or each[1] != 0.0]
        return tuple(largest_first(moving))

    def centered(self, predictions: Mapping[str, Tensor]) -> tuple[Tensor, list[Term]]:
        """Return the prediction from which the sum is formed, and how far to move it away from others.

        Where strengths are tensors, the center may be another branch in each sample.
        """
        center = predictions[self.center]
        if not self.has_tensor_strengths:
            return center, [(predictions[branch], strength) for branch, strength in self.away]
        if not self.has_other_centers:
            placed = self._placed(self.away, center)
            return center, [(predictions[branch], strength) for branch, strength in placed]
        (_, base), *others = self.weights(center)
        largest: Any = abs(base)
        for branch, weight in others:
            center = torch.where(largest < abs(weight), predictions[branch], center)
            largest = largest.clamp(min=abs(weight))
        # The center's own difference is 0, so that its weight does not count.
        return center, [(predictions[branch], -weight) for branch, weight in (*others, (BASE, base))]

    def placed_strengths(self, sample: Tensor) -> Sequence[tuple[str, Weight]]:
        """Return how far to move away from each branch, tensors ready to be multiplied with a prediction.

        Raises:
            ConfigurationError: a tensor strength does not broadcast to the sample.
        """
        return self._placed(self.strengths, sample)

    @staticmethod
    def _placed(strengths: Iterable[tuple[str, float | Tensor]], sample: Tensor) -> Sequence[tuple[str, Weight]]:
        return [
            (branch, placed(each, sample, f"the strength of branch {branch!r}") if isinstance(each, Tensor) else each)
            for branch, each in strengths
        ]


@attrs.frozen(eq=False)
class Layout:
    """The branches of a step and what is made of their predictions.

    Steps at which the plugins are told the same about where the run stands share one.
    """

    branches: tuple[Branch, ...]
    "The passes to run, `cond` first; empty where every output is held."
    asked: Mapping[str, tuple[str, ...]]
    "The plugins that asked for each branch."
    outputs: Mapping[str, OutputLayout]
    depends_on_state: bool
    "Whether a plugin looked at its state, so that the layout holds for this moment only."
    inputs: Mapping[str, Mapping[str, Any]]
    "Model inputs of each branch, before they are edited."
    amended: Mapping[str, tuple[str, ...]]
    "The plugins that change each branch, as every pass with its condition."
    edits: Mapping[str, Amend]
    "By condition: what edits its inputs."
    answers: Answers
    "What the plugins asked about where the step stands, and what they were told."
    asked_to_hold: frozenset[str]
    "The outputs that a plugin wants to keep their last x0, whether or not they have one."

    holds: frozenset[str] = attrs.field(init=False)
    "The outputs that keep their last x0."
    differentiating: tuple[tuple[str, str], ...] = attrs.field(init=False)
    "Output and plugin of each `combine` that differentiates by the sample."
    needs_samples: bool = attrs.field(init=False)
    "Whether passes must know the noisy sample: for edits of inputs, random changes and gradients."
    has_tensor_strengths: bool = attrs.field(init=False)
    conversions: tuple[tuple[str, str, str, Acting], ...] = attrs.field(init=False)
    "Output, source and target of every conversion that a hook may ask for, and who."

    @functools.cached_property
    def fingerprint(self) -> tuple[int, int]:
        """What stands for the branches, and for what is made of them."""
        branches = [
            (
                *(branch.name, branch.condition, branch.perturbations, branch.overrides, branch.model, branch.cost),
                *(branch.also, branch.edit, self.amended[branch.name]),
            )
            for branch in self.branches
        ]
        strengths = [
            (
                output.name,
                output.held,
                output.strengths,
                [(act.implementation.plugin, act.implementation.hook, act.needs) for act in output.all_acting],
            )
            for output in self.outputs.values()
        ]
        return digest(branches), digest(strengths)

    @holds.default
    def _default_holds(self) -> frozenset[str]:
        return frozenset(name for name, output in self.outputs.items() if output.held)

    @needs_samples.default
    def _default_needs_samples(self) -> bool:
        edited = bool(self.edits) or any(branch.edit is not None for branch in self.branches)
        return edited or bool(self.differentiating) or any(map(draws, self.branches))

    @differentiating.default
    def _default_differentiating(self) -> tuple[tuple[str, str], ...]:
        return tuple(
            (output.name, acting.implementation.plugin)
            for output in self.outputs.values()
            for acting in output.combining
            if acting.needs.gradient
        )

    @has_tensor_strengths.default
    def _default_has_tensor_strengths(self) -> bool:
        return any(output.has_tensor_strengths for output in self.outputs.values())

    @conversions.default
    def _default_conversions(self) -> tuple[tuple[str, str, str, Acting], ...]:
        return tuple(
            (output.name, source, target, acting)
            for output in self.outputs.values()
            for acting in output.all_acting
            if acting.space != acting.own
            for source, target in ((acting.own, acting.space), (acting.space, acting.own))
        )
