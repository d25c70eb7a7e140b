"""From what the plugins ask for to the layout of a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import attrs

from guidance_core.errors import (
    PluginError,
)
from guidance_core.methods.hooks import Hook, Implementation
from guidance_core.methods.moment import Moment, States
from guidance_core.methods.requests import BASE, Branch, Needs, Request
from guidance_core.methods.step import Answers, Step
from guidance_core.parameters.values import is_neutral
from guidance_core.steps.layout import Acting, Layout, OutputLayout
from guidance_core.steps.requested import asked_of, held_outputs, through_wrappers
from guidance_core.steps.united import United, check_conditions, edits_of, inputs_of, unite


def build_layout(
    hooks: Mapping[str, Hook],
    plugins: Mapping[str, object],
    moment: Moment,
    conditions: Mapping[str, Mapping[str, Any] | None] | None,
    states: States,
    *,
    holdable: Set[str],
    foreseen: frozenset[str] | None = None,
) -> Layout:
    """Ask the plugins what they want of a step and unite it into a layout.

    Args:
        hooks: the stack's hooks.
        plugins: the stack's plugins by name.
        moment: where the step stands.
        conditions: the host's model inputs by condition; `None` to take any condition as given.
        states: the run's state; it keeps what hooks leave in it.
        holdable: the outputs that have a last x0 to keep.
        foreseen: the outputs whose x0 is kept, since a plugin asked for it when the run started; `None` for all.

    Raises:
        PluginError: a hook raised, or returned something it may not.
        BranchConflictError: two plugins want different content under one name.
        ConfigurationError: a condition is missing, or a parameter has no usable value.
    """
    answers: Answers = []
    steps = {name: Step(moment, name, plugin, states, answers=answers) for name, plugin in plugins.items()}
    outputs, own = moment.run.outputs, moment.run.prediction_type
    asked = asked_of(hooks, steps)
    requests = through_wrappers(hooks["build_branches"].wrappers, steps, asked)
    for step in steps.values():
        step.end()
    asked_to_hold = held = held_outputs(requests, outputs)
    if foreseen is not None and held - foreseen:
        raise PluginError(
            f"step {moment.index} holds {', '.join(sorted(held - foreseen))}, which no step was to hold when the run "
            "started, so that no x0 was kept. What a plugin holds may depend on the step's index and noise level only."
        )
    held &= holdable
    active = [name for name in outputs if name not in held]
    branches = unite(requests, outputs, active) if active else {}
    edits = edits_of(requests)
    check_conditions(branches, conditions, requests)
    view = _View(requests, asked, tuple(branches), plugins, own)
    return Layout(
        branches=tuple(united.branch for united in branches.values()),
        asked={name: united.plugins for name, united in branches.items()},
        outputs={name: _output_layout(name, hooks, view, branches, held=name in held) for name in outputs},
        depends_on_state=any(step.looked_at_state for step in steps.values()),
        inputs={name: inputs_of(united.branch, conditions or {}) for name, united in branches.items()},
        amended={name: united.amended_by for name, united in branches.items()},
        edits=edits,
        answers=answers,
        asked_to_hold=asked_to_hold,
    )


def _output_layout(
    output: str, hooks: Mapping[str, Hook], view: _View, branches: Mapping[str, United], *, held: bool
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
        return Acting(implementation, self.plugins[name], needs[0], space, self.prediction_type, visible)
