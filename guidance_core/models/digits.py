"""A small class-conditional transformer that draws 8×8 digits, and a classifier that reads them.

Both were trained on scikit-learn's `load_digits` by `training/train_digits.py`; the weights ship
with the package.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from guidance_core.methods.perturbations import Perturbation
from guidance_core.models.transformer import FlowTransformer, loaded

CLASSES = 10
NULL_LABEL = 10
"The label of a sample of no given class: the unconditional prediction."
SIDE = 8


class DigitsTransformer(FlowTransformer):
    """Predicts the flow `ε − x0` of noisy digits `x = (1 − σ)·x0 + σ·ε`, with `x0` in [-1, 1].

    A diffusion transformer (arXiv:2212.09748) over 16 patches of 2×2 pixels, conditioned on sigma
    and on one of ten classes or `NULL_LABEL`. No operation crosses samples.
    """

    def __init__(self, width: int = 64, depth: int = 6, heads: int = 4) -> None:
        super().__init__(side=SIDE, patch=2, width=width, depth=depth, heads=heads)
        self.label = nn.Embedding(CLASSES + 1, width)

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
        return self.flow(x, sigma, label if label.is_floating_point() else self.label(label), perturbations)

    def embedded(self, label: Tensor) -> Tensor:
        """Return the embeddings `[B, width]` of labels, for methods that edit what a condition says."""
        embeddings: Tensor = self.label(label)
        return embeddings


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
    return loaded(model, "digits.safetensors")


def load_digits_classifier() -> DigitsClassifier:
    """Return the trained classifier: float32 on the CPU, in eval mode, without gradients."""
    with torch.device("meta"):
        model = DigitsClassifier()
    return loaded(model, "classifier.safetensors")
