"""Branches of all plugins, united by name: the same content is one pass, and strengths add up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs
import torch
from torch import Tensor

from guidance_core.errors import (
    BranchConflictError,
    ConfigurationError,
    UnknownNameError,
    brief,
    did_you_mean,
)
from guidance_core.methods.requests import BASE, NOTHING, Amend, Branch, Request, is_one_edit
from guidance_core.parameters.values import PerOutput, aligned, is_neutral

MOST = torch.finfo(torch.float32).max
"Strengths are numbers of float32, in which sums are accumulated."


@attrs.define
class United:
    """A branch, who asked for it, and how far each output moves away from it."""

    branch: Branch
    plugins: tuple[str, ...]
    strengths: dict[str, float | Tensor]
    amended_by: tuple[str, ...] = ()
    "The plugins that change it, as every pass with its condition."


def unite(requests: Sequence[Request], outputs: Sequence[str], active: Sequence[str]) -> dict[str, United]:
    """Unite branches by name and leave out those that none of the `active` outputs moves away from or needs."""
    nothing: dict[str, float | Tensor] = dict.fromkeys(outputs, 0.0)
    united = {BASE: United(Branch(BASE, required=True), (), dict(nothing))}
    for branch in requests:
        if not isinstance(branch, Branch):
            continue
        same = united.setdefault(branch.name, United(branch, (), dict(nothing)))
        if not same.branch.same_content(branch):
            first = f"plugin {same.plugins[0]!r}" if same.plugins else "the core"
            raise BranchConflictError(
                f"{first} and plugin {branch.plugin!r} want different passes under the branch name "
                f"{branch.name!r}: {_content(same.branch)}; and {_content(branch)}. Rename one of them."
            )
        required, cost = same.branch.required or branch.required, max(same.branch.cost, branch.cost)
        if (required, cost) != (same.branch.required, same.branch.cost):
            same.branch = attrs.evolve(same.branch, required=required, cost=cost)
        if branch.plugin not in same.plugins:
            same.plugins = (*same.plugins, branch.plugin)
        for output in active:
            before, more = aligned(same.strengths[output], _strength(branch, output))
            same.strengths[output] = before + more
    running = {
        name: branch
        for name, branch in united.items()
        if branch.branch.required or any(not is_neutral(branch.strengths[output]) for output in active)
    }
    for each in running.values():
        for request in requests:
            if isinstance(request, Amend) and request.condition == each.branch.condition:
                _amend(each, request)
    return running


def edits_of(requests: Sequence[Request]) -> dict[str, Amend]:
    """Return who edits the inputs of each condition, or raise `BranchConflictError` where two do so differently."""
    edits: dict[str, Amend] = {}
    for amend in requests:
        if not isinstance(amend, Amend) or amend.edit is None:
            continue
        first = edits.setdefault(amend.condition, amend)
        if not is_one_edit(first.edit, amend.edit):
            raise BranchConflictError(
                f"plugin {first.plugin!r} and plugin {amend.plugin!r} edit the inputs of condition "
                f"{amend.condition!r} differently. Leave one out, or limit them to different steps."
            )
    return edits


def _amend(united: United, amend: Amend) -> None:
    """Change a pass, or raise `BranchConflictError` where it has a change that collides."""
    branch = united.branch
    added = [each for each in amend.perturbations if each not in branch.perturbations]
    also = [name for name in amend.also if name not in branch.also]
    if added or also:
        try:
            united.branch = attrs.evolve(
                branch, perturbations=(*branch.perturbations, *added), also=(*branch.also, *also)
            )
        except BranchConflictError as error:
            raise BranchConflictError(
                f"plugin {amend.plugin!r} changes every pass with the condition {amend.condition!r}: {error}"
            ) from None
    if amend.plugin not in united.amended_by:
        united.amended_by = (*united.amended_by, amend.plugin)


def _content(branch: Branch) -> str:
    parts = [f"condition {branch.condition!r}"]
    parts += [str(perturbation) for perturbation in branch.perturbations]
    parts += [f"overrides {', '.join(branch.overrides)}"] if branch.overrides else []
    parts += [f"model {branch.model!r}"] if branch.model else []
    parts += [f"inputs edited by {brief(branch.edit)}"] if branch.edit is not None else []
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
    if abs(strength) > MOST:
        raise ConfigurationError(
            f"plugin {branch.plugin!r}: the strength of branch {branch.name!r} is {strength:g}, "
            "which float32 cannot hold."
        )
    return float(strength)


def check_conditions(
    branches: Mapping[str, United],
    conditions: Mapping[str, Mapping[str, Any] | None] | None,
    requests: Sequence[Request],
) -> None:
    """Raise `UnknownNameError` where a branch runs on a condition that the host did not give."""
    if conditions is None:
        return
    for amend in requests:
        if isinstance(amend, Amend) and amend.condition not in conditions:
            raise UnknownNameError(
                f"plugin {amend.plugin!r} changes the passes with the condition {amend.condition!r}, but the run was "
                f"started with {', '.join(conditions) or 'no conditions'}."
                f"{did_you_mean(amend.condition, list(conditions), nearness=0.75)} step.conditions has their names."
            )
    known = [condition for condition, inputs in conditions.items() if inputs is not None]
    wanted_by = [
        (wanted, name, united)
        for name, united in branches.items()
        for wanted in (united.branch.condition, *united.branch.also)
    ]
    for wanted, name, united in wanted_by:
        if wanted in known:
            continue
        asking = united.plugins if wanted == united.branch.condition else (*united.amended_by, *united.plugins)
        who = f"plugin {asking[0]!r} needs" if asking else "every run needs"
        instead = ", or set the plugin's scale to its neutral value" if asking else ""
        raise UnknownNameError(
            f"{who} the condition {wanted!r} for its branch {name!r}, but the run was started with "
            # 'negative' is not 'positive' misspelt
            f"{', '.join(known) or 'no conditions'}.{did_you_mean(wanted, known, nearness=0.75)} "
            f"Pass conditions={{{wanted!r}: {{...}}}}{instead}."
        )


def inputs_of(branch: Branch, conditions: Mapping[str, Mapping[str, Any] | None]) -> Mapping[str, Any]:
    """Return the model inputs of a branch: those of its condition, and what it puts in their place."""
    given = conditions.get(branch.condition) or NOTHING
    return MappingProxyType({**given, **branch.overrides}) if branch.overrides else given
