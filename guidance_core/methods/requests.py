"""What a plugin may ask of a step: branches, predictions in a space, or to hold an output."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import attrs
import torch
from torch import Tensor

from guidance_core.algebra.spaces import check_space
from guidance_core.algebra.statistics import check_over
from guidance_core.errors import ConfigurationError, brief
from guidance_core.methods.perturbations import Perturbation, check_compatible
from guidance_core.parameters.values import PerOutput

MOST = 1000
"Perturbations of one branch."
BASE = "cond"
"The name of the base branch."

Strength: TypeAlias = float | Tensor | PerOutput


def _as_perturbations(perturbations: Iterable[Perturbation]) -> tuple[Perturbation, ...]:
    try:
        made = tuple(itertools.islice(perturbations, MOST))
    except Exception:
        raise ConfigurationError(f"perturbations is a list of them; got {brief(perturbations)}.") from None
    for each in made:
        if not isinstance(each, Perturbation):
            raise ConfigurationError(f"{brief(each)} is not a perturbation, such as SkipBlocks((3,)).")
    return made


NOTHING: Mapping[str, Any] = MappingProxyType({})


def _as_overrides(overrides: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(overrides, Mapping):
        raise ConfigurationError(f"overrides is a dict of model inputs; got {brief(overrides)}.")
    return MappingProxyType(dict(overrides)) if overrides else NOTHING


def _name(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{type(owner).__name__}: {field.name} must be a name; got {brief(value)}.")


@attrs.frozen
class Branch:
    """One forward pass to move away from: the core adds `strength·(cond − branch)`.

    Branches with one name and the same content are one pass, their strengths added up. A pass
    whose strength is 0 for every output is not run, unless it is `required`.
    """

    name: str = attrs.field(validator=_name)
    "Stable name, the same at every step: hosts key their caches on it."
    condition: str = attrs.field(default="positive", validator=_name)
    "The condition, among those the host gave to `start`, whose inputs the pass gets."
    strength: Strength = 0.0
    "A number (negative too), a tensor that broadcasts from the batch on, or a `PerOutput` of these."
    perturbations: tuple[Perturbation, ...] = attrs.field(default=(), converter=_as_perturbations)
    "What the pass changes inside the model."
    overrides: Mapping[str, Any] = attrs.field(default=NOTHING, converter=_as_overrides)
    "Model inputs that replace those of the condition."
    model: str | None = None
    "The model that should run it, by a name the host knows; `None` for the step's own."
    required: bool = False
    "Whether it runs at strength 0 too, because a `combine` looks at its prediction."
    cost: float = attrs.field(default=1.0)
    "Its time relative to a plain pass; placement over devices uses it."
    plugin: str = attrs.field(default="", kw_only=True)
    "Who asked for it; filled in by the core."

    @cost.validator
    def _check_cost(self, _: Any, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise ConfigurationError(f"branch {self.name!r}: cost must be a positive number; got {brief(value)}.")

    def __attrs_post_init__(self) -> None:
        check_compatible(self.name, self.perturbations)

    def same_content(self, other: Branch) -> bool:
        """Whether both stand for the same forward pass."""
        return (
            self.condition == other.condition
            and set(self.perturbations) == set(other.perturbations)
            and self.model == other.model
            and self.overrides.keys() == other.overrides.keys()
            and all(_same(value, other.overrides[key]) for key, value in self.overrides.items())
        )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return one is other or (
            isinstance(one, Tensor)
            and isinstance(other, Tensor)
            and one.dtype == other.dtype
            and one.device == other.device
            and torch.equal(one, other)
        )
    return bool(one == other)


def _as_names(given: Any) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else given
    if not isinstance(names, tuple | list | set | frozenset) or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(f"a request takes names, such as ('video', 'audio'); got {brief(given)}.")
    return tuple(names)


def _as_outputs(given: Any) -> tuple[str, ...] | None:
    return None if given is None else _as_names(given)


@attrs.frozen
class Needs:
    """What a plugin's `combine` and `postprocess` want to see in this step.

    A plugin with either hook that returns none gets a plain `Needs()`. A wrapper that drops it
    switches both hooks off for the step.
    """

    space: str | None = attrs.field(default=None)
    "The prediction type of all tensors the hooks get and return; `None` for the host's own."
    std: tuple[str, ...] = attrs.field(default=(), converter=_as_names)
    "Ranges over which `reference.std(...)` will be asked, such as `sample`."
    norm: tuple[str, ...] = attrs.field(default=(), converter=_as_names)
    "Ranges over which `reference.norm(...)` will be asked."
    reference: bool = False
    "Whether `reference.tensor` is used; on several devices it may cost communication."
    outputs: tuple[str, ...] | None = attrs.field(default=None, converter=_as_outputs)
    "The outputs the hooks are called for; `None` for all."
    plugin: str = attrs.field(default="", kw_only=True)
    "Who asked for it; filled in by the core."

    @space.validator
    def _check_space(self, _: Any, value: Any) -> None:
        if value is not None:
            check_space("Needs: space", value)

    def __attrs_post_init__(self) -> None:
        for over in (*self.std, *self.norm):
            check_over(over)


@attrs.frozen
class Hold:
    """Keep the last denoised x0 of some outputs instead of guiding them anew.

    If every output is held, no pass runs at all, not even `cond`. Until a first result exists
    there is nothing to hold, and the step is evaluated.
    """

    outputs: tuple[str, ...] | None = attrs.field(default=None, converter=_as_outputs)
    "The outputs to hold; `None` for all."
    plugin: str = attrs.field(default="", kw_only=True)
    "Who asked for it; filled in by the core."


Request: TypeAlias = Branch | Needs | Hold
"What `build_branches` returns a list of."
