"""Perturbations of attention, each with the arithmetic that a host needs to make them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from guidance_core.algebra.arithmetic import accumulation_dtype
from guidance_core.errors import ConfigurationError
from guidance_core.methods.perturbations import Blocks, Perturbation, as_indices, real

UNBOUNDED = 9999.0
"The widest blur that is computed as one; a wider one is the mean, as in the authors' code."


@attrs.frozen(repr=False)
class BlurredAttention(Perturbation):
    """The queries of self-attention are blurred over the grid of their tokens.

    A Gaussian blur of the queries equals a blur of the attention map before its softmax. If `sigma` is infinite, every
    query is the mean of all, so all tokens attend in the same way.

    Source: SEG, arXiv:2408.00760, eq. 6 and Proposition 3.1.
    """

    sigma: float = real(math.inf, gt=0, infinite=True)
    "Standard deviation of the blur, in tokens."

    def blurred(self, queries: Tensor, grid: Sequence[int]) -> Tensor:
        """Return the queries of tokens that form a grid, blurred along its last two dimensions.

        Args:
            queries: `[..., tokens, width]`, without the queries of text.
            grid: the shape of the grid, whose product is the number of tokens: `(height, width)`, or `(frames, height,
                width)` for a video, whose frames are blurred one by one.

        Returns:
            The blurred queries, in the dtype of the queries. The blur is computed in float32 (float64 for float64).

        Raises:
            ConfigurationError: the grid has a different number of tokens.
        """
        if not grid or math.prod(grid) != queries.shape[-2]:
            raise ConfigurationError(
                f"{self}: the grid {tuple(grid)} does not have {queries.shape[-2]} tokens. Give the grid of the tokens "
                "whose queries these are, and leave those of text out."
            )
        axes = tuple(range(len(grid)))[-2:]
        x = queries.reshape(*queries.shape[:-2], *grid, queries.shape[-1]).to(accumulation_dtype(queries))
        dims = [axis - len(grid) - 1 for axis in axes]
        if self.sigma > UNBOUNDED:
            x = x.mean(dims, keepdim=True).expand_as(x)
        else:
            for dim in dims:
                weights = _blur(x.shape[dim], self.sigma, x)
                x = (x.movedim(dim, -1) @ weights).movedim(-1, dim)
        return x.reshape(queries.shape).to(queries.dtype)


def _blur(length: int, sigma: float, like: Tensor) -> Tensor:
    """Return the matrix of a blur with reflected ends: column j is what output j takes of each input."""
    width = math.ceil(6 * sigma)
    width = min(width + 1 - width % 2, length - (length % 2 - 1))
    distances = torch.arange(width, dtype=like.dtype, device=like.device) - (width - 1) / 2
    kernel = torch.exp(-0.5 * (distances / sigma) ** 2)
    kernel = kernel / kernel.sum()
    inputs = torch.eye(length, dtype=like.dtype, device=like.device)[:, None]
    padded = F.pad(inputs, (width // 2, width // 2), mode="reflect") if width > 1 else inputs
    return F.conv1d(padded, kernel[None, None])[:, 0]


def _as_heads(given: Blocks | None) -> tuple[int, ...] | None:
    return as_indices("heads", given)


@attrs.frozen(repr=False)
class SoftIdentityAttention(Perturbation):
    """The self-attention map of some heads is mixed with the identity: (1 − weight)·A + weight·I.

    Source: SoftPAG, arXiv:2506.10978.
    """

    heads: tuple[int, ...] | None = attrs.field(default=None, converter=_as_heads, kw_only=True)
    "Indices of the heads, from 0; None for all."
    weight: float = real(1.0, ge=0, le=1)
    "The weight of the identity."

    def collides(self, other: Perturbation) -> bool:
        """Whether both change a head of one block differently."""
        if isinstance(other, SoftIdentityAttention) and self.heads is not None and other.heads is not None:
            return bool(set(self.heads) & set(other.heads)) and self.weight != other.weight and self._meets(other)
        return super().collides(other)

    def mixed(self, attended: Tensor, values: Tensor) -> Tensor:
        """Return the result of the heads: attention mixed with the values, which are the result of the identity.

        Args:
            attended: `[B, heads, tokens, width]`, the result of attention.
            values: the values attended to, of the same shape.

        Raises:
            ConfigurationError: the model does not have such a head.
        """
        if self.heads is None:
            return torch.lerp(attended, values, self.weight)
        count = attended.shape[1]
        if self.heads and self.heads[-1] >= count:
            raise ConfigurationError(
                f"{self} acts on head {self.heads[-1]}, but the model has {count} heads, counted from 0."
            )
        chosen = torch.zeros(count, dtype=torch.bool)
        chosen[list(self.heads)] = True
        chosen = chosen.to(attended.device, non_blocking=True).view(-1, 1, 1)
        return torch.where(chosen, torch.lerp(attended, values, self.weight), attended)


@attrs.frozen(repr=False)
class NormalizedAttention(Perturbation):
    """Cross-attention moves away from its result for another condition, as far as its norm allows.

        z̃ = z⁺ + φ·(z⁺ − z⁻)
        ẑ = z̃·min(r, τ)/r,   r = ‖z̃‖₁/‖z⁺‖₁        per token
        z = α·ẑ + (1 − α)·z⁺

    `z⁺` and `z⁻` are cross-attention to the condition of the pass and to the other one, with the same queries. The pass
    gets the inputs of the other condition in `BoundBranch.also`.

    Source: NAG, arXiv:2505.21179, eq. 7 to 10.
    """

    scale: float = real(5.0, ge=0)
    "φ, how far to move away."
    tau: float = real(2.5, gt=0)
    "τ, the largest growth of a token's norm."
    alpha: float = real(0.25, ge=0, le=1)
    "α, the weight of ẑ in the result."
    condition: str = attrs.field(default="negative", kw_only=True)
    "The condition to move away from."

    acts_on: ClassVar[str] = "cross-attention"

    def mixed(self, positive: Tensor, negative: Tensor) -> Tensor:
        """Return the normalized attention.

        Args:
            positive: `[..., tokens, width]`, all heads of a token together, before the output projection.
            negative: of the same shape.

        Returns:
            The attention to use, in the dtype of `positive`; computed in float32 (float64 for float64).
        """
        working = accumulation_dtype(positive)
        z, away = positive.to(working), negative.to(working)
        moved = torch.lerp(away, z, 1 + self.scale)
        norm, limit = moved.abs().sum(-1, keepdim=True), self.tau * z.abs().sum(-1, keepdim=True)
        moved = moved * torch.where(norm > limit, limit / norm, 1.0)
        return torch.lerp(z, moved, self.alpha).to(positive.dtype)
