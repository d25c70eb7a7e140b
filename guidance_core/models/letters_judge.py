"""Who judges letters: which character and which typeface a picture shows, and how pictures differ from real ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from guidance_core.models.letters import CHARACTERS, TYPEFACES
from guidance_core.models.transformer import loaded

FEATURES = 64
"Numbers in which the judge sums up a picture."


class LettersJudge(nn.Module):
    """Tells which character a 28×28 picture in [-1, 1] shows, and in which typeface; it has seen real letters only."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(64 * 3 * 3, FEATURES),
        )
        self.heads = nn.Linear(FEATURES, len(CHARACTERS) + len(TYPEFACES))
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("covariance", torch.eye(FEATURES))

    mean: Tensor
    "Mean of the features of real letters, `[64]`."
    covariance: Tensor
    "Covariance of the features of real letters, `[64, 64]`."

    def features(self, x: Tensor) -> Tensor:
        """Return what pictures `[B, 1, 28, 28]` are summed up in, `[B, 64]`: the space of a Fréchet distance."""
        features: Tensor = self.layers(x)
        return features

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of the characters, `[B, 47]`, and of the typefaces, `[B, 21]`."""
        logits = self.heads(torch.relu(self.features(x)))
        character, typeface = logits.split((len(CHARACTERS), len(TYPEFACES)), dim=1)
        return character, typeface


def load_letters_judge() -> LettersJudge:
    """Return the trained judge: float32 on the CPU, in eval mode, without gradients."""
    with torch.device("meta"):
        judge = LettersJudge()
    return loaded(judge, "letters-judge.safetensors")
