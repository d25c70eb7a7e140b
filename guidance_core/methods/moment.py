"""Where a step stands in its run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import attrs

from guidance_core.algebra.spaces import Noise, PredictionType
from guidance_core.methods.noise import Seeds
from guidance_core.methods.split import Piece, Split
from guidance_core.parameters.schedules import Position

States: TypeAlias = dict[str, dict[str | None, dict[str, Any]]]
"What plugins keep in a run: by plugin, then by output (None: of the whole step)."


def copied(state: States) -> States:
    """Return a copy with dicts of its own and the same values."""
    return {name: {output: dict(kept) for output, kept in states.items()} for name, states in state.items()}


@attrs.frozen(eq=False)
class RunFacts:
    """What is the same for all steps of a run."""

    run_id: int
    count: int
    sigmas: Mapping[str, tuple[float, ...]]
    "Noise levels by output: one per step, and the final one."
    alphas: tuple[float, ...] | None
    "Signal levels, one per step and perhaps the final one, where the host gave them."
    prediction_type: PredictionType
    conditions: frozenset[str]
    plugins: tuple[str, ...]
    inputs: Mapping[str, Mapping[str, Any] | None]
    "The host's model inputs by condition."
    seeds: Seeds
    blocks: Mapping[str, int] | None
    "How many blocks the host's model has, by list of blocks, where it says so."
    shards: Split | None
    "Which outputs are pieces of longer ones."
    outputs: tuple[str, ...] = attrs.field(init=False)

    @outputs.default
    def _default_outputs(self) -> tuple[str, ...]:
        return tuple(self.sigmas)

    def piece(self, output: str) -> Piece | None:
        """Return which piece of an output this rank holds; None if it is whole."""
        return None if self.shards is None else self.shards.of(output)


@attrs.frozen(eq=False)
class Moment:
    """Where a step stands, for all plugins alike."""

    run: RunFacts
    index: int
    evaluation: int
    noise: Mapping[str, Noise]
    "By output."
    model: str | None

    def position(self, output: str) -> Position:
        """Return where the evaluation stands for one output."""
        return Position(self.index, self.run.count, self.noise[output].sigma, self.run.sigmas[output][0])

    def next_noise(self, output: str) -> Noise:
        """Return the noise level that follows the step in the run's schedule."""
        following, alphas = self.index + 1, self.run.alphas
        sigma = self.run.sigmas[output][following]
        alpha = alphas[following] if alphas is not None and following < len(alphas) else None
        return Noise(sigma, 1.0 if alpha is None and sigma == 0.0 else alpha)

    def next_position(self, output: str) -> Position | None:
        """Return where the next step stands; None at the last."""
        sigmas, following = self.run.sigmas[output], self.index + 1
        return Position(following, self.run.count, sigmas[following], sigmas[0]) if following < self.run.count else None

    @property
    def is_one_for_all(self) -> bool:
        """Whether all outputs stand at the same place."""
        first = self.run.outputs[0]
        return all(
            self.noise[name].sigma == self.noise[first].sigma and self.run.sigmas[name][0] == self.run.sigmas[first][0]
            for name in self.run.outputs[1:]
        )
