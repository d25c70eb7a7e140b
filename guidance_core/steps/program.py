"""Everything about a run's steps that is known before its first sample."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TypeAlias

from guidance_core.algebra.outputs import SINGLE
from guidance_core.algebra.spaces import GivenNoise, Noise, affine, check_sigma
from guidance_core.errors import ConfigurationError
from guidance_core.methods.stack import Stack
from guidance_core.methods.step import Moment, RunFacts, States
from guidance_core.steps.bound_branch import BoundBranch
from guidance_core.steps.build import build_layout
from guidance_core.steps.known import KnownLayouts
from guidance_core.steps.layout import Layout
from guidance_core.steps.levels import check_belongs, checked_level
from guidance_core.steps.scheduled import Scheduled
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
        self.outputs = outputs or settings.outputs or stack.named_outputs() or (SINGLE,)
        sigmas = settings.sigmas
        if None not in sigmas and set(sigmas) != set(self.outputs):
            raise ConfigurationError(
                f"sigmas are given for {', '.join(map(str, sigmas))}, but the outputs are {', '.join(self.outputs)}."
            )
        self._facts = RunFacts(
            run_id=self.identity.id,
            count=settings.count,
            sigmas={name: sigmas[None if None in sigmas else name] for name in self.outputs},
            prediction_type=settings.prediction_type,
            conditions=frozenset(settings.conditions or ()),
            plugins=tuple(stack.plugins),
        )
        moments = [Moment(self._facts, index, 0, self._usual(index), None) for index in range(settings.count)]
        self.layouts: list[Layout] = self._laid_out(moments)
        "By step."
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
        return self._checked(layout or self._built(moment, held, state, self.keeps), moment)

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
        branches = [BoundBranch(each, layout.inputs[each.name], moment, layout.holds) for each in layout.branches]
        return Scheduled(layout, moment, tuple(branches))

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
                f"sigma is given for {', '.join(map(str, levels))}, but the outputs are {', '.join(self.outputs)}."
            )
        noise = {}
        for name, level in levels.items():
            value = self._facts.sigmas[name][index] if level is None else checked_level("sigma", level)
            check_sigma("sigma", value, self.settings.prediction_type)
            check_belongs(self._facts.sigmas[name], index, value, name)
            own_alpha = self.alpha(index) if level is None else None
            signal = own_alpha if alpha is None else checked_level("alpha", alpha)
            noise[name] = (Noise if level is None else GivenNoise)(value, signal)
        return {name: noise[name] for name in self.outputs}

    def _built(
        self, moment: Moment, holdable: Set[str], state: States, foreseen: frozenset[str] | None = None
    ) -> Layout:
        stack, conditions = self.stack, self.settings.conditions
        return build_layout(stack.hooks, stack.plugins, moment, conditions, state, holdable=holdable, foreseen=foreseen)
