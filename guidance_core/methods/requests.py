"""What a plugin may ask of a step: branches, changes of all passes with a condition, what hooks see, held outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import attrs
import torch
from torch import Tensor

from guidance_core.algebra.spaces import Space, check_space
from guidance_core.algebra.statistics import Covered, Norm, Over, Statistic, Std, as_over
from guidance_core.errors import ConfigurationError, brief
from guidance_core.methods.perturbations import Perturbation, as_perturbations, check_compatible
from guidance_core.parameters.values import PerOutput

BASE = "cond"
"The name of the base branch."

Strength: TypeAlias = float | Tensor | PerOutput


NOTHING: Mapping[str, Any] = MappingProxyType({})

NoiseLike: TypeAlias = Callable[[Tensor, str], Tensor]
"`Step.noise_like`: standard normal noise of a tensor's shape, dtype and device, for a purpose."

Edit: TypeAlias = Callable[[Mapping[str, Any], NoiseLike], Mapping[str, Any]]
"Gets a condition's model inputs; returns those that it replaces. It does not change them in place."


def _as_overrides(overrides: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(overrides, Mapping):
        raise ConfigurationError(f"overrides must be a dict of model inputs; got {brief(overrides)}.")
    return MappingProxyType(dict(overrides)) if overrides else NOTHING


def as_names(given: str | Collection[str]) -> tuple[str, ...]:
    """Return one name or several as a tuple, or raise `ConfigurationError` if they are something else."""
    names = (given,) if isinstance(given, str) else given
    if not isinstance(names, tuple | list | set | frozenset) or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(f"a request takes names such as ('video', 'audio'); got {brief(given)}.")
    return tuple(names)


def _name(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{type(owner).__name__}: {field.name} must be a name; got {brief(value)}.")


def _check_edit(owner: Any, _: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and not callable(value):
        raise ConfigurationError(
            f"{type(owner).__name__}: edit must be a function of inputs and noise; got {brief(value)}."
        )


def is_one_edit(one: Any, other: Any) -> bool:
    """Whether two edits are one; those that cannot be compared, as where they hold tensors, are two."""
    try:
        return one is other or bool(one == other)
    except Exception:
        return False


@attrs.frozen
class Branch:
    """A forward pass to move away from: the core adds `strength·(cond − branch)`.

    Branches of the same name and content are one pass, and their strengths add up. A pass whose strength is 0 for every
    output is not run, unless it is `required`.
    """

    name: str = attrs.field(validator=_name)
    "A name that is the same at every step: hosts use it as the key of their caches."
    condition: str = attrs.field(default="positive", validator=_name)
    "The condition whose inputs the pass gets, one of those that the host gave to `start`."
    strength: Strength = 0.0
    "A number (perhaps negative), a tensor with dimensions aligned from the batch on, or a `PerOutput` of these."
    perturbations: tuple[Perturbation, ...] = attrs.field(default=(), converter=as_perturbations)
    "What the pass changes inside the model."
    overrides: Mapping[str, Any] = attrs.field(default=NOTHING, converter=_as_overrides)
    "Model inputs that replace those of the condition."
    model: str | None = None
    "The name that the host has for the model that runs the pass; `None` for the step's own model."
    required: bool = False
    "Whether the pass also runs at strength 0, because a `combine` looks at its prediction."
    cost: float = attrs.field(default=1.0)
    "The time of the pass, relative to a plain one. It is used to place passes on devices."
    also: tuple[str, ...] = attrs.field(default=(), converter=as_names)
    "Further conditions whose inputs the pass gets in `BoundBranch.also`."
    edit: Edit | None = attrs.field(default=None, kw_only=True, validator=_check_edit)
    """A function `edit(inputs, noise)` that returns the inputs to replace in this pass alone, when the pass reads them.

    It gets the inputs after edits of the condition (`Amend`). Overrides take precedence. See also `Amend.edit`.
    """
    plugin: str = attrs.field(default="", kw_only=True)
    "Who asked for it; filled in by the core."

    @cost.validator
    def _check_cost(self, _: Any, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise ConfigurationError(f"branch {self.name!r}: cost must be a positive number; got {brief(value)}.")

    def __attrs_post_init__(self) -> None:
        check_compatible(repr(self.name), self.perturbations)

    def same_content(self, other: Branch) -> bool:
        """Whether both are the same forward pass."""
        return (
            self.condition == other.condition
            and set(self.perturbations) == set(other.perturbations)
            and self.model == other.model
            and set(self.also) == set(other.also)
            and is_one_edit(self.edit, other.edit)
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


def _as_overs(given: Over | Sequence[Over]) -> tuple[Covered, ...]:
    listed = given if isinstance(given, tuple | list) else (given,)
    is_one = bool(listed) and all(isinstance(dim, int) for dim in listed)
    return tuple(as_over(over) for over in ((listed,) if is_one else listed))


def _as_statistics(given: Statistic | Sequence[Statistic]) -> tuple[Statistic, ...]:
    listed = (given,) if isinstance(given, Statistic) else given
    if not isinstance(listed, tuple | list) or not all(isinstance(each, Statistic) for each in listed):
        raise ConfigurationError(f"Needs: statistics must be objects such as Std() or Norm(); got {brief(given)}.")
    for each in listed:
        if each.takes != 1:
            raise ConfigurationError(f"Needs: {each} is computed from {each.takes} tensors, not from one prediction.")
    return tuple(listed)


@attrs.frozen
class Amend:
    """Change every pass with a condition, including `cond`, instead of adding a pass.

    It applies to the passes that run anyway. If two plugins edit the inputs of one condition differently, or change one
    place of the model differently, the run raises `BranchConflictError`.
    """

    condition: str = attrs.field(default="positive", validator=_name)
    "The condition whose passes change."
    edit: Edit | None = attrs.field(default=None, validator=_check_edit)
    """A function `edit(inputs, noise)` that returns the inputs of the condition to replace, when a pass reads them.

    `noise(tensor, purpose)` is the run's `Step.noise_like`. Two plugins may ask for the same edit, that is, for edits
    that compare equal.
    """
    perturbations: tuple[Perturbation, ...] = attrs.field(default=(), converter=as_perturbations)
    "What these passes change inside the model, in addition to what each changes itself."
    also: tuple[str, ...] = attrs.field(default=(), converter=as_names)
    "Further conditions whose inputs these passes get in `BoundBranch.also`."
    plugin: str = attrs.field(default="", kw_only=True)
    "Who asked for it; filled in by the core."

    def __attrs_post_init__(self) -> None:
        check_compatible(f"of condition {self.condition!r}", self.perturbations)


def _as_outputs(given: str | Collection[str] | None) -> tuple[str, ...] | None:
    return None if given is None else as_names(given)


@attrs.frozen
class Needs:
    """What a plugin's `combine` and `postprocess` need in this step.

    A plugin with either hook gets a plain `Needs()` if it has no `build_branches` or only asks for other things. It is
    off if it returns `[]`. A wrapper that removes the `Needs` switches both hooks off for the step.
    """

    space: Space | None = attrs.field(default=None)
    "The prediction type of all tensors that the hooks get and return; `None` for the host's own."
    std: tuple[Covered, ...] = attrs.field(default=(), converter=_as_overs)
    "What `reference.std(...)` covers, such as `sample`: short for `statistics=Std(over)`."
    norm: tuple[Covered, ...] = attrs.field(default=(), converter=_as_overs)
    "What `reference.norm(...)` covers: short for `statistics=Norm(over)`."
    statistics: tuple[Statistic, ...] = attrs.field(default=(), converter=_as_statistics)
    "The statistics of the base prediction that `reference.measure(...)` returns."
    reference: bool = False
    "Whether `reference.tensor` is used; on several devices it may cost communication."
    gradient: bool = False
    """Whether `combine` differentiates. If so, `cond` runs with gradients, even if the host has turned them off.

    Then `step.gradient(loss)` differentiates a loss of `predictions["cond"]` with respect to the sample.
    """
    outputs: tuple[str, ...] | None = attrs.field(default=None, converter=_as_outputs)
    "The outputs the hooks are called for; `None` for all."
    fixed: bool = False
    "Whether the hooks act in this step even outside the window that another plugin (`interval`) sets."
    plugin: str = attrs.field(default="", kw_only=True)
    "Who asked for it; filled in by the core."

    @space.validator
    def _check_space(self, _: Any, value: Any) -> None:
        if value is not None:
            check_space("Needs: space", value)

    measured: tuple[Statistic, ...] = attrs.field(init=False, repr=False, eq=False)
    "All statistics of the base prediction that will be asked for."

    @measured.default
    def _default_measured(self) -> tuple[Statistic, ...]:
        return (*map(Std, self.std), *map(Norm, self.norm), *self.statistics)


@attrs.frozen
class Hold:
    """Keep the last denoised x0 of some outputs, instead of guiding them again.

    If every output is held, no pass runs at all, not even `cond`. Before the first result there is nothing to hold, so
    the step is evaluated.
    """

    outputs: tuple[str, ...] | None = attrs.field(default=None, converter=_as_outputs)
    "The outputs to hold; `None` for all."
    plugin: str = attrs.field(default="", kw_only=True)
    "Who asked for it; filled in by the core."


Request: TypeAlias = Branch | Amend | Needs | Hold
"What `build_branches` returns a list of."
