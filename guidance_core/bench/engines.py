"""How engines spread branches over ranks, written out to compare with.

`RoundRobin` is their generic dispatch: sglang's `run_cfg_parallel`, and vLLM-Omni's. For LTX-2 each has a path of its
own: `PackedReduces` is sglang's, `PaddedGathers` vLLM-Omni's. Every rank ends with all predictions and combines them
itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from guidance_core.steps.bound_branch import BoundBranch

Strengths = Mapping[str, Sequence[float]]
"By output: cfg − 1, stg and mod − 1, as far as there are branches."

# Renamed in torch 2.13; the old name warns there.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class Dispatch:
    """Makes steps and counts what they send."""

    def __init__(
        self, group: dist.ProcessGroup, branches: Sequence[BoundBranch], strengths: Strengths, phi: float
    ) -> None:
        """Take the branches, `cond` first, the strengths of the others by output, and the rescale."""
        self.group, self.branches = group, branches
        self.strengths, self.phi = strengths, phi
        self.collectives = 0
        self.bytes = 0
        "What this rank handed to collectives."

    def step(self, sample: Sequence[Tensor], sigma: float, denoise: Any) -> tuple[Tensor, ...]:
        """Return the guided velocity of every output."""
        raise NotImplementedError

    def _combined(
        self, sample: Sequence[Tensor], sigma: float, passes: Sequence[Sequence[Tensor]]
    ) -> tuple[Tensor, ...]:
        """Combine the passes of every output."""
        parts = zip(sample, passes, self.strengths.values(), strict=True)
        return tuple(combined(x, sigma, each, strengths, self.phi) for x, each, strengths in parts)

    def _gathered(self, tensor: Tensor) -> Sequence[Tensor]:
        received = tensor.new_empty(self.group.size() * tensor.shape[0], *tensor.shape[1:])
        _all_gather(received, tensor.contiguous(), group=self.group)
        self._count(tensor)
        return received.chunk(self.group.size())

    def _count(self, tensor: Tensor) -> None:
        self.collectives += 1
        self.bytes += tensor.numel() * tensor.element_size()

    def _by_branch(self, slots: Sequence[Sequence[Tensor]], output: int) -> list[Tensor]:
        """Gather one output of all slots and return its pass of every branch, which went round the ranks."""
        size = self.group.size()
        gathered = [self._gathered(slot[output]) for slot in slots]
        return [gathered[index // size][index % size] for index in range(len(self.branches))]


class RoundRobin(Dispatch):
    """Branch i runs on rank i mod n, one forward a branch; one all-gather for every slot and output.

    A rank with nothing to run makes a forward of the first branch to know the shapes. Ranks with fewer branches pad
    with zeros.
    """

    def step(self, sample: Sequence[Tensor], sigma: float, denoise: Any) -> tuple[Tensor, ...]:
        """Return the guided velocity of every output."""
        rank, size, count = self.group.rank(), self.group.size(), len(self.branches)
        slots = [denoise(self.branches[index]) for index in range(rank, count, size)]
        if not slots:
            slots.append(denoise(self.branches[0]))  # only for its shapes
        while len(slots) < -(-count // size):
            slots.append(tuple(torch.zeros_like(output) for output in slots[0]))
        return self._combined(sample, sigma, [self._by_branch(slots, output) for output in range(len(sample))])


class PackedReduces(Dispatch):
    """A rank's branches are one forward; for each branch one all-reduce of both outputs' x0, zeros on other ranks."""

    def step(self, sample: Sequence[Tensor], sigma: float, denoise: Any) -> tuple[Tensor, ...]:
        """Return the guided velocity of every output."""
        rank, size = self.group.rank(), self.group.size()
        own = self.branches[rank::size]
        made = dict(zip((branch.name for branch in own), denoise.batch(own) if own else (), strict=True))
        sizes = [x.numel() for x in sample]
        passes: list[list[Tensor]] = [[] for _ in sample]
        for branch in self.branches:
            if branch.name in made:
                x0 = (x.float() - v.float() * sigma for x, v in zip(sample, made[branch.name], strict=True))
                packed = torch.cat([each.to(sample[0].dtype).flatten() for each in x0])
            else:
                packed = sample[0].new_zeros(sum(sizes))
            dist.all_reduce(packed, group=self.group)
            self._count(packed)
            for each, part, x in zip(passes, torch.split(packed, sizes), sample, strict=True):
                each.append(part.view(x.shape))
        denoised = self._combined(sample, 0.0, passes)
        return tuple(((x.float() - x0) / sigma).to(x.dtype) for x, x0 in zip(sample, denoised, strict=True))

    def _combined(self, sample: Sequence[Tensor], _: float, passes: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
        parts = zip(sample, passes, self.strengths.values(), strict=True)
        return tuple(combined(x, None, each, strengths, self.phi) for x, each, strengths in parts)


class PaddedGathers(Dispatch):
    """A rank's branches are one forward, padded with `cond` to as many rows; one all-gather a slot and output."""

    def step(self, sample: Sequence[Tensor], sigma: float, denoise: Any) -> tuple[Tensor, ...]:
        """Return the guided velocity of every output."""
        rank, size, count = self.group.rank(), self.group.size(), len(self.branches)
        own = list(self.branches[rank::size])
        own += [self.branches[0]] * (-(-count // size) - len(own))
        slots = denoise.batch(own)
        return self._combined(sample, sigma, [self._by_branch(slots, output) for output in range(len(sample))])


def combined(
    x: Tensor, sigma: float | None, passes: Sequence[Tensor], strengths: Sequence[float], phi: float
) -> Tensor:
    """LTX-2's formula in float32: velocities to x0, sum, rescale with the std per sample, back to velocity.

    Without sigma, the passes are x0 and so is the result.
    """
    c, *others = (v.float() if sigma is None else x.float() - v.float() * sigma for v in passes)
    guided = c
    for strength, other in zip(strengths, others, strict=True):
        guided = guided + strength * (c - other)
    dims = tuple(range(1, x.ndim))
    factor = phi * c.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True) + (1 - phi)
    guided = guided * factor
    return (guided if sigma is None else (x.float() - guided) / sigma).to(x.dtype)
