"""Perturbed-attention guidance of chosen heads, with a weight."""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs

from guidance_core import (
    Blocks,
    Branch,
    ConfigurationError,
    Scale,
    SoftIdentityAttention,
    Step,
    WeakenedPass,
    blocks,
    documented,
    names,
    number,
    text,
)


@documented
@attrs.frozen
class SoftPAG(WeakenedPass):
    """Soft perturbed-attention guidance: move away from a pass in which some heads mix their tokens less.

        guided = c + s·(c − p)

    `p` is the conditional pass in which the attention map A of each chosen head is replaced with (1 − u)·A + u·I.
    Choose single heads, as in `heads=[L3H0, L7H5]`, or all heads of some blocks. At s = 0 it is not run; with u = 1 and
    all heads it is PAG.

    Source: Ahn et al., arXiv:2506.10978, of which the abstract was read.
    """

    scale: Scale = number(3.0, help="strength s; 0 is off and runs no extra pass")
    blocks: Blocks | None = blocks(
        None, varies=False, help="transformer blocks whose heads all change, from 0 (none: all)"
    )
    heads: Sequence[str] = names(help="the heads to change instead, by block and number from 0, such as L3H0")
    weight: float = number(1.0, ge=0, le=1, varies=False, help="weight u of the identity")
    branch: str = text("softened", help="name of the branch; two stacked SoftPAGs need two")

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self._changes()

    def _changes(self) -> tuple[SoftIdentityAttention, ...]:
        """Return what the pass changes, for each block or for all."""
        if not self.heads:
            return (SoftIdentityAttention(self.blocks, weight=self.weight),)
        if self.blocks is not None:
            raise ConfigurationError("SoftPAG: heads already names the blocks; leave out blocks.")
        chosen: dict[int, list[int]] = {}
        for name in self.heads:
            found = re.fullmatch(r"[Ll](\d{1,5})[Hh](\d{1,5})", name)
            if found is None:
                raise ConfigurationError(f"SoftPAG: heads are named by block and number, such as L3H0; got {name!r}.")
            chosen.setdefault(int(found[1]), []).append(int(found[2]))
        return tuple(SoftIdentityAttention(block, heads=each, weight=self.weight) for block, each in chosen.items())

    def weakened(self, step: Step) -> Branch:
        """Return the pass with changed heads."""
        return Branch(self.branch, perturbations=self._changes(), strength=step.value(self.scale))
