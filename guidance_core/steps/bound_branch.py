"""A branch as the host's denoiser gets it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

import attrs
import torch
from torch import Tensor

from guidance_core.errors import GuidanceError, PluginError
from guidance_core.methods.moment import Moment
from guidance_core.methods.noise import noise_like
from guidance_core.methods.perturbations import Perturbation
from guidance_core.methods.randomized import RandomPerturbation, draws
from guidance_core.methods.requests import BASE, NOTHING, Branch, Edit
from guidance_core.methods.tracked import Tracked
from guidance_core.steps.layout import Layout


class BoundBranch:
    """A branch as the host's denoiser gets it, with everything that one forward pass needs."""

    __slots__ = (
        "_branch",
        "_edited",
        "_edits",
        "_inputs",
        "_is_random",
        "_moment",
        "_samples",
        "_tracked",
        "amended_by",
        "condition",
        "gradient",
        "held",
        "model",
        "name",
        "perturbations",
        "rows",
    )

    def __init__(self, branch: Branch, layout: Layout, moment: Moment) -> None:
        self._branch = branch
        self._edits = layout.edits
        self._inputs = layout.inputs[branch.name]
        self._edited: Mapping[str, Any] | None = (
            None if branch.condition in layout.edits or branch.edit else self._inputs
        )
        self._moment = moment
        self._samples: Mapping[str, Tensor] = NOTHING
        self._tracked: dict[str, Tracked] = {}
        self.name = branch.name
        "Stable name of the branch; `cond` is the base."
        self.condition = branch.condition
        "Name of the condition it runs, for a host that looks its inputs up at every step."
        self.amended_by: tuple[str, ...] = layout.amended[branch.name]
        "The plugins that change it at this step, as every pass with its condition; with `name`, the key of a cache."
        self.perturbations = branch.perturbations
        "What to change inside the model for this pass."
        self._is_random = draws(branch)
        self.model = branch.model or moment.model
        "The model to run, by name; `None` for the only one."
        self.held = layout.holds
        "The outputs that keep their last x0 at this step: the pass still returns them, but nothing reads them."
        self.gradient = bool(layout.differentiating) and branch.name == BASE
        "Whether to run it inside `with branch.differentiable():`, as executors do."
        self.rows: slice | None = None
        "The rows of the batch to run; `None` for all. Set only for a denoiser with `takes_rows = True`."

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The condition's model inputs, with the edits of plugins and the branch's overrides; read-only.

        Raises:
            PluginError: a plugin failed to edit them.
        """
        if self._edited is None:
            self._edited = self.amend(self._moment.run.inputs.get(self.condition) or NOTHING)
        return self._edited

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits of the model inputs of the pass, in order: those of its condition first, then its own."""
        amend = self._edits.get(self.condition)
        edits = (None if amend is None else amend.edit, self._branch.edit)
        return tuple(edit for edit in edits if edit is not None)

    @property
    def also(self) -> Mapping[str, Mapping[str, Any]]:
        """Model inputs of the further conditions that the pass gets, by condition."""
        if not self._branch.also:
            return NOTHING
        given = self._moment.run.inputs
        return {name: self._after_edit(name, given.get(name) or NOTHING) for name in self._branch.also}

    def amend(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the edited inputs of this pass, for a host that holds the inputs of the conditions itself.

        Args:
            inputs: the inputs of the branch's condition, by the model's names.

        Raises:
            PluginError: a plugin failed to edit them.
        """
        edited = self._after_edit(self.condition, inputs)
        own = self._branch
        if own.edit is not None:
            edited = self._edited_by(own.edit, own.plugin, f"branch {own.name!r}", edited)
        return {**edited, **own.overrides} if own.overrides else edited

    def _after_edit(self, condition: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        amend = self._edits.get(condition)
        if amend is None or amend.edit is None:
            return inputs
        return self._edited_by(amend.edit, amend.plugin, f"condition {condition!r}", inputs)

    def _edited_by(self, edit: Edit, plugin: str, what: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            changed = edit(MappingProxyType(dict(inputs)), partial(self._noise, plugin, what))
        except Exception as error:
            if isinstance(error, GuidanceError):
                raise
            raise PluginError(
                f"plugin {plugin!r} failed to edit the inputs of {what} "
                f"({', '.join(map(str, inputs)) or 'none'}): {type(error).__name__}: {error}"
            ) from error
        if not isinstance(changed, Mapping):
            raise PluginError(
                f"plugin {plugin!r} must return a dict from its edit of {what}, of the inputs "
                f"that it replaces; got {type(changed).__name__}."
            )
        return {**inputs, **changed}

    def _noise(self, plugin: str, what: str, tensor: Tensor, purpose: str) -> Tensor:
        key = (self.step, plugin, what, purpose)
        rows = next((each.shape[0] for each in self._samples.values()), None)
        return noise_like(tensor, self._moment.run.seeds, rows, key, f"plugin {plugin!r}")

    @contextmanager
    def differentiable(self) -> Iterator[None]:
        """Record gradients with respect to the sample while the pass runs, if a method differentiates; else do nothing.

        The forward pass must use the sample of the step: the same tensor, not a copy.
        """
        if not self.gradient:
            yield
            return
        lent = [sample for sample in self._samples.values() if not sample.requires_grad]
        with torch.enable_grad():
            try:
                for sample in lent:
                    sample.requires_grad_(True)
                self._tracked.update({name: Tracked.of(each) for name, each in self._samples.items()})
                yield
            finally:
                for sample in lent:
                    sample.requires_grad_(False)

    @property
    def tracked(self) -> Mapping[str, Tracked]:
        """The samples by output, in the graph of the pass, once it has run with gradients."""
        return self._tracked

    @property
    def run_id(self) -> int:
        """Number of the run, unique in the process."""
        return self._moment.run.run_id

    @property
    def step(self) -> int:
        """Index of the step, from 0."""
        return self._moment.index

    @property
    def evaluation(self) -> int:
        """How many times the run was evaluated at this step before: 0, or 1 in Heun's second evaluation."""
        return self._moment.evaluation

    @property
    def sigmas(self) -> Mapping[str, float]:
        """Noise level of the evaluation by output."""
        return {name: level.sigma for name, level in self._moment.noise.items()}

    @property
    def sigma(self) -> float:
        """Noise level of the evaluation (of the first output, if they differ)."""
        return self._moment.noise[self._moment.run.outputs[0]].sigma

    def for_rows(self, rows: slice) -> BoundBranch:
        """Return the same branch for some rows of the batch."""
        part = copy.copy(self)
        part.rows = rows
        if part._is_random:
            part.perturbations = tuple(_of_rows(each, rows) for each in self.perturbations)
        return part

    def for_samples(self, samples: Mapping[str, Tensor]) -> BoundBranch:
        """Return the same branch for this noisy sample by output, on which edits and gradients depend."""
        bound = copy.copy(self)
        bound._samples, bound._tracked = samples, {}
        if self._is_random:
            rows = next(iter(samples.values())).shape[0]
            bound.perturbations = tuple(self._seeded(each, rows) for each in self.perturbations)
        return bound

    def _seeded(self, each: Perturbation, rows: int) -> Perturbation:
        if not isinstance(each, RandomPerturbation):
            return each
        seeds = self._moment.run.seeds.derived(rows, self.step, type(each).__name__)
        return attrs.evolve(each, seeds=seeds)

    def __repr__(self) -> str:
        return f"BoundBranch({self.name!r}, run {self.run_id}, step {self.step}, condition {self.condition!r})"


def _of_rows(each: Perturbation, rows: slice) -> Perturbation:
    return attrs.evolve(each, seeds=each.seeds[rows]) if isinstance(each, RandomPerturbation) else each
