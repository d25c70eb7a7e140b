"""From what the plugins ask for to the branches of a step.

A layout is the part of a plan that does not depend on the sample: which branches run, with which
weights, and which hooks see their predictions. Layouts are built before the first forward.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import attrs
import torch
from torch import Tensor

from guidance_core.algebra.arithmetic import Weight
from guidance_core.algebra.digest import digest
from guidance_core.errors import (
    BranchConflictError,
    ConfigurationError,
    PluginError,
    UnknownNameError,
    did_you_mean,
)
from guidance_core.methods.hooks import Hook, Implementation, around
from guidance_core.methods.requests import BASE, Branch, Hold, Needs, Request
from guidance_core.methods.step import Moment, States, Step, placed
from guidance_core.parameters.values import PerOutput, is_neutral


@attrs.frozen
class Acting:
    """A hook that is called for one output, with what it may see."""

    implementation: Implementation
    plugin: object
    needs: Needs
    space: str
    "The space it works in: the one it asked for, or the host's."
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
        if self.numbers is not None:
            return self.numbers
        base: Any = 1.0
        others: list[tuple[str, Weight]] = []
        for branch, strength in self.strengths:
            if isinstance(strength, Tensor):
                strength = placed(strength, sample, f"the strength of branch {branch!r}")
                others.append((branch, -strength))
            else:
                others.append((branch, -strength))
            base = base + strength
        return [(BASE, base), *others]

    numbers: list[tuple[str, Weight]] | None = attrs.field(init=False)
    "The weights, where they are the same for every sample."

    @numbers.default
    def _default_numbers(self) -> list[tuple[str, Weight]] | None:
        numbers = [strength for _, strength in self.strengths if not isinstance(strength, Tensor)]
        if len(numbers) < len(self.strengths):
            return None
        others = [(branch, -strength) for (branch, _), strength in zip(self.strengths, numbers, strict=True)]
        return [(BASE, 1.0 + sum(numbers)), *others]


@attrs.frozen(eq=False)
class Layout:
    """The branches of one step and what is made of their predictions."""

    moment: Moment
    branches: tuple[Branch, ...]
    "The passes to run, `cond` first; empty where every output is held."
    asked: Mapping[str, tuple[str, ...]]
    "The plugins that asked for each branch."
    outputs: Mapping[str, OutputLayout]
    depends_on_state: bool
    "Whether a plugin looked at its state, so that the layout holds for this moment only."
    inputs: Mapping[str, Mapping[str, Any]]
    "Model inputs of each branch."

    holds: frozenset[str] = attrs.field(init=False)
    "The outputs that keep their last x0."
    has_tensor_strengths: bool = attrs.field(init=False)

    @functools.cached_property
    def fingerprint(self) -> tuple[int, int, int]:
        """What stands for the step, the branches, and what is made of them."""
        moment = self.moment
        step = [moment.index, moment.count, moment.evaluation, moment.model, moment.positions]
        branches = [
            (branch.name, branch.condition, branch.perturbations, branch.overrides, branch.model, branch.cost)
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
        return digest(step), digest(branches), digest(strengths)

    @holds.default
    def _default_holds(self) -> frozenset[str]:
        return frozenset(name for name, output in self.outputs.items() if output.held)

    @has_tensor_strengths.default
    def _default_has_tensor_strengths(self) -> bool:
        strengths = (strength for output in self.outputs.values() for _, strength in output.strengths)
        return any(isinstance(strength, Tensor) for strength in strengths)


def build_layout(
    hooks: Mapping[str, Hook],
    plugins: Mapping[str, object],
    moment: Moment,
    conditions: Mapping[str, Mapping[str, Any] | None] | None,
    states: States,
    *,
    holdable: Iterable[str] | None = None,
) -> Layout:
    """Ask the plugins what they want of a step and unite it into a layout.

    Args:
        hooks: the stack's hooks.
        plugins: the stack's plugins by name.
        moment: where the step stands.
        conditions: the host's model inputs by condition; `None` to take any condition as given.
        states: the run's state; what hooks leave in it is kept.
        holdable: the outputs that have a last x0 to keep; `None` for all.

    Raises:
        PluginError: a hook raised, or returned something it may not.
        BranchConflictError: two plugins want different content under one name.
        ConfigurationError: a condition is missing, or a parameter has no usable value.
    """
    steps = {name: Step(moment, name, plugin, states) for name, plugin in plugins.items()}
    asked = _ask(hooks, steps)
    requests = _through_wrappers(hooks["build_branches"].wrappers, steps, asked)
    held = _held(requests, moment.outputs)
    if holdable is not None:
        held &= frozenset(holdable)
    active = [name for name in moment.outputs if name not in held]
    branches = _unite(requests, moment, active) if active else {}
    _check_conditions(branches, conditions, requests)
    view = _View(requests, asked, tuple(branches), plugins, moment.prediction_type)
    return Layout(
        moment=moment,
        branches=tuple(united.branch for united in branches.values()),
        asked={name: united.plugins for name, united in branches.items()},
        outputs={name: _output_layout(name, hooks, view, branches, held=name in held) for name in moment.outputs},
        depends_on_state=any(step.looked_at_state for step in steps.values()),
        inputs={name: _inputs(united.branch, conditions or {}) for name, united in branches.items()},
    )


def _output_layout(
    output: str, hooks: Mapping[str, Hook], view: _View, branches: Mapping[str, _United], *, held: bool
) -> OutputLayout:
    if held:
        return OutputLayout(output, (), True, (), (), (), ())
    combine, postprocess = hooks["combine"], hooks["postprocess"]
    return OutputLayout(
        name=output,
        strengths=tuple(
            (branch, united.strengths[output])
            for branch, united in branches.items()
            if branch != BASE and not is_neutral(united.strengths[output])
        ),
        held=False,
        combining=view.acting(combine.plain, output, with_all_branches=True),
        combine_wrappers=view.acting(combine.wrappers, output, with_all_branches=True),
        correcting=view.acting(postprocess.plain, output),
        correct_wrappers=view.acting(postprocess.wrappers, output),
    )


def _ask(hooks: Mapping[str, Hook], steps: Mapping[str, Step]) -> list[Request]:
    """Return what the plugins ask for, in the stack's order, each request marked with its plugin."""
    asked: list[Request] = []
    for implementation in hooks["build_branches"].plain:
        result = implementation(steps[implementation.plugin])
        asked += _marked(implementation, [] if result is None else result)
    acting = [
        found.plugin for name in ("combine", "postprocess") for found in (*hooks[name].plain, *hooks[name].wrappers)
    ]
    stating = {request.plugin for request in asked if isinstance(request, Needs)}
    asked += [Needs(plugin=name) for name in dict.fromkeys(acting) if name not in stating]
    return asked


def _through_wrappers(
    wrappers: Sequence[Implementation], steps: Mapping[str, Step], asked: list[Request]
) -> list[Request]:
    """Pass what was asked through the wrappers, the last of which is the outermost."""
    if not wrappers:
        return list(asked)
    *inside, wrapper = wrappers
    inner = partial(_through_wrappers, inside, steps, asked)
    result = around(wrapper, (steps[wrapper.plugin],), inner)()
    marked = _marked(wrapper, result)
    own = [new for old, new in zip(result, marked, strict=True) if new is not old and isinstance(new, Needs)]
    return [
        request
        for request in marked
        if not own
        or not isinstance(request, Needs)
        or request.plugin != wrapper.plugin
        or any(request is new for new in own)
    ]


def _marked(implementation: Implementation, result: Any) -> list[Request]:
    if not isinstance(result, (list, tuple)):
        raise implementation.wrong("a list of Branch, Needs and Hold", result)
    marked: list[Request] = []
    for request in result:
        if not isinstance(request, Branch | Needs | Hold):
            raise implementation.wrong("a list of Branch, Needs and Hold", request)
        marked.append(request if request.plugin else attrs.evolve(request, plugin=implementation.plugin))
    return marked


def _held(requests: Sequence[Request], outputs: tuple[str, ...]) -> frozenset[str]:
    held: set[str] = set()
    for request in requests:
        if isinstance(request, Hold):
            unknown = set(request.outputs or ()) - set(outputs)
            if unknown:
                raise PluginError(
                    f"plugin {request.plugin!r} holds {', '.join(sorted(unknown))}; "
                    f"the run's outputs are {', '.join(outputs)}."
                )
            held |= set(outputs if request.outputs is None else request.outputs)
    return frozenset(held)


@attrs.define
class _United:
    """A branch, who asked for it, and how far each output moves away from it."""

    branch: Branch
    plugins: tuple[str, ...]
    strengths: dict[str, float | Tensor]


def _unite(requests: Sequence[Request], moment: Moment, active: Sequence[str]) -> dict[str, _United]:
    """Unite branches by name and leave out those that no output moves away from or needs."""
    nothing: dict[str, float | Tensor] = dict.fromkeys(moment.outputs, 0.0)
    united = {BASE: _United(Branch(BASE, required=True), (), dict(nothing))}
    for branch in requests:
        if not isinstance(branch, Branch):
            continue
        same = united.setdefault(branch.name, _United(branch, (), dict(nothing)))
        if not same.branch.same_content(branch):
            first = f"plugin {same.plugins[0]!r}" if same.plugins else "the core"
            raise BranchConflictError(
                f"{first} and plugin {branch.plugin!r} want different passes under the branch name "
                f"{branch.name!r}: {_content(same.branch)}; and {_content(branch)}. Rename one of them."
            )
        same.branch = attrs.evolve(
            same.branch,
            required=same.branch.required or branch.required,
            cost=max(same.branch.cost, branch.cost),
        )
        if branch.plugin not in same.plugins:
            same.plugins = (*same.plugins, branch.plugin)
        for output in active:
            same.strengths[output] = same.strengths[output] + _strength(branch, output)
    return {
        name: branch
        for name, branch in united.items()
        if branch.branch.required or any(not is_neutral(branch.strengths[output]) for output in active)
    }


def _content(branch: Branch) -> str:
    parts = [f"condition {branch.condition!r}"]
    parts += [str(perturbation) for perturbation in branch.perturbations]
    parts += [f"overrides {', '.join(branch.overrides)}"] if branch.overrides else []
    parts += [f"model {branch.model!r}"] if branch.model else []
    return ", ".join(parts)


def _strength(branch: Branch, output: str) -> float | Tensor:
    strength: Any = branch.strength
    if isinstance(strength, PerOutput):
        if output not in strength:
            raise ConfigurationError(
                f"plugin {branch.plugin!r}: the strength of branch {branch.name!r} has values for "
                f"{', '.join(strength)}, but none for {output!r}."
            )
        strength = strength[output]
    if isinstance(strength, Tensor):
        if not bool(torch.isfinite(strength).all()):
            raise ConfigurationError(
                f"plugin {branch.plugin!r}: the strength of branch {branch.name!r} is not finite: {strength.tolist()}."
            )
        return strength
    if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not math.isfinite(strength):
        raise ConfigurationError(
            f"plugin {branch.plugin!r}: the strength of branch {branch.name!r} must be a finite number, a tensor "
            f"or a PerOutput; got {strength!r}."
        )
    return float(strength)


@attrs.frozen
class _View:
    """What is left of the plugins' requests, to decide whose hooks act."""

    requests: Sequence[Request]
    asked: Sequence[Request]
    "The requests before any wrapper changed them."
    branches: tuple[str, ...]
    "The branches that run."
    plugins: Mapping[str, object]
    prediction_type: str

    def acting(
        self, implementations: Iterable[Implementation], output: str, *, with_all_branches: bool = False
    ) -> tuple[Acting, ...]:
        """Return the implementations to call for `output`: those whose requests no wrapper dropped."""
        found = (self._one(implementation, output, with_all_branches) for implementation in implementations)
        return tuple(acting for acting in found if acting is not None)

    def _one(self, implementation: Implementation, output: str, with_all_branches: bool) -> Acting | None:
        name = implementation.plugin
        mine = [request for request in self.requests if request.plugin == name]
        needs = [
            request
            for request in mine
            if isinstance(request, Needs) and (request.outputs is None or output in request.outputs)
        ]
        kept = {request.name for request in mine if isinstance(request, Branch)}
        wanted = {request.name for request in self.asked if isinstance(request, Branch) and request.plugin == name}
        if not needs or (with_all_branches and not wanted <= kept):
            return None
        if len(needs) > 1:
            raise PluginError(f"plugin {name!r} returned {len(needs)} Needs for output {output!r}; return one.")
        visible = (BASE, *(branch for branch in self.branches if branch in kept and branch != BASE))
        space = needs[0].space or self.prediction_type
        return Acting(implementation, self.plugins[name], needs[0], space, visible)


def _check_conditions(
    branches: Mapping[str, _United],
    conditions: Mapping[str, Mapping[str, Any] | None] | None,
    requests: Sequence[Request],
) -> None:
    for name, united in branches.items():
        wanted = united.branch.condition
        if conditions is None or conditions.get(wanted) is not None:
            continue
        known = [condition for condition, inputs in conditions.items() if inputs is not None]
        who = f"plugin {united.plugins[0]!r} needs" if united.plugins else "every run needs"
        instead = ", or set the plugin's scale to its neutral value" if united.plugins else ""
        raise UnknownNameError(
            f"{who} the condition {wanted!r} for its branch {name!r}, but the run was started with "
            # 'negative' is not 'positive' misspelt
            f"{', '.join(known) or 'no conditions'}.{did_you_mean(wanted, known, nearness=0.75)} "
            f"Pass conditions={{{wanted!r}: {{...}}}}{instead}."
        )


def _inputs(branch: Branch, conditions: Mapping[str, Mapping[str, Any] | None]) -> Mapping[str, Any]:
    return MappingProxyType({**(conditions.get(branch.condition) or {}), **branch.overrides})
