"""Everything about a run's steps that is known before its first sample."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from types import MappingProxyType
from typing import TypeAlias

import attrs

from guidance_core.algebra.outputs import SINGLE
from guidance_core.algebra.spaces import GivenNoise, Noise, affine, check_sigma
from guidance_core.errors import ConfigurationError
from guidance_core.methods.moment import Moment, RunFacts, States
from guidance_core.methods.noise import Seeds
from guidance_core.methods.requests import Branch
from guidance_core.methods.stack import Stack
from guidance_core.parameters.schedules import ROUNDING
from guidance_core.steps.bound_branch import BoundBranch
from guidance_core.steps.build import build_layout
from guidance_core.steps.known import KnownLayouts
from guidance_core.steps.layout import Layout
from guidance_core.steps.levels import check_belongs, checked_level, nearest_step
from guidance_core.steps.scheduled import Scheduled
from guidance_core.steps.selection import Selection
from guidance_core.steps.settings import RunIdentity, RunSettings

Sigma: TypeAlias = float | Mapping[str, float]
"A noise level, or one for each output."

Levels: TypeAlias = Mapping[str, Noise]
"Noise level by output."

_run_ids = itertools.count()


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
        settings.check_recipe(outputs or settings.outputs)
        self.outputs = outputs or settings.outputs or stack.named_outputs() or (SINGLE,)
        sigmas = settings.sigmas
        if None not in sigmas and set(sigmas) != set(self.outputs):
            raise ConfigurationError(
                f"sigmas are given for {', '.join(map(str, sigmas))}, but the outputs are {', '.join(self.outputs)}."
            )
        shards = settings.shards
        if shards is not None and not set(shards.dims) <= set(self.outputs):
            raise ConfigurationError(
                f"shards are given for {', '.join(shards.dims)}, but the outputs are {', '.join(self.outputs)}."
            )
        self._facts = RunFacts(
            run_id=self.identity.id,
            count=settings.count,
            sigmas={name: sigmas[None if None in sigmas else name] for name in self.outputs},
            alphas=settings.alphas,
            prediction_type=settings.prediction_type,
            conditions=frozenset(settings.conditions or ()),
            plugins=tuple(stack.plugins),
            inputs=settings.conditions or {},
            seeds=settings.seeds,
            blocks=settings.blocks,
            shards=settings.shards,
        )
        moments = [Moment(self._facts, index, 0, self._usual(index), None) for index in range(settings.count)]
        self.layouts: list[Layout] = self._laid_out(moments)
        "By step."
        self._accepted: list[Branch] = []
        for layout in dict.fromkeys(self.layouts):
            self._check_supported(layout)
        self.keeps = frozenset(name for layout in set(self.layouts) for name in layout.holds)
        "The outputs whose x0 some step holds."
        self.steps = [self._checked(layout, moment) for layout, moment in zip(self.layouts, moments, strict=True)]

    def _laid_out(self, moments: Sequence[Moment]) -> list[Layout]:
        """Return the layout of each step; steps that the plugins cannot tell apart share one."""
        layouts: list[Layout] = []
        known = KnownLayouts(self.stack.plugins)
        state: States = {}
        held: set[str] = set()
        for moment in moments:
            layout = known.find(moment, held)
            if layout is None:
                layout = self._built(moment, held, state)
                known.add(layout)
            layouts.append(layout)
            if len(held) < len(self.outputs):
                held |= set(self.outputs) - layout.holds
        return layouts

    def _usual(self, index: int) -> Levels:
        """Return the noise levels of a step; outputs at one level share it."""
        sigmas, alpha = self._facts.sigmas, self.alpha(index)
        if None in self.settings.sigmas:
            return dict.fromkeys(self.outputs, Noise(sigmas[self.outputs[0]][index], alpha))
        return {name: Noise(levels[index], alpha) for name, levels in sigmas.items()}

    def for_outputs(self, outputs: tuple[str, ...]) -> Program:
        """Return the program of the same run for a sample with other outputs."""
        return Program(self.stack, self.settings, outputs=outputs, identity=self.identity)

    def anew(self) -> Program:
        """Return the program of another run with the same settings."""
        return Program(self.stack, self.settings, outputs=self.outputs)

    def resumed(self, seeds: Seeds, selection: Selection | None, turns: tuple[tuple[int, ...], ...]) -> Program:
        """Return the program of the same run with other seeds, perhaps for some samples only."""
        program = self if selection is None else self.selected(selection, turns)
        settings = attrs.evolve(program.settings, seeds=seeds)
        identity = RunIdentity(self.identity.id, program.stack.plugins, settings, turns)
        return Program(program.stack, settings, outputs=self.outputs, identity=identity)

    def selected(self, selection: Selection, turns: tuple[tuple[int, ...], ...]) -> Program:
        """Return the program of the same run for some samples of its batch, after these `turns`."""
        given = self.settings.conditions
        conditions = None
        if given is not None:
            conditions = {
                name: inputs if inputs is None else MappingProxyType(selection.of_inputs(inputs))
                for name, inputs in given.items()
            }
        settings = attrs.evolve(
            self.settings, conditions=conditions, seeds=self.settings.seeds.selected(selection.indices)
        )
        stack = Stack.of([selection.of_plugin(plugin) for plugin in self.stack.plugins.values()], self.stack.given)
        identity = RunIdentity(self.identity.id, stack.plugins, settings, turns)
        return Program(stack, settings, outputs=self.outputs, identity=identity)

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
        moment = Moment(self._facts, index, evaluation, noise, model)
        held = frozenset(held)
        layout = KnownLayouts(self.stack.plugins, [self.layouts[index]]).find(moment, held)
        if layout is None:
            layout = self._built(moment, held, state, self.keeps)
            self._check_supported(layout)
        return self._checked(layout, moment)

    def _check_supported(self, layout: Layout) -> None:
        """Raise `ConfigurationError` where the host says that its model cannot run a pass; ask once for each."""
        supports = self.settings.supports
        if supports is None:
            return
        for branch in layout.branches:
            if any(branch.name == each.name and branch.same_content(each) for each in self._accepted):
                continue
            reason = supports(branch)
            if reason is not None:
                asking = [*layout.asked[branch.name], *layout.amended[branch.name]]
                raise ConfigurationError(
                    f"{_of_plugins(asking)} the pass {branch.name!r}, which the host's model cannot run: {reason}."
                )
            self._accepted.append(branch)

    def _checked(self, layout: Layout, moment: Moment) -> Scheduled:
        """Return a step, or raise where a plugin wants a space that cannot be reached at its noise level."""
        noise, own = moment.noise, self.settings.prediction_type
        for output, source, target, acting in layout.conversions:
            try:
                affine(source, target, noise[output])
            except ConfigurationError as error:
                raise ConfigurationError(
                    f"plugin {acting.implementation.plugin!r} works in {acting.space}: {error}"
                ) from None
        for name in self.keeps:
            affine(*(("x0", own) if name in layout.holds else (own, "x0")), noise[name])
        branches = [BoundBranch(each, layout, moment) for each in layout.branches]
        return Scheduled(layout, moment, tuple(branches))

    @property
    def _is_one_alpha(self) -> bool:
        """Whether the signal level is the same at every noise level."""
        return self.settings.alphas is not None and len(set(self.settings.alphas)) == 1

    def alpha(self, index: int) -> float | None:
        """Return the signal level of a step, where the host gave one."""
        return None if self.settings.alphas is None else self.settings.alphas[index]

    def find(self, sigma: Sigma, first: int) -> int:
        """Return the step that an evaluation at this noise level belongs to, among those from `first` on."""
        if not isinstance(sigma, Mapping) and None not in self.settings.sigmas and len(self.outputs) > 1:
            raise ConfigurationError(
                f"the outputs {', '.join(self.outputs)} have noise levels of their own: give sigma as a dict of them."
            )
        levels = {self.outputs[0]: sigma} if not isinstance(sigma, Mapping) else sigma
        output = str(next(iter(levels), None))
        if output not in self._facts.sigmas:
            raise ConfigurationError(
                f"sigma is given for {', '.join(map(str, levels))}, but the outputs are {', '.join(self.outputs)}."
            )
        return nearest_step(self._facts.sigmas[output], checked_level("sigma", levels[output]), first)

    def is_usual(self, index: int, sigma: Sigma) -> bool:
        """Whether this is the noise level that the schedule has for the step."""
        levels = sigma if isinstance(sigma, Mapping) else dict.fromkeys(self.outputs, sigma)
        usual = self._facts.sigmas
        return all(
            name in usual and math.isclose(checked_level("sigma", level), usual[name][index], rel_tol=ROUNDING)
            for name, level in levels.items()
        )

    def levels(self, index: int, sigma: Sigma | None, alpha: float | None, *, found: bool = False) -> Levels:
        """Return the levels of an evaluation at a noise level of its own; `found` by it, not given beside an index.

        Raises:
            ConfigurationError: a level cannot be used, or is missing for an output.
        """
        levels = sigma if isinstance(sigma, Mapping) else dict.fromkeys(self.outputs, sigma)
        if set(levels) != set(self.outputs):
            raise ConfigurationError(
                f"sigma is given for {', '.join(map(str, levels))}, but the outputs are {', '.join(self.outputs)}."
            )
        noise = {}
        for name, level in levels.items():
            value = self._facts.sigmas[name][index] if level is None else checked_level("sigma", level)
            check_sigma("sigma", value, self.settings.prediction_type)
            if not found:
                check_belongs(self._facts.sigmas[name], index, value, name)
            own_alpha = self.alpha(index) if level is None or self._is_one_alpha else None
            signal = own_alpha if alpha is None else checked_level("alpha", alpha)
            noise[name] = (Noise if level is None else GivenNoise)(value, signal)
        return {name: noise[name] for name in self.outputs}

    def _built(
        self, moment: Moment, holdable: Set[str], state: States, foreseen: frozenset[str] | None = None
    ) -> Layout:
        stack, conditions = self.stack, self.settings.conditions
        return build_layout(stack.hooks, stack.plugins, moment, conditions, state, holdable=holdable, foreseen=foreseen)


def _of_plugins(names: Sequence[str]) -> str:
    """Begin the sentence that tells whose pass cannot be run."""
    if not names:
        return "every run needs"
    return f"plugin {names[0]!r} asks for" if len(names) == 1 else f"plugins {', '.join(map(repr, names))} ask for"
