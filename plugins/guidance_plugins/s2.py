"""Stochastic self-guidance."""

from __future__ import annotations

import random

import attrs

from guidance_core import (
    Blocks,
    Branch,
    ConfigurationError,
    Request,
    Scale,
    SkipBlocks,
    Step,
    WeakenedPass,
    blocks,
    documented,
    hookimpl,
    number,
    text,
    whole,
)


@documented
@attrs.frozen
class S2(WeakenedPass):
    """Stochastic self-guidance: move away from a pass without some blocks, chosen at random in each step.

        guided = c + s·(c − p)

    `p` is the conditional pass that skips a share of the blocks, drawn in each step. The choice depends on `seed` and
    the step, not on the run, because a forward pass skips the same blocks for all samples of a batch. At s = 0 it is
    not run. The number of blocks is `count`, or the number that the host declares with
    `start(supports=Capabilities(blocks=28))`.

    Source: Chen et al., arXiv:2508.12880, eq. 4 and Alg. 1 of the third version.
    """

    scale: Scale = number(0.25, help="strength s; 0 is off and runs no extra pass")
    share: float = number(0.1, gt=0, le=1, varies=False, help="share of the blocks to skip, at least one")
    blocks: Blocks | None = blocks(None, varies=False, help="indices of the blocks to draw from, from 0 (none: all)")
    seed: int = whole(0, help="a different seed skips different blocks")
    count: int | None = whole(
        None, optional=True, ge=1, help="number of the model's blocks (none: as the host declares)"
    )
    branch: str = text("without", help="first part of the names of its branches, such as without-3-7")

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.blocks == ():
            raise ConfigurationError("S2: blocks is empty; name the blocks to draw from, or none for all.")

    @hookimpl
    def build_branches(self, step: Step) -> list[Request]:
        """Ask for the weakened pass inside the window, unless s is 0 for every output."""
        return super().build_branches(step) if step.active(self.scale) else []

    def weakened(self, step: Step) -> Branch:
        """Return the pass without the blocks drawn for this step."""
        places = self._places(step)
        size = max(1, round(self.share * len(places)))
        drawn = random.Random(f"{self.seed} {step.index}").sample(places, size)
        by_list: dict[str | None, list[int]] = {}
        for stack, block in sorted(drawn, key=str):
            by_list.setdefault(stack, []).append(block)
        changes = tuple(SkipBlocks(chosen, stack=stack) for stack, chosen in by_list.items())
        name = "-".join(f"{change.stack or ''}{block}" for change in changes for block in change.blocks or ())
        return Branch(f"{self.branch}-{name}", perturbations=changes, strength=step.value(self.scale))

    def _places(self, step: Step) -> list[tuple[str | None, int]]:
        """Return the blocks to draw from, each with its list."""
        if self.blocks is not None:
            return [(None, block) for block in SkipBlocks(self.blocks).blocks or ()]
        lists = {"blocks": self.count} if self.count is not None else step.blocks
        if not lists:
            raise ConfigurationError(
                "S2 draws from the blocks of the model, but nobody says how many there are: give count=28 or "
                "blocks=[3, 4, 5], or let the host say it with start(supports=Capabilities(..., blocks=28))."
            )
        only = len(lists) == 1
        return [(None if only else stack, block) for stack, number in lists.items() for block in range(number)]
