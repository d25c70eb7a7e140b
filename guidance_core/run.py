"""A run: one generation, which owns all state."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Mapping
from operator import index as as_index
from typing import Any, TypeAlias

import torch
from torch import Tensor

from guidance_core import fingerprint
from guidance_core.arithmetic import Term, evaluate
from guidance_core.branch import BASE, BoundBranch
from guidance_core.combination import Scene, Workspace, correct, guide
from guidance_core.describe import Description, describe_run
from guidance_core.errors import ConfigurationError
from guidance_core.executors.base import Denoiser, Executor, Sums
from guidance_core.layout import Layout, build_layout
from guidance_core.outputs import SINGLE, Structure, Structured
from guidance_core.plan import Plan
from guidance_core.schedules import Position
from guidance_core.settings import RunSettings
from guidance_core.spaces import Noise, affine, check_sigma
from guidance_core.stack import Stack
from guidance_core.step import Moment, States

_run_ids = itertools.count()

Sigma: TypeAlias = float | Mapping[str, float]

_Outcome: TypeAlias = tuple[dict[str, Tensor], States]
"The guided prediction by output, and the state that the plugins left."


class _Evaluation:
    """One evaluation of a run's step, for executors whose processes agree in between."""

    def __init__(self, run: Run, index: int, sample: Structured, **given: Any) -> None:
        self.run = run
        self._arguments = (index, sample)
        self._given = given

    def plan(self) -> Plan:
        return self.run.plan(*self._arguments, **self._given)

    def combine(self, plan: Plan, predictions: Mapping[str, Any] | Sums) -> _Outcome:
        return self.run._combine(plan, predictions)

    def commit(self, plan: Plan, outcome: _Outcome) -> Any:
        return self.run._commit(plan, outcome)


class Run:
    """One generation: call `step` once for every evaluation, in order.

    A run belongs to one thread at a time. Different runs, of one `Guidance` or several, never
    influence each other.
    """

    def __init__(self, stack: Stack, executor: Executor, settings: RunSettings) -> None:
        self.id = next(_run_ids)
        "Number of the run, unique in the process."
        self.stack = stack
        self.settings = settings
        self.count = len(next(iter(settings.sigmas.values()))) - 1
        "Number of steps."
        self.passes = 0
        "Branches evaluated so far."
        self._state: States = {}
        self._version = 0
        self._held: dict[str, tuple[Tensor, torch.dtype]] = {}
        self._workspace = Workspace()
        self._last = (-1, 0)
        self._structure: Structure | None = None
        self._prepare(settings.outputs or stack.named_outputs() or (SINGLE,))
        self.executor = executor.for_run(self)

    def step(
        self,
        index: int,
        sample: Structured,
        denoise: Denoiser,
        *,
        sigma: Sigma | None = None,
        alpha: float | None = None,
        model: str | None = None,
    ) -> Any:
        """Evaluate one step: run its branches and return the guided prediction.

        Args:
            index: which step, from 0. Samplers that evaluate a step twice pass the same index again.
            sample: the noisy sample, `[B, ...]` floating point, or a tuple or dict of such.
            denoise: runs one forward pass for the branch it is given.
            sigma: noise level (by output where they differ), if not that of the step: Heun, res2s.
            alpha: signal level to go with `sigma`, where the prediction type does not imply it.
            model: name of the model in use, where the host switches between several.

        Returns:
            The guided prediction in the prediction type, structure, shape and dtype of the denoiser's.

        Raises:
            ConfigurationError: the index, sample or sigma cannot be used.
            DenoiserError: a prediction does not fit the sample or the base branch.
            PluginError: a plugin's hook failed.
        """
        if self.executor.is_distributed:
            evaluation = _Evaluation(self, index, sample, sigma=sigma, alpha=alpha, model=model)
            return self.executor.conduct(evaluation, denoise)
        plan = self.plan(index, sample, sigma=sigma, alpha=alpha, model=model)
        return self._commit(plan, self._combine(plan, self.executor.execute(plan, denoise)))  # as `finish` does

    def plan(
        self,
        index: int,
        sample: Structured,
        *,
        sigma: Sigma | None = None,
        alpha: float | None = None,
        model: str | None = None,
    ) -> Plan:
        """Return the branches of a step; evaluate them and hand the predictions to `finish`."""
        index = self._checked_index(index)
        structure, samples = self._checked_sample(sample)
        if structure.names != self._outputs:
            self._prepare(structure.names)
        evaluation = self._last[1] + 1 if self._last[0] == index else 0
        layout, branches, noise = self.layouts[index], self._bound[index], self._noise[index]
        state = _copied(self._state) if self._state else {}
        usual = sigma is None and alpha is None and model is None and evaluation == 0
        if not usual or layout.depends_on_state or (layout.holds and not layout.holds <= self._held.keys()):
            if sigma is not None or alpha is not None:
                noise = self._own_noise(index, sigma, alpha)
            layout = self._built(self._moment(index, noise, evaluation, model), self._held, state)
            self._check_spaces(layout, noise)
            branches = self._bind(layout)
        if layout.has_tensor_strengths:
            for name, each in samples.items():
                layout.outputs[name].weights(each)  # raises where one does not broadcast
        return Plan(self, layout, branches, structure, samples, noise, state, self._version)

    def finish(self, plan: Plan, predictions: Mapping[str, Any] | Sums) -> Any:
        """Combine the predictions of a plan's branches, by branch name, into the guided prediction.

        Raises:
            ConfigurationError: the plan belongs to another run, or was finished before.
            DenoiserError: a prediction is missing or does not fit.
            PluginError: a plugin's hook failed.
        """
        return self._commit(plan, self._combine(plan, predictions))

    def _combine(self, plan: Plan, predictions: Mapping[str, Any] | Sums) -> _Outcome:
        """Return the guided predictions and the state to keep; nothing of it lasts yet."""
        if plan.owner is not self or plan.is_finished or plan.version != self._version:
            why = "belongs to another run" if plan.owner is not self else "was finished before"
            why = why if plan.is_finished or plan.owner is not self else "was made before another was finished"
            raise ConfigurationError(f"this plan of step {plan.index} {why}; call plan() anew.")
        state = _copied(plan.state) if plan.state else {}
        results = {}
        if isinstance(predictions, Sums):
            for name in plan.samples:
                results[name] = self._from_sums(plan, name, predictions, state)
        else:
            moment, layouts = plan.layout.moment, plan.layout.outputs
            for name, given in plan.checked(predictions).items():
                layout = layouts[name]
                if layout.is_plain:
                    terms = [(given[branch], weight) for branch, weight in layout.weights(given[BASE])]
                    results[name] = evaluate(terms, dtype=given[BASE].dtype)
                elif layout.held:
                    results[name] = self._held_result(plan, name)
                else:
                    scene = Scene(layout, plan.samples[name], plan.noise[name], moment, state, self._workspace)
                    results[name] = guide(scene, given)
        return results, state

    def _commit(self, plan: Plan, outcome: _Outcome) -> Any:
        """Make the step's state last and return the result in the host's structure."""
        results, state = outcome
        plan.is_finished = True
        self._version += 1
        self.passes += len(plan.branches)
        if state:
            self._state = {
                name: {output: self._workspace.safe(kept) for output, kept in states.items()}
                for name, states in state.items()
            }
        if self._keeps:
            self._keep_x0(plan, results)
        moment = plan.layout.moment
        self._last = (moment.index, moment.evaluation)
        return plan.restored(results)

    def describe(self) -> Description:
        """Return the effective plan: passes per step, who asked for each, every parameter's origin."""
        return describe_run(self.stack, self.executor.describe(), self.layouts, self.executor.placed)

    @functools.cached_property
    def fingerprint(self) -> tuple[int, int, int]:
        """What stands for the methods, their parameters and the run's settings among ranks."""
        return fingerprint.of_run(self.stack, self.settings)

    # Preparing: everything that needs no sample.

    def _prepare(self, outputs: tuple[str, ...]) -> None:
        """Build the layout of every step, so that what is wrong is known before any forward."""
        sigmas = self.settings.sigmas
        if None not in sigmas and set(sigmas) != set(outputs):
            raise ConfigurationError(
                f"sigmas are given for {', '.join(map(str, sigmas))}, but the outputs are {', '.join(outputs)}."
            )
        self._outputs = outputs
        self._noise = [
            {name: Noise(self._sigma(name, index), self._alpha(index)) for name in outputs}
            for index in range(self.count)
        ]
        self.layouts: list[Layout] = []
        state: States = {}
        held: set[str] = set()
        for index, noise in enumerate(self._noise):
            self.layouts.append(self._built(self._moment(index, noise, 0, None), held, state))
            held |= set(outputs) - self.layouts[-1].holds
        for layout, noise in zip(self.layouts, self._noise, strict=True):
            self._check_spaces(layout, noise)
        self._bound = [self._bind(layout) for layout in self.layouts]
        self._keeps = frozenset[str]().union(*(layout.holds for layout in self.layouts))

    def _sigma(self, output: str, index: int) -> float:
        sigmas = self.settings.sigmas
        return (sigmas[None] if None in sigmas else sigmas[output])[index]

    def _alpha(self, index: int) -> float | None:
        return None if self.settings.alphas is None else self.settings.alphas[index]

    def _moment(self, index: int, noise: Mapping[str, Noise], evaluation: int, model: str | None) -> Moment:
        ahead = self._noise[index + 1] if index + 1 < self.count else None
        return Moment(
            run_id=self.id,
            index=index,
            count=self.count,
            evaluation=evaluation,
            outputs=tuple(noise),
            positions=self._positions(index, noise),
            next_positions=None if ahead is None else self._positions(index + 1, ahead),
            prediction_type=self.settings.prediction_type,
            conditions=frozenset(self.settings.conditions or ()),
            model=model,
            plugins=tuple(self.stack.plugins),
        )

    def _positions(self, index: int, noise: Mapping[str, Noise]) -> dict[str, Position]:
        return {name: Position(index, self.count, level.sigma, self._sigma(name, 0)) for name, level in noise.items()}

    def _built(self, moment: Moment, holdable: Iterable[str], state: States) -> Layout:
        stack, conditions = self.stack, self.settings.conditions
        return build_layout(stack.hooks, stack.plugins, moment, conditions, state, holdable=holdable)

    def _check_spaces(self, layout: Layout, noise: Mapping[str, Noise]) -> None:
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
            if output.held:
                affine("x0", own, noise[output.name])

    def _bind(self, layout: Layout) -> tuple[BoundBranch, ...]:
        moment = layout.moment
        return tuple(
            BoundBranch(
                branch,
                layout.inputs[branch.name],
                moment.model,
                moment.run_id,
                moment.index,
                moment.evaluation,
            )
            for branch in layout.branches
        )

    # Planning: what depends on the sample.

    def _checked_index(self, index: int) -> int:
        try:
            number = as_index(index)
        except TypeError:
            raise ConfigurationError(f"a step index is a whole number; got {index!r}.") from None
        if not 0 <= number < self.count:
            raise ConfigurationError(
                f"step {number} is out of range: the run has {self.count} steps, 0 to {self.count - 1}."
            )
        return number

    def _checked_sample(self, sample: Any) -> tuple[Structure, dict[str, Tensor]]:
        structure = self._structure
        entries = None if structure is None else structure.entries(sample)
        if structure is None or entries is None:
            structure = Structure.of(sample, self.settings.outputs)
            entries = structure.entries(sample)
            if entries is None:
                raise structure.misfit(sample, "the sample", ConfigurationError)
        samples = {}
        for number, name in enumerate(structure.names):
            samples[name] = tensor = entries[number]
            if not tensor.dtype.is_floating_point:
                raise ConfigurationError(f"the sample ({name}) must be floating point; got {tensor.dtype}.")
            if tensor.ndim == 0 or tensor.numel() == 0:
                raise ConfigurationError(
                    f"the sample ({name}) must be [B, ...] with at least one element; got shape {tuple(tensor.shape)}."
                )
        self._structure = structure
        return structure, samples

    def _own_noise(self, index: int, sigma: Sigma | None, alpha: float | None) -> dict[str, Noise]:
        levels = sigma if isinstance(sigma, Mapping) else dict.fromkeys(self._outputs, sigma)
        if set(levels) != set(self._outputs):
            raise ConfigurationError(
                f"sigma is given for {', '.join(levels)}, but the outputs are {', '.join(self._outputs)}."
            )
        noise = {}
        for name, level in levels.items():
            value = self._sigma(name, index) if level is None else _level("sigma", level)
            check_sigma("sigma", value, self.settings.prediction_type)
            own_alpha = (
                _level("alpha", alpha) if alpha is not None else None if level is not None else self._alpha(index)
            )
            noise[name] = Noise(value, own_alpha)
        return {name: noise[name] for name in self._outputs}

    # Finishing: what depends on the predictions.

    def _from_sums(self, plan: Plan, output: str, given: Sums, state: States) -> Tensor:
        if plan.layout.outputs[output].held:
            return self._held_result(plan, output)
        layout, sample, noise = plan.layout, plan.samples[output], plan.noise[output]
        scene = Scene(layout.outputs[output], sample, noise, layout.moment, state, self._workspace)
        terms: list[Term] = [(given.sums[output], 1.0)]
        base, known = given.references.get(output), given.statistics.get(output)
        return correct(scene, terms, given.like[output], base, known)

    def _keep_x0(self, plan: Plan, results: Mapping[str, Tensor]) -> None:
        own = self.settings.prediction_type
        for name in self._keeps - plan.layout.holds:
            result = results[name]
            x0 = evaluate([(result, 1.0)], plan.samples[name], affine(own, "x0", plan.noise[name]))
            self._held[name] = (x0.clone() if x0 is result else x0, result.dtype)

    def _held_result(self, plan: Plan, output: str) -> Tensor:
        x0, dtype = self._held[output]
        conversion = affine("x0", self.settings.prediction_type, plan.noise[output])
        result = evaluate([(x0, 1.0)], plan.samples[output], conversion, dtype=dtype)
        return result.clone() if result is x0 else result


def _copied(state: States) -> States:
    return {name: {output: dict(kept) for output, kept in states.items()} for name, states in state.items()}


def _level(what: str, given: Any) -> float:
    try:
        level = float(given)
    except (TypeError, ValueError):
        raise ConfigurationError(f"{what} must be a number; got {given!r}.") from None
    if not math.isfinite(level) or level < 0:
        raise ConfigurationError(f"{what} must be finite and not negative; got {level}.")
    return level
