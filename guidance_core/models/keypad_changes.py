"""What a pass changes inside the Keypad model: the switches of LTX-2's transformer."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from guidance_core.errors import ConfigurationError
from guidance_core.methods.perturbations import (
    IdentityAttention,
    IsolateOutputs,
    Perturbation,
    SkipBlocks,
    SkipSelfAttention,
    UseCondition,
    check_compatible,
)

OUTPUTS = ("video", "audio")

POSSIBLE: tuple[type[Perturbation], ...] = (
    SkipBlocks,
    SkipSelfAttention,
    IdentityAttention,
    IsolateOutputs,
    UseCondition,
)
"The changes that the model, or its host for `UseCondition`, can make."


@attrs.frozen
class Changes:
    """What one pass changes, or one of its blocks."""

    made: tuple[Perturbation, ...]

    @classmethod
    def of(cls, perturbations: Sequence[Perturbation], depth: int) -> Changes:
        """Return those of a pass through a model of some depth.

        Raises:
            ConfigurationError: one is of another kind, or names an output or a block that the model does not have.
            BranchConflictError: two collide.
        """
        for each in perturbations:
            if type(each) not in POSSIBLE:
                able = ", ".join(kind.__name__ for kind in POSSIBLE)
                raise ConfigurationError(f"KeypadTransformer cannot make the change {each!r}; it can make {able}.")
            if each.output not in (None, *OUTPUTS):
                raise ConfigurationError(f"KeypadTransformer has the outputs video and audio; {each!r} names another.")
            if each.blocks and each.blocks[-1] >= depth:
                raise ConfigurationError(f"KeypadTransformer has {depth} blocks, 0 to {depth - 1}; got {each!r}.")
        check_compatible("of KeypadTransformer", tuple(perturbations))
        return cls(tuple(perturbations))

    def at(self, block: int) -> Changes:
        """Return those of one block."""
        if not self.made:
            return self
        return Changes(tuple(each for each in self.made if each.blocks is None or block in each.blocks))

    def skips(self, output: str) -> bool:
        """Whether the block leaves a stream as it is."""
        return self._has(output, SkipBlocks)

    def skips_attention(self, output: str) -> bool:
        """Whether self-attention mixes no tokens of a stream."""
        return self._has(output, SkipSelfAttention, IdentityAttention)  # both are one thing here

    def isolates(self, output: str) -> bool:
        """Whether a stream does not attend to the other."""
        return self._has(output, IsolateOutputs)

    def _has(self, output: str, *kinds: type[Perturbation]) -> bool:
        return any(isinstance(each, kinds) and each.output in (None, output) for each in self.made)


UNCHANGED = Changes(())
