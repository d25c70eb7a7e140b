"""A small class-conditional transformer that draws 8×8 digits, and a classifier that reads them.

Both were trained on scikit-learn's `load_digits` by `training/train_digits.py`; the weights ship
with the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidance_core.methods.perturbations import Perturbation
from guidance_core.methods.sliding import SlidingWindows
from guidance_core.models.changes import Changes

CLASSES = 10
NULL_LABEL = 10
"The label of a sample of no given class: the unconditional prediction."
SIDE = 8
PATCH = 2
GRID = SIDE // PATCH
"Patches along a side."
UNCHANGED = Changes(())


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


class DigitsTransformer(nn.Module):
    """Predicts the flow `ε − x0` of noisy digits `x = (1 − σ)·x0 + σ·ε`, with `x0` in [-1, 1].

    A diffusion transformer (arXiv:2212.09748) over 16 patches of 2×2 pixels, conditioned on sigma
    and on one of ten classes or `NULL_LABEL`. No operation crosses samples.
    """

    def __init__(self, width: int = 64, depth: int = 6, heads: int = 4) -> None:
        super().__init__()
        pixels = PATCH * PATCH
        self.width = width
        self.heads = heads
        self.embed = nn.Linear(pixels, width)
        self.position = nn.Parameter(0.02 * torch.randn(GRID**2, width))
        self.sigma = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(CLASSES + 1, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, pixels)
        for layer in (self.modulation, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        x: Tensor,
        sigma: float | Tensor,
        label: Tensor,
        perturbations: Sequence[Perturbation] = (),
    ) -> Tensor:
        """Return the flow, `[B, 1, 8, 8]` in the dtype of `x`; computed in the dtype of the weights.

        Args:
            x: `[B, 1, 8, 8]`.
            sigma: a number in [0, 1], or a tensor `[B]` of them.
            label: a LongTensor `[B]` of 0 to 9 or `NULL_LABEL`, or embeddings of labels, `[B, width]`.
            perturbations: what the pass changes, of the kinds in `guidance_core.models.changes.POSSIBLE`.

        Raises:
            ConfigurationError: a perturbation is of another kind, or names an output, a block or a head that this
                model does not have.
        """
        changes = Changes.of(perturbations, len(self.blocks), self.heads)
        sigma = torch.as_tensor(sigma, dtype=self.position.dtype, device=x.device).expand(len(x))
        conditions = self._conditions(sigma, label, changes)
        h = self.embed(_to_patches(x.to(self.position.dtype))) + self.position
        windows = changes.windows
        if windows is None:
            patches = self._through(h, (GRID, GRID), conditions, changes)
        else:
            patches = self._through_windows(h, windows, conditions, changes)
        return _from_patches(patches).to(x.dtype)

    def embedded(self, label: Tensor) -> Tensor:
        """Return the embeddings `[B, width]` of labels, for methods that edit what a condition says."""
        embeddings: Tensor = self.label(label)
        return embeddings

    def _conditions(self, sigma: Tensor, label: Tensor, changes: Changes) -> list[Tensor]:
        """Return what each block, and the head after them, is conditioned on."""
        time = self.sigma(_fourier(sigma, self.width))
        said = label.to(time.dtype) if label.is_floating_point() else self.label(label)
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
        tokens = h.view(-1, GRID, GRID, self.width)
        total = h.new_zeros(len(h), GRID, GRID, PATCH * PATCH)
        for (top, bottom), (left, right) in product(windows.along(GRID), repeat=2):
            seen = tokens[:, top:bottom, left:right]
            grid = (bottom - top, right - left)
            patches = self._through(seen.flatten(1, 2), grid, conditions, changes)
            total[:, top:bottom, left:right] += patches.view(-1, *grid, PATCH * PATCH)
        return (total / windows.overlap((GRID, GRID)).to(total)[..., None]).flatten(1, 2)


class DigitsClassifier(nn.Module):
    """Tells which digit an 8×8 picture in [-1, 1] shows; it has seen real digits only."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, 48, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(48 * (SIDE // 2) ** 2, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits `[B, 10]` of pictures `[B, 1, 8, 8]`."""
        logits: Tensor = self.layers(x)
        return logits


def load_digits_model() -> DigitsTransformer:
    """Return the trained transformer: float32 on the CPU, in eval mode, without gradients."""
    with torch.device("meta"):
        model = DigitsTransformer()
    _load(model, "digits.safetensors")
    return model


def load_digits_classifier() -> DigitsClassifier:
    """Return the trained classifier: float32 on the CPU, in eval mode, without gradients."""
    with torch.device("meta"):
        model = DigitsClassifier()
    _load(model, "classifier.safetensors")
    return model


def _load(model: nn.Module, name: str) -> None:
    # Imported here because safetensors is not needed to import the package or the exact mixture.
    from safetensors.torch import load

    weights = load(resources.files("guidance_core.models").joinpath("weights", name).read_bytes())
    # Assigning to a model built on the meta device draws no random numbers.
    model.load_state_dict({key: value.float() for key, value in weights.items()}, assign=True)
    model.eval().requires_grad_(False)


def _fourier(sigma: Tensor, width: int) -> Tensor:
    """Return sines and cosines of `sigma` `[B]` at frequencies from 1 to 100, `[B, width]`."""
    frequencies = 100.0 ** torch.linspace(0, 1, width // 2, dtype=sigma.dtype, device=sigma.device)
    angles = sigma[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=1)


def _to_patches(x: Tensor) -> Tensor:
    """Cut `[B, 1, 8, 8]` into `[B, 16, 4]`."""
    return x.reshape(-1, GRID, PATCH, GRID, PATCH).transpose(2, 3).reshape(-1, GRID**2, PATCH**2)


def _from_patches(patches: Tensor) -> Tensor:
    """Undo `_to_patches`."""
    return patches.reshape(-1, GRID, GRID, PATCH, PATCH).transpose(2, 3).reshape(-1, 1, SIDE, SIDE)
