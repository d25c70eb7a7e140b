"""What a pass changes inside the embedded transformer: an example of how a host makes perturbations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import attrs
from torch import Tensor
from torch.nn import functional as F

from guidance_core.errors import ConfigurationError
from guidance_core.methods.attention import BlurredAttention, SoftIdentityAttention
from guidance_core.methods.perturbations import (
    IdentityAttention,
    Perturbation,
    SkipBlocks,
    SkipSelfAttention,
    check_compatible,
)
from guidance_core.methods.randomized import DropOut, NoisedTimestep, ShuffledTokens
from guidance_core.methods.sliding import SlidingWindows

OUTPUT = "output"
"The name of the one output, where a perturbation names one."

POSSIBLE: tuple[type[Perturbation], ...] = (
    SkipBlocks,
    SkipSelfAttention,
    IdentityAttention,
    SoftIdentityAttention,
    BlurredAttention,
    ShuffledTokens,
    DropOut,
    NoisedTimestep,
    SlidingWindows,
)
"The changes that the embedded transformer can make."

P = TypeVar("P", bound=Perturbation)


@attrs.frozen
class Changes:
    """What one pass changes, or one of its blocks."""

    made: tuple[Perturbation, ...]
    block: int = -1
    "Index of the block."

    @classmethod
    def of(cls, perturbations: Sequence[Perturbation], depth: int, heads: int) -> Changes:
        """Return those of a pass through a model of some depth.

        Raises:
            ConfigurationError: one is of another kind, or names an output, a block or a head that the model does not
                have.
            BranchConflictError: two collide.
        """
        for each in perturbations:
            _check(each, depth, heads)
        check_compatible("of DigitsTransformer", tuple(perturbations))
        return cls(tuple(perturbations))

    def at(self, block: int) -> Changes:
        """Return those of one block."""
        return Changes(tuple(each for each in self.made if each.blocks is None or block in each.blocks), block)

    def every(self, kind: type[P]) -> Iterator[P]:
        """Yield those of one kind."""
        return (each for each in self.made if isinstance(each, kind))

    @property
    def windows(self) -> SlidingWindows | None:
        """The windows that the model sees the sample through."""
        return next(self.every(SlidingWindows), None)

    @property
    def skips(self) -> bool:
        """Whether the block is skipped."""
        return any(self.every(SkipBlocks))

    def shuffled(self, x: Tensor) -> Tensor:
        """Return the tokens that enter the block, `[B, tokens, width]`."""
        for each in self.every(ShuffledTokens):
            x = each.shuffled(x, self.block)
        return x

    def dropped(self, x: Tensor, part: str) -> Tensor:
        """Return what a part of the block adds."""
        for each in self.every(DropOut):
            x = each.dropped(x, self.block, part)
        return x

    def timestep(self, embedding: Tensor, t: Tensor) -> Tensor:
        """Return the embedding of the timestep that the block is given."""
        for each in self.every(NoisedTimestep):
            embedding = each.noised(embedding, t)
        return embedding

    def attention(self, q: Tensor, k: Tensor, v: Tensor, grid: Sequence[int]) -> Tensor:
        """Return the block's attention; all `[B, heads, tokens, width]`, of tokens that form a grid."""
        if any(self.every(IdentityAttention)) or any(self.every(SkipSelfAttention)):
            return v  # both are one thing here: each value passes through unmixed
        for blur in self.every(BlurredAttention):
            q = blur.blurred(q, grid)
        mixed: Tensor = F.scaled_dot_product_attention(q, k, v)
        for soft in self.every(SoftIdentityAttention):
            mixed = soft.mixed(mixed, v)
        return mixed


def _check(each: Perturbation, depth: int, heads: int) -> None:
    if type(each) not in POSSIBLE:
        able = _listed(kind.__name__ for kind in POSSIBLE)
        raise ConfigurationError(f"DigitsTransformer cannot make the change {each!r}; it can make {able}.")
    if each.output not in (None, OUTPUT):
        raise ConfigurationError(f"DigitsTransformer has the single output {OUTPUT!r}; {each!r} names another.")
    if each.blocks and each.blocks[-1] >= depth:
        raise ConfigurationError(f"DigitsTransformer has {depth} blocks, 0 to {depth - 1}; got {each!r}.")
    if isinstance(each, SoftIdentityAttention) and each.heads and each.heads[-1] >= heads:
        raise ConfigurationError(f"DigitsTransformer has {heads} heads, 0 to {heads - 1}; got {each!r}.")


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}"
