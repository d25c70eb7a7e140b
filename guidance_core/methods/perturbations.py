"""What a branch changes inside the model, described without reference to any model.

A perturbation is a small frozen description. A host turns it into the model's own flags or
hooks; the library itself only compares them and refuses two that collide in one branch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import combinations, islice
from operator import index
from typing import Any, ClassVar, TypeAlias

import attrs

from guidance_core.errors import BranchConflictError, ConfigurationError, brief
from guidance_core.parameters.fields import Bounds, as_value, check_number

MOST_BLOCKS = 100_000
MOST = 1000
"Perturbations of one branch."


Blocks: TypeAlias = int | Iterable[int]
"What indices of transformer blocks may be given as: one, or a list of them."


def as_blocks(blocks: Blocks | None) -> tuple[int, ...] | None:
    """Sort and deduplicate block indices; `None` stays `None`, which means every block.

    Raises:
        ConfigurationError: they are not whole numbers from 0.
    """
    return as_indices("blocks", blocks)


def as_indices(what: str, given: Blocks | None) -> tuple[int, ...] | None:
    """Sort and deduplicate indices of blocks or heads; None stays None, which means all.

    Raises:
        ConfigurationError: they are not whole numbers from 0.
    """
    if given is None:
        return None
    is_list = isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping)
    items: Any = given if is_list else (given,)
    try:
        listed = list(islice(items, MOST_BLOCKS + 1))
        if any(isinstance(each, bool) for each in listed):
            raise TypeError
        numbers = sorted({index(each) for each in listed})
    except Exception:
        raise ConfigurationError(
            f"{what} must be whole numbers, for example (28, 29), or None for all; got {brief(given)}."
        ) from None
    if len(listed) > MOST_BLOCKS:
        raise ConfigurationError(f"no model has {MOST_BLOCKS:,} {what}; got more.")
    if numbers and numbers[0] < 0:
        raise ConfigurationError(f"{what} count from 0; got {brief(numbers[0], 60)} in {brief(given)}.")
    if numbers and numbers[-1] > MOST_BLOCKS:
        raise ConfigurationError(f"no model has {MOST_BLOCKS:,} {what}; got number {brief(numbers[-1], 60)}.")
    return tuple(numbers)


def real(
    default: float,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    infinite: bool = False,
) -> Any:
    """An attrs field of a perturbation for a plain number within bounds; where it may be `infinite`, inf too."""
    bounds = Bounds(ge=ge, gt=gt, le=le, lt=lt)

    def check(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
        what = f"{type(owner).__name__}: {field.name}"
        if not isinstance(value, float):
            raise ConfigurationError(f"{what} must be a number; got {brief(value)} ({type(value).__name__}).")
        if not (infinite and value == math.inf):
            check_number(what, value, bounds)

    return attrs.field(default=default, converter=as_value, validator=check, kw_only=True)


@attrs.frozen(repr=False)
class Perturbation:
    """Base class of the changes that a branch can make inside the model.

    Your own is a frozen attrs class that inherits from it, with fields for what a host needs to know, such as the width
    of a blur. A host says in `start(supports=...)` which ones its model can make.
    """

    blocks: tuple[int, ...] | None = attrs.field(default=None, converter=as_blocks)
    "Indices of the transformer blocks that it acts on, from 0; `None` for every block."
    output: str | None = None
    "The output whose stream it acts on (`video`, `audio`); `None` for every stream."
    stack: str | None = None
    "The list of blocks in which the indices count, in a model with several (`double`, `single`); `None` for the first."

    acts_on: ClassVar[str] = "self-attention"
    "The part of a block that it changes. Two different changes of the same part of a block exclude each other."

    def collides(self, other: Perturbation) -> bool:
        """Whether this change and another one exclude each other in one pass."""
        return self.acts_on == other.acts_on and self._meets(other) and not self._is_as(other)

    def _meets(self, other: Perturbation) -> bool:
        """Whether both act on one block of one stream."""
        streams = self.output is None or other.output is None or self.output == other.output
        stacks = self.stack == other.stack
        blocks = self.blocks is None or other.blocks is None or bool(set(self.blocks) & set(other.blocks))
        return streams and stacks and blocks

    def _is_as(self, other: Perturbation) -> bool:
        """Whether both are the same change, perhaps in other places: the same change twice is that change."""
        place = {"blocks": None, "output": None, "stack": None}
        return type(self) is type(other) and attrs.evolve(self, **place) == attrs.evolve(other, **place)

    def __repr__(self) -> str:
        """Return the call that makes it, without what is None."""
        named = (field for field in attrs.fields(type(self)) if field.init and field.repr)
        fields = ((field.name, getattr(self, field.name)) for field in named)
        given = ", ".join(f"{name}={value!r}" for name, value in fields if value is not None)
        return f"{type(self).__name__}({given})"


@attrs.frozen(repr=False)
class SkipSelfAttention(Perturbation):
    """Self-attention is skipped: its values pass through without mixing tokens.

    Source: STG, arXiv:2411.18664, "STG-A"; LTX-2's perturbed pass.
    """


@attrs.frozen(repr=False)
class SkipBlocks(Perturbation):
    """Whole blocks are skipped: their output is their input.

    Source: STG, arXiv:2411.18664, "STG-R"; skip-layer guidance of SD3.5.
    """

    acts_on: ClassVar[str] = "block"

    def collides(self, other: Perturbation) -> bool:
        """Whether the other change acts on a part of a block that this one skips."""
        return isinstance(other, Perturbation) and other.acts_on in ("self-attention", "tokens") and self._meets(other)


@attrs.frozen(repr=False)
class IdentityAttention(Perturbation):
    """The self-attention map is the identity matrix.

    Source: PAG, arXiv:2403.17377, eq. 16.
    """


@attrs.frozen(repr=False)
class IsolateOutputs(Perturbation):
    """The cross-attentions between named outputs are off (LTX-2's modality pass).

    With an `output`, only its own attention to the others is off.
    """

    acts_on: ClassVar[str] = "attention between outputs"


@attrs.frozen(repr=False)
class UseCondition(Perturbation):
    """A stream gets the text of another condition, whose inputs the pass has in `BoundBranch.also`.

    Use: LTX-2 with a negative prompt for only one modality. The other one keeps its positive text.
    """

    condition: str = attrs.field(default="positive", kw_only=True)
    "The name of the condition."

    acts_on: ClassVar[str] = "text"


def as_perturbations(given: Perturbation | Iterable[Perturbation]) -> tuple[Perturbation, ...]:
    """Return perturbations as a tuple, or raise `ConfigurationError` if one is something else."""
    if isinstance(given, Perturbation):
        return (given,)
    try:
        listed: tuple[Any, ...] = tuple(islice(given, MOST))
    except Exception:
        raise ConfigurationError(f"perturbations must be a list of Perturbation objects; got {brief(given)}.") from None
    for each in listed:
        if isinstance(each, Perturbation):
            continue
        hint = f"; pass an instance, {each.__name__}(...)" if isinstance(each, type) else ""
        raise ConfigurationError(
            "a perturbation must be an instance of a class that inherits from guidance_core.Perturbation; "
            f"got {brief(each)}{hint}."
        )
    return listed


def check_compatible(branch: str, perturbations: tuple[Perturbation, ...]) -> None:
    """Raise `BranchConflictError` if two of `perturbations` act differently on one place."""
    for one, other in combinations(perturbations, 2):
        if one.collides(other) or other.collides(one):
            raise BranchConflictError(
                f"branch {branch} has two perturbations that act on the same blocks: "
                f"{one} and {other}. Give them different blocks or outputs, or separate branches."
            )
