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
    did_you_mean,
)
from guidance_core.methods.requests import BASE, NOTHING, Branch, Request
from guidance_core.parameters.values import PerOutput, is_neutral

MOST = torch.finfo(torch.float32).max
"Strengths are numbers of float32, in which sums are accumulated."


@attrs.define
class United:
    """A branch, who asked for it, and how far each output moves away from it."""

    branch: Branch
    plugins: tuple[str, ...]
    strengths: dict[str, float | Tensor]


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


def inputs_of(branch: Branch, conditions: Mapping[str, Mapping[str, Any] | None]) -> Mapping[str, Any]:
    """Return the model inputs of a branch: those of its condition, and what it puts in their place."""
    given = conditions.get(branch.condition) or NOTHING
    return MappingProxyType({**given, **branch.overrides}) if branch.overrides else given
