"""What a branch changes inside the model, described without reference to any model.

A perturbation is a small frozen description. A host turns it into the model's own flags or
hooks; the library itself only compares them and refuses two that collide in one branch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations, islice
from operator import index
from typing import Any, TypeAlias

import attrs

from guidance_core.errors import BranchConflictError, ConfigurationError, brief

MOST_BLOCKS = 100_000


def _as_blocks(blocks: Any) -> tuple[int, ...] | None:
    """Sort and deduplicate block indices; `None` stays `None`, which means every block."""
    if blocks is None:
        return None
    items = blocks if isinstance(blocks, Iterable) and not isinstance(blocks, str | bytes | Mapping) else (blocks,)
    try:
        given = list(islice(items, MOST_BLOCKS + 1))
        if any(isinstance(block, bool) for block in given):
            raise TypeError
        numbers = sorted({index(block) for block in given})
    except Exception:
        raise ConfigurationError(
            f"blocks must be whole numbers, for example (28, 29), or None for all; got {brief(blocks)}."
        ) from None
    if len(given) > MOST_BLOCKS:
        raise ConfigurationError(f"no model has {MOST_BLOCKS:,} blocks; got more.")
    if numbers and numbers[0] < 0:
        raise ConfigurationError(f"blocks count from 0; got {brief(numbers[0], 60)} in {brief(blocks)}.")
    if numbers and numbers[-1] > MOST_BLOCKS:
        raise ConfigurationError(f"no model has {MOST_BLOCKS:,} blocks; got the block {brief(numbers[-1], 60)}.")
    return tuple(numbers)


@attrs.frozen
class _InBlocks:
    """What the perturbations that act on single blocks have in common."""

    blocks: tuple[int, ...] | None = attrs.field(default=None, converter=_as_blocks)
    "Indices of the transformer blocks it acts on, from 0; `None` for every block."
    output: str | None = None
    "The named output whose stream it acts on (`video`, `audio`); `None` for every stream."


@attrs.frozen
class SkipSelfAttention(_InBlocks):
    """Self-attention is skipped: its values pass through without mixing tokens.

    Source: STG, arXiv:2411.18664, "STG-A"; LTX-2's perturbed pass.
    """


@attrs.frozen
class SkipBlocks(_InBlocks):
    """Whole blocks are skipped: their output is their input.

    Source: STG, arXiv:2411.18664, "STG-R"; skip-layer guidance of SD3.5.
    """


@attrs.frozen
class IdentityAttention(_InBlocks):
    """The self-attention map is the identity matrix.

    Source: PAG, arXiv:2403.17377, eq. 16.
    """


@attrs.frozen
class IsolateOutputs:
    """The cross-attentions between named outputs are off in every block (LTX-2's modality pass)."""


Perturbation: TypeAlias = SkipSelfAttention | SkipBlocks | IdentityAttention | IsolateOutputs


def check_compatible(branch: str, perturbations: tuple[Perturbation, ...]) -> None:
    """Raise `BranchConflictError` if two of `perturbations` act differently on one place."""
    for one, other in combinations(perturbations, 2):
        if _collide(one, other):
            raise BranchConflictError(
                f"branch {branch!r} has two perturbations that act on the same blocks: "
                f"{one} and {other}. Give them different blocks or outputs, or separate branches."
            )


def _collide(one: Perturbation, other: Perturbation) -> bool:
    if isinstance(one, IsolateOutputs) or isinstance(other, IsolateOutputs) or type(one) is type(other):
        return False  # the same change twice is that change
    same_stream = one.output is None or other.output is None or one.output == other.output
    if not same_stream:
        return False
    return one.blocks is None or other.blocks is None or bool(set(one.blocks) & set(other.blocks))
