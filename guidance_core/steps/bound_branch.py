"""A branch as the host's denoiser gets it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from guidance_core.methods.requests import Branch
from guidance_core.methods.step import Moment


class BoundBranch:
    """A branch as the host's denoiser gets it: everything one forward pass needs to know."""

    __slots__ = ("_moment", "condition", "held", "inputs", "model", "name", "perturbations", "rows")

    def __init__(self, branch: Branch, inputs: Mapping[str, Any], moment: Moment, held: frozenset[str]) -> None:
        self._moment = moment
        self.name = branch.name
        "Stable name of the branch; `cond` is the base."
        self.condition = branch.condition
        "Name of the condition it runs, for a host that looks its inputs up at every step."
        self.inputs = inputs
        "The condition's model inputs, merged with the branch's overrides; read-only."
        self.perturbations = branch.perturbations
        "What to change inside the model for this pass."
        self.model = branch.model or moment.model
        "The model to run, by name; `None` for the only one."
        self.held = held
        "The outputs that keep their last x0 at this step: the pass still returns them, but nothing reads them."
        self.rows: slice | None = None
        "The rows of the batch to run; `None` for all. Set only for a denoiser with `takes_rows = True`."

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
        """How often the run was evaluated at this step before: 0, or 1 for Heun's second pass."""
        return self._moment.evaluation

    @property
    def sigmas(self) -> Mapping[str, float]:
        """Noise level of the evaluation by output."""
        return {name: level.sigma for name, level in self._moment.noise.items()}

    @property
    def sigma(self) -> float:
        """Noise level of the evaluation (of the first output, where they differ)."""
        return self._moment.noise[self._moment.run.outputs[0]].sigma

    def for_rows(self, rows: slice) -> BoundBranch:
        """Return the same branch for some rows of the batch."""
        part = copy.copy(self)
        part.rows = rows
        return part

    def __repr__(self) -> str:
        return f"BoundBranch({self.name!r}, run {self.run_id}, step {self.step}, inputs {sorted(self.inputs)})"
