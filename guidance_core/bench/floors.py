"""The least that some methods cost in float32, rounded once: loops written by hand, with no step around them.

Each prediction is read block by block into float32 that stays in cache, as few times as the formula allows. They are
for contiguous predictions of one sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from guidance_core.algebra.arithmetic import BLOCK

Floor: TypeAlias = Callable[[Mapping[str, Tensor]], Tensor]


def _blocks(*tensors: Tensor) -> Iterator[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """Yield the parts of each tensor, and a float32 buffer for each."""
    flat = [tensor.view(-1) for tensor in tensors]
    memory = [torch.empty(BLOCK) for _ in flat]
    for start in range(0, flat[0].numel(), BLOCK):
        parts = tuple(each[start : start + BLOCK] for each in flat)
        yield parts, tuple(each[: parts[0].numel()] for each in memory)


def two_moves(passes: Mapping[str, Tensor]) -> Tensor:
    """Return `c + 6.5·(c − u) + 2.8·(c − p)`."""
    c, u, p = list(passes.values())[:3]
    result = torch.empty_like(c)
    for (c_part, u_part, p_part, into), (base, total, other, _) in _blocks(c, u, p, result):
        torch.lerp(total.copy_(u_part), base.copy_(c_part), 7.5, out=total)
        into.copy_(total.add_(torch.sub(base, other.copy_(p_part), out=other), alpha=2.8))
    return result


def damped(passes: Mapping[str, Tensor]) -> Tensor:
    """Return `c + w·(c − u)`, where w follows from ‖c − u‖ and ‖u‖."""
    c, u = list(passes.values())[:2]
    apart, size = 0.0, 0.0
    for (c_part, u_part), (one, other) in _blocks(c, u):
        other.copy_(u_part)
        size += float(torch.linalg.vector_norm(other)) ** 2
        apart += float(torch.linalg.vector_norm(torch.sub(one.copy_(c_part), other, out=one))) ** 2
    return torch.lerp(u, c, 1.0 + 9.0 * float(torch.exp(torch.tensor(-8.0 * (apart / size) ** 0.5))))


def nearest(passes: Mapping[str, Tensor]) -> Tensor:
    """Return `c + 6.5·(c − α·u)`, where α follows from ⟨c, u⟩ and ‖u‖²."""
    c, u = list(passes.values())[:2]
    product, square = 0.0, 0.0
    for (c_part, u_part), (one, other) in _blocks(c, u):
        other.copy_(u_part)
        square += float(torch.linalg.vector_norm(other)) ** 2
        product += float(one.copy_(c_part).mul_(other).sum())
    alpha, result = product / square, torch.empty_like(c)
    for (c_part, u_part, into), (one, other, _) in _blocks(c, u, result):
        into.copy_(one.copy_(c_part).mul_(7.5).add_(other.copy_(u_part), alpha=-6.5 * alpha))
    return result


FLOORS: Mapping[str, Floor] = {"cfg-zero-star": nearest, "mambo-g": damped, "slg": two_moves}
"By method."
