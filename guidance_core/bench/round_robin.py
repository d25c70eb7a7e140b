"""The dispatch that engines use for LTX-2's branches, written out to compare with.

As in sglang (`run_cfg_parallel`) and vLLM-Omni: branch i runs on rank i mod n; a rank with nothing to
run makes a forward of the first branch to know the shapes; ranks with fewer branches pad with zeros; one
all-gather for every slot and output; every rank then combines all predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from guidance_core.steps.bound_branch import BoundBranch

Strengths = Mapping[str, Sequence[float]]
"By output: cfg − 1, stg and mod − 1, as far as there are branches."

# Renamed in torch 2.13; the old name warns there.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class RoundRobin:
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

    def step(self, sample: Sequence[Tensor], sigma: float, denoise: Callable[[BoundBranch], Any]) -> tuple[Tensor, ...]:
        """Return the guided velocity of every output."""
        rank, size, count = self.group.rank(), self.group.size(), len(self.branches)
        slots = [denoise(self.branches[index]) for index in range(rank, count, size)]
        if not slots:
            slots.append(denoise(self.branches[0]))  # only for its shapes
        while len(slots) < -(-count // size):
            slots.append(tuple(torch.zeros_like(output) for output in slots[0]))
        gathered = [[self._gathered(output) for output in slot] for slot in slots]
        results = []
        for number, (x, strengths) in enumerate(zip(sample, self.strengths.values(), strict=True)):
            passes = [gathered[index // size][number][index % size] for index in range(count)]
            results.append(combined(x, sigma, passes, strengths, self.phi))
        return tuple(results)

    def _gathered(self, tensor: Tensor) -> Sequence[Tensor]:
        received = tensor.new_empty(self.group.size() * tensor.shape[0], *tensor.shape[1:])
        _all_gather(received, tensor.contiguous(), group=self.group)
        self.collectives += 1
        self.bytes += tensor.numel() * tensor.element_size()
        return received.chunk(self.group.size())


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
