"""What several methods have in common: the pass with the negative condition, projection, and momentum.

Each takes the `Step` that a hook is given, so that it is right too where outputs are pieces of longer ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from guidance_core.algebra.spaces import Space
from guidance_core.algebra.statistics import Over, ratio
from guidance_core.errors import ConfigurationError
from guidance_core.methods.requests import Branch, Needs, Request
from guidance_core.methods.step import Step


def negative_pass(step: Step, scale: Any, *, space: Space | None = None, neutral: float = 1.0) -> list[Request]:
    """Ask for the prediction `uncond`, with the condition `negative`, if a scale is not neutral.

    For the `build_branches` of a method that looks at u in `combine`. Its hooks are called for the outputs whose scale
    is not neutral.

    Args:
        step: the step that the hook gets.
        scale: the parameter, as the plugin holds it.
        space: the space in which the method works; None for the host's.
        neutral: the scale at which the method is off.

    Returns:
        The requests; none if the scale is neutral for every output.

    Raises:
        ConfigurationError: as in `Step.value`.
    """
    active = step.active(scale, neutral=neutral)
    if not active:
        return []
    return [Branch("uncond", condition="negative", required=True), Needs(space=space, outputs=active)]


def parallel(step: Step, x: Tensor, onto: Tensor, over: Over = "sample") -> Tensor:
    """Return the part of `x` that is parallel to `onto`, `[B, ...]` like both; 0 where `onto` is 0.

        ⟨x, e⟩·e,   e = onto/‖onto‖

    Args:
        step: what the hook is given.
        x: `[B, ...]`, as a prediction.
        onto: of the same shape.
        over: the range of one projection: `sample`, `token` and so on, or dimensions.

    Raises:
        ConfigurationError: a dimension does not exist.
    """
    length = step.norm(onto, over)
    unit = onto / torch.where(length > 0, length, 1.0)
    return step.inner(x, unit, over) * unit


def nearest_scale(step: Step, c: Tensor, u: Tensor) -> Tensor:
    """Return the α for which α·u is nearest to c, per sample, `[B, 1, ...]`; 1 where both products overflow.

        α = ⟨c, u⟩/(‖u‖² + 1e−8)

    Args:
        step: what the hook is given.
        c: `[B, ...]`, as a prediction.
        u: of the same shape.
    """
    return ratio(step.inner(c, u), step.inner(u, u) + 1e-8)


def with_momentum(step: Step, d: Tensor, beta: float | Tensor, key: str = "momentum") -> Tensor:
    """Return m = d + β·m′ and keep it in `step.state`; m′ is the m of the last step, or 0 in the first.

    Args:
        step: what the hook is given.
        d: `[B, ...]`.
        beta: the share of m′ to add, a number or a tensor that broadcasts. If it is the number 0, nothing is kept.
        key: the name of m in the state.
    """
    if not isinstance(beta, Tensor) and beta == 0:
        return d
    if key in step.state:
        before: Tensor = step.state[key]
        d = d + beta * before if isinstance(beta, Tensor) else torch.add(d, before, alpha=beta)
    step.state[key] = d
    return d


def chosen_inputs(inputs: Mapping[str, Any], names: Sequence[str], *, floating: bool = True) -> dict[str, Tensor]:
    """Return the tensors among a condition's model inputs that an `Edit` should change.

    Args:
        inputs: the inputs that the edit gets.
        names: the inputs to edit (none: every tensor of the kind).
        floating: whether it edits floating-point tensors, such as embeddings, or whole numbers, such as labels.

    Returns:
        The tensors by name. It is empty if the inputs have no tensors at all, because the host holds them itself and
        calls `BoundBranch.amend`.

    Raises:
        ConfigurationError: there are tensors, but not the named ones, or none of the kind.
    """
    tensors = {name: each for name, each in inputs.items() if isinstance(each, Tensor)}
    if not tensors:
        return {}
    kind = "floating-point tensor, such as an embedding" if floating else "tensor of whole numbers, such as labels"
    fitting = {name: each for name, each in tensors.items() if _is_of_kind(each, floating=floating)}
    for name in names:
        if name not in fitting:
            raise ConfigurationError(
                f"the input {name!r} is not a {kind}; the inputs that are: {', '.join(fitting) or 'none'}."
            )
    if not fitting:
        raise ConfigurationError(
            f"none of the inputs {', '.join(inputs)} is a {kind}. Give the condition as one, or leave the method out."
        )
    return {name: fitting[name] for name in names} if names else fitting


def _is_of_kind(tensor: Tensor, *, floating: bool) -> bool:
    whole = not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype != torch.bool
    return tensor.is_floating_point() if floating else whole
