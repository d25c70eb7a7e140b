"""Perturbations that draw random numbers: the same on every rank, for each sample from its own seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from guidance_core.algebra.arithmetic import accumulation_dtype
from guidance_core.errors import ConfigurationError
from guidance_core.methods.noise import generator
from guidance_core.methods.perturbations import Perturbation, real
from guidance_core.methods.requests import Branch


@attrs.frozen(repr=False)
class RandomPerturbation(Perturbation):
    """Base class of random perturbations.

    In `BoundBranch.perturbations` they have a seed for each row of the batch, derived from the seed of the sample and
    from the step. Draw only from these seeds.
    """

    seeds: tuple[int, ...] = attrs.field(default=(), kw_only=True, repr=False)
    "A seed for each row of the batch; filled in by the core."

    def drawn(
        self, shape: tuple[int, ...], draw: Callable[[tuple[int, ...], torch.Generator], Tensor], *key: object
    ) -> Tensor:
        """Return random numbers for each row, `[B, *shape]`, on the CPU.

        Args:
            shape: the shape of one row.
            draw: a function that draws a row of a shape with a generator.
            key: distinguishes several draws of one pass, such as the index of the block.

        Raises:
            ConfigurationError: the perturbation has no seeds, because it does not come from a pass.
        """
        if not self.seeds:
            raise ConfigurationError(
                f"{self} draws random numbers, for which a pass gives it seeds: take it from branch.perturbations, or "
                f"give it some, as in {type(self).__name__}(seeds=(1, 2)) for two samples."
            )
        return torch.stack([draw(shape, generator(seed, *key)) for seed in self.seeds])


@attrs.frozen(repr=False)
class ShuffledTokens(RandomPerturbation):
    """The tokens that enter a block are shuffled, in each block anew. They are not put back.

    Source: TPG, arXiv:2506.10036, eq. 7, and the authors' code.
    """

    acts_on: ClassVar[str] = "tokens"

    def order(self, tokens: int, block: int) -> Tensor:
        """Return the order of the tokens that enter a block, `[B, tokens]` of int64 on the CPU."""
        return self.drawn((tokens,), lambda shape, source: torch.randperm(shape[0], generator=source), block)

    def shuffled(self, x: Tensor, block: int) -> Tensor:
        """Return the tokens `[B, tokens, ...]` that enter a block, shuffled."""
        order = self.order(x.shape[1], block).to(x.device, non_blocking=True)
        return torch.take_along_dim(x, order.view(*order.shape, *(1,) * (x.ndim - 2)), dim=1)


@attrs.frozen(repr=False)
class NoisedTimestep(RandomPerturbation):
    """Some blocks get an embedding of the timestep with noise.

        e ← e + scale·t^power·std(e)·n,   n ~ N(0, 1),   t in [0, 1] with 1 the noisiest

    Source: TSG, arXiv:2407.02687, section 5 and the listing of its appendix.
    """

    scale: float = real(1.0, ge=0)
    power: float = real(0.0, ge=0)

    acts_on: ClassVar[str] = "timestep"

    def noised(self, embedding: Tensor, t: float | Tensor) -> Tensor:
        """Return the embedding with noise, the same for all blocks of a pass.

        Args:
            embedding: `[B, width]`.
            t: the timestep, from 0 to 1 at the noisiest: a number or `[B]`.

        Returns:
            The noised embedding, in its dtype. std(e) is computed for each row.
        """
        noise = self.drawn(tuple(embedding.shape[1:]), lambda shape, source: torch.randn(shape, generator=source))
        noise = noise.to(embedding.device, accumulation_dtype(embedding), non_blocking=True)
        e = embedding.to(noise.dtype)
        size = torch.as_tensor(t, dtype=e.dtype, device=e.device).expand(len(e)) ** self.power * self.scale
        return (e + size[:, None] * e.std(-1, correction=0, keepdim=True) * noise).to(embedding.dtype)


@attrs.frozen(repr=False)
class DropOut(RandomPerturbation):
    """Dropout of the outputs of attention and of the feed-forward part of a block.

    Each number is set to 0 with the probability `rate`, and otherwise divided by 1 − rate. At 1, all are 0.

    Source: autoguidance with a corrupted model, arXiv:2406.02507, section 3; diffusers' `LayerSkipConfig(dropout=...)`.
    """

    rate: float = real(0.5, ge=0, le=1)

    acts_on: ClassVar[str] = "block"

    def dropped(self, x: Tensor, block: int, part: str) -> Tensor:
        """Return the output of a part of a block, `[B, ...]`, after dropout.

        Args:
            x: the output of the part.
            block: the index of the block.
            part: the name of the part, such as `attention` or `mlp`.
        """
        if self.rate == 1:
            return torch.zeros_like(x)
        drawn = self.drawn(tuple(x.shape[1:]), lambda shape, source: torch.rand(shape, generator=source), block, part)
        kept = (drawn >= self.rate).to(x.device, non_blocking=True)
        return torch.where(kept, x / (1 - self.rate), 0.0)


def draws(branch: Branch) -> bool:
    """Whether a pass makes a random change."""
    return any(isinstance(each, RandomPerturbation) for each in branch.perturbations)
