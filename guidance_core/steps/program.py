"""Everything about a run's steps that is known before its first sample."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import attrs

from guidance_core.algebra.outputs import SINGLE
from guidance_core.algebra.spaces import Noise, affine, check_sigma
from guidance_core.errors import ConfigurationError
from guidance_core.methods.stack import Stack
from guidance_core.methods.step import Moment, States
from guidance_core.parameters.schedules import Position
from guidance_core.steps.bound_branch import BoundBranch
from guidance_core.steps.build import build_layout
from guidance_core.steps.layout import Layout
from guidance_core.steps.settings import RunIdentity, RunSettings

Sigma: TypeAlias = float | Mapping[str, float]
"A noise level, or one for each output."

Levels: TypeAlias = dict[str, Noise]
"Noise level by output."

_run_ids = itertools.count()


@attrs.frozen
class Scheduled:
    """One step of a program, at its usual noise level and first evaluation."""

    layout: Layout
    branches: tuple[BoundBranch, ...]
    noise: Levels


class Program:
    """The steps of a run as the plugins want them, so that what is wrong is known before any forward."""

    def __init__(
        self,
        stack: Stack,
        settings: RunSettings,
        *,
        outputs: tuple[str, ...] | None = None,
        identity: RunIdentity | None = None,
    ) -> None:
        """Ask the plugins for every step.

        Args:
            stack: the methods.
            settings: what the run was started with.
            outputs: names of the outputs; where none are given, those that the settings or parameters name.
            identity: of the run the program is for; a new one if None.

        Raises:
            ConfigurationError: sigmas and outputs do not match, a parameter has no usable value, or a space that a
                plugin wants cannot be reached.
            BranchConflictError: two plugins want different passes under one name.
            PluginError: a plugin failed to name its branches.
        """
        self.stack = stack
        self.settings = settings
        self.identity = identity or RunIdentity(next(_run_ids), stack.plugins, settings)
        self.outputs = outputs or settings.outputs or stack.named_outputs() or (SINGLE,)
        sigmas = settings.sigmas
        if None not in sigmas and set(sigmas) != set(self.outputs):
            raise ConfigurationError(
                f"sigmas are given for {', '.join(map(str, sigmas))}, but the outputs are {', '.join(self.outputs)}."
            )
        noise: list[Levels] = [
            {name: Noise(self.sigma(name, index), self.alpha(index)) for name in self.outputs}
            for index in range(settings.count)
        ]
        self._positions = [self._positions_at(index, levels) for index, levels in enumerate(noise)]
        self.layouts: list[Layout] = []
        "By step."
        state: States = {}
        held: set[str] = set()
        for index in range(settings.count):
            self.layouts.append(self._built(self._moment(index, self._positions[index], 0, None), held, state))
            held |= set(self.outputs) - self.layouts[-1].holds
        self.keeps = frozenset[str]().union(*(layout.holds for layout in self.layouts))
        "The outputs whose x0 some step holds."
        for layout, levels in zip(self.layouts, noise, strict=True):
            self._check_spaces(layout, levels)
        self.steps = [
            Scheduled(layout, self._bind(layout, levels), levels)
            for layout, levels in zip(self.layouts, noise, strict=True)
        ]

    def for_outputs(self, outputs: tuple[str, ...]) -> Program:
        """Return the program of the same run for a sample with other outputs."""
        return Program(self.stack, self.settings, outputs=outputs, identity=self.identity)

    def scheduled(
        self,
        index: int,
        noise: Levels,
        evaluation: int,
        model: str | None,
        held: Iterable[str],
        state: States,
    ) -> Scheduled:
        """Return a step that is not as usual: at another noise level, evaluated again, or asked with state."""
        moment = self._moment(index, self._positions_at(index, noise), evaluation, model)
        layout = self._built(moment, held, state, self.keeps)
        self._check_spaces(layout, noise)
        return Scheduled(layout, self._bind(layout, noise), noise)

    def sigma(self, output: str, index: int) -> float:
        """Return the noise level of a step for one output."""
        sigmas = self.settings.sigmas
        return (sigmas[None] if None in sigmas else sigmas[output])[index]

    def alpha(self, index: int) -> float | None:
        """Return the signal level of a step, where the host gave one."""
        return None if self.settings.alphas is None else self.settings.alphas[index]

    def levels(self, index: int, sigma: Sigma | None, alpha: float | None) -> Levels:
        """Return the levels of an evaluation at a noise level of its own.

        Raises:
            ConfigurationError: a level cannot be used, or is missing for an output.
        """
        levels = sigma if isinstance(sigma, Mapping) else dict.fromkeys(self.outputs, sigma)
        if set(levels) != set(self.outputs):
            raise ConfigurationError(
                f"sigma is given for {', '.join(levels)}, but the outputs are {', '.join(self.outputs)}."
            )
        noise = {}
        for name, level in levels.items():
            value = self.sigma(name, index) if level is None else _level("sigma", level)
            check_sigma("sigma", value, self.settings.prediction_type)
            own_alpha = self.alpha(index) if level is None else None
            noise[name] = Noise(value, own_alpha if alpha is None else _level("alpha", alpha))
        return {name: noise[name] for name in self.outputs}

    def _moment(self, index: int, positions: Mapping[str, Position], evaluation: int, model: str | None) -> Moment:
        count = self.settings.count
        return Moment(
            run_id=self.identity.id,
            index=index,
            count=count,
            evaluation=evaluation,
            outputs=tuple(positions),
            positions=positions,
            next_positions=self._positions[index + 1] if index + 1 < count else None,
            prediction_type=self.settings.prediction_type,
            conditions=frozenset(self.settings.conditions or ()),
            model=model,
            plugins=tuple(self.stack.plugins),
        )

    def _positions_at(self, index: int, noise: Levels) -> dict[str, Position]:
        count = self.settings.count
        return {name: Position(index, count, level.sigma, self.sigma(name, 0)) for name, level in noise.items()}

    def _built(
        self, moment: Moment, holdable: Iterable[str], state: States, foreseen: frozenset[str] | None = None
    ) -> Layout:
        stack, conditions = self.stack, self.settings.conditions
        return build_layout(stack.hooks, stack.plugins, moment, conditions, state, holdable=holdable, foreseen=foreseen)

    def _check_spaces(self, layout: Layout, noise: Levels) -> None:
        """Raise where a plugin wants a space that cannot be reached at this noise level."""
        own = self.settings.prediction_type
        for output in layout.outputs.values():
            for acting in output.all_acting:
                for pair in ((own, acting.space), (acting.space, own)):
                    try:
                        affine(*pair, noise[output.name])
                    except ConfigurationError as error:
                        raise ConfigurationError(
                            f"plugin {acting.implementation.plugin!r} works in {acting.needs.space}: {error}"
                        ) from None
            if output.name in self.keeps:
                affine(*(("x0", own) if output.held else (own, "x0")), noise[output.name])

    def _bind(self, layout: Layout, noise: Levels) -> tuple[BoundBranch, ...]:
        sigmas = {name: level.sigma for name, level in noise.items()}
        return tuple(
            BoundBranch(branch, layout.inputs[branch.name], layout.moment, sigmas, layout.holds)
            for branch in layout.branches
        )


def _level(what: str, given: Any) -> float:
    try:
        level = float(given)
    except (TypeError, ValueError):
        raise ConfigurationError(f"{what} must be a number; got {given!r}.") from None
    if not math.isfinite(level) or level < 0:
        raise ConfigurationError(f"{what} must be finite and not negative; got {level}.")
    return level
