"""Tangential damping of the unconditional prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs
import torch

from guidance_core import Away, Request, Scale, Step, documented, hookimpl, negative_pass, number


@documented
@attrs.frozen
class TCFG:
    """Tangential damping classifier-free guidance: keep only the part of u that both predictions share.

        v = first right singular vector of the matrix with rows c and u, per sample
        u′ = ⟨u, v⟩·v
        guided = c + (s − 1)·(c − u′)

    The vector is computed from the three inner products of c and u: with the larger eigenvalue λ of their Gram matrix
    and its eigenvector (a, b), v = (a·c + b·u)/√λ. If c and u are orthogonal and of equal length, every direction is
    valid, and that of c is used.

    Source: Kwon et al., arXiv:2503.18137, Alg. 1; as in diffusers' TangentialClassifierFreeGuidance.
    """

    form_of: ClassVar[str] = "cfg"

    scale: Scale = number(7.5, help="guidance scale s; 1 is off and runs no extra pass")

    @hookimpl
    def build_branches(self, step: Step) -> list[Request]:
        """Ask for the prediction of `uncond`, unless s is 1 for every output."""
        return negative_pass(step, self.scale)

    @hookimpl
    def combine(self, step: Step, predictions: Mapping[str, torch.Tensor]) -> Away:
        """Return what to add to c."""
        c, u = predictions["cond"], predictions["uncond"]
        size = torch.maximum(step.norm(c), step.norm(u))
        size = torch.where(size > 0, size, 1.0)  # squares of large predictions would overflow
        x, y = c / size, u / size
        a, b = _principal(step.inner(x, x), step.inner(x, y), step.inner(y, y))
        strength = step.value(self.scale) - 1
        return Away({"uncond": b * strength}, base=(1 - a - b) * strength)  # (s − 1)·(c − a·c − b·u)


def _principal(cc: torch.Tensor, cu: torch.Tensor, uu: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the factors of c and u in u′, given ⟨c, c⟩, ⟨c, u⟩ and ⟨u, u⟩."""
    half = (cc - uu) / 2
    root = torch.sqrt(half * half + cu * cu)
    largest = (cc + uu) / 2 + root
    # Of two forms of the eigenvector, the one that subtracts nothing.
    a = torch.where(half >= 0, root + half, cu)
    b = torch.where(half >= 0, cu, root - half)
    is_any = root == 0
    a, b = torch.where(is_any, 1.0, a), torch.where(is_any, 0.0, b)
    share = (a * cu + b * uu) / (largest * (a * a + b * b))
    share = torch.nan_to_num(share, 0.0, 0.0, 0.0)
    return share * a, share * b
