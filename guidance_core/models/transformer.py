"""A small diffusion transformer for square pictures, in which a pass can change what guidance methods change.

What it is conditioned on, beside the noise level, is left to the model that inherits it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from itertools import product
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidance_core.methods.perturbations import Perturbation
from guidance_core.methods.sliding import SlidingWindows
from guidance_core.models.changes import Changes

UNCHANGED = Changes(())

Module = TypeVar("Module", bound=nn.Module)


class Attention(nn.Module):
    """Multi-head self-attention over `[B, tokens, width]`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, grid: Sequence[int], changes: Changes = UNCHANGED) -> Tensor:
        """Attend, with what a pass changes here; the tokens form a grid."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = changes.attention(q, k, v, grid)
        result: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return result


class Block(nn.Module):
    """A transformer block modulated by the conditioning vector (adaLN-Zero, arXiv:2212.09748)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor, grid: Sequence[int], changes: Changes = UNCHANGED) -> Tensor:
        """Map tokens `[B, tokens, width]` that form a grid to tokens, given `condition` `[B, width]`."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)[:, None].chunk(6, -1)
        x = changes.shuffled(x)
        h = self.norm(x) * (1 + scale1) + shift1
        x = x + changes.dropped(gate1 * self.attention(h, grid, changes), "attention")
        h = self.norm(x) * (1 + scale2) + shift2
        result: Tensor = x + changes.dropped(gate2 * self.mlp(h), "mlp")
        return result


class FlowTransformer(nn.Module):
    """Predicts the flow `ε − x0` of noisy pictures `x = (1 − σ)·x0 + σ·ε`, with `x0` in [-1, 1].

    A diffusion transformer (arXiv:2212.09748) over square patches. No operation crosses samples.
    """

    def __init__(self, *, side: int, patch: int, width: int, depth: int, heads: int) -> None:
        """Make a model with random weights that predicts zeros.

        Args:
            side: pixels along a side of a picture.
            patch: pixels along a side of a patch.
            width: of a token.
            depth: number of blocks.
            heads: of the attention in each block.
        """
        super().__init__()
        self.side, self.patch, self.grid = side, patch, side // patch
        self.width = width
        self.heads = heads
        self.embed = nn.Linear(patch**2, width)
        self.position = nn.Parameter(0.02 * torch.randn(self.grid**2, width))
        self.sigma = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, patch**2)
        for layer in (self.modulation, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def flow(self, x: Tensor, sigma: float | Tensor, said: Tensor, perturbations: Sequence[Perturbation]) -> Tensor:
        """Return the flow, shaped as `x` and in its dtype; computed in the dtype of the weights.

        Args:
            x: `[B, 1, side, side]`.
            sigma: a number in [0, 1], or a tensor `[B]` of them.
            said: what the condition says, `[B, width]`.
            perturbations: what the pass changes, of the kinds in `guidance_core.models.changes.POSSIBLE`.

        Raises:
            ConfigurationError: a perturbation is of another kind, or names an output, a block or a head that this
                model does not have.
        """
        changes = Changes.of(perturbations, type(self).__name__, len(self.blocks), self.heads)
        sigma = torch.as_tensor(sigma, dtype=self.position.dtype, device=x.device).expand(len(x))
        conditions = self._conditions(sigma, said.to(self.position.dtype), changes)
        h = self.embed(self._to_patches(x.to(self.position.dtype))) + self.position
        windows = changes.windows
        if windows is None:
            patches = self._through(h, (self.grid, self.grid), conditions, changes)
        else:
            patches = self._through_windows(h, windows, conditions, changes)
        return self._from_patches(patches).to(x.dtype)

    def _conditions(self, sigma: Tensor, said: Tensor, changes: Changes) -> list[Tensor]:
        """Return what each block, and the head after them, is conditioned on."""
        time = self.sigma(fourier(sigma, self.width))
        usual = F.silu(time + said)
        each = (changes.at(index).timestep(time, sigma) for index in range(len(self.blocks)))
        return [*(usual if own is time else F.silu(own + said) for own in each), usual]

    def _through(self, h: Tensor, grid: tuple[int, int], conditions: Sequence[Tensor], changes: Changes) -> Tensor:
        """Take tokens that form a grid through the blocks; return their patches."""
        for index, block in enumerate(self.blocks):
            here = changes.at(index)
            if not here.skips:
                h = block(h, conditions[index], grid, here)
        shift, scale = self.modulation(conditions[-1])[:, None].chunk(2, -1)
        patches: Tensor = self.head(self.norm(h) * (1 + scale) + shift)
        return patches

    def _through_windows(
        self, h: Tensor, windows: SlidingWindows, conditions: Sequence[Tensor], changes: Changes
    ) -> Tensor:
        """Take the tokens of each window through the blocks; average where windows overlap."""
        tokens = h.view(-1, self.grid, self.grid, self.width)
        total = h.new_zeros(len(h), self.grid, self.grid, self.patch**2)
        for (top, bottom), (left, right) in product(windows.along(self.grid), repeat=2):
            seen = tokens[:, top:bottom, left:right]
            grid = (bottom - top, right - left)
            patches = self._through(seen.flatten(1, 2), grid, conditions, changes)
            total[:, top:bottom, left:right] += patches.view(-1, *grid, self.patch**2)
        return (total / windows.overlap((self.grid, self.grid)).to(total)[..., None]).flatten(1, 2)

    def _to_patches(self, x: Tensor) -> Tensor:
        """Cut `[B, 1, side, side]` into `[B, grid², patch²]`."""
        cut = x.reshape(-1, self.grid, self.patch, self.grid, self.patch)
        return cut.transpose(2, 3).reshape(-1, self.grid**2, self.patch**2)

    def _from_patches(self, patches: Tensor) -> Tensor:
        """Undo `_to_patches`."""
        cut = patches.reshape(-1, self.grid, self.grid, self.patch, self.patch)
        return cut.transpose(2, 3).reshape(-1, 1, self.side, self.side)


def loaded(model: Module, name: str) -> Module:
    """Give a model, built on the meta device, its shipped weights: float32, CPU, eval mode, without gradients."""
    # Imported here because safetensors is not needed to import the package or the exact mixture.
    from safetensors.torch import load

    weights = load(resources.files("guidance_core.models").joinpath("weights", name).read_bytes())
    # Assigning to a model built on the meta device draws no random numbers.
    model.load_state_dict({key: value.float() for key, value in weights.items()}, assign=True)
    return model.eval().requires_grad_(False)


def fourier(sigma: Tensor, width: int) -> Tensor:
    """Return sines and cosines of `sigma` `[B]` at frequencies from 1 to 100, `[B, width]`."""
    frequencies = 100.0 ** torch.linspace(0, 1, width // 2, dtype=sigma.dtype, device=sigma.device)
    angles = sigma[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=1)
