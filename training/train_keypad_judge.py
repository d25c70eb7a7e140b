"""Train the classifier that reads the Keypad model's digits: on other real digits than those the model learned from.

    python training/train_keypad_judge.py [--out DIR]

Takes a minute. Prints its accuracy on digits that neither has seen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from keypad_data import pictures
from torch import Tensor
from torch.nn import functional as F
from train_keypad import save

from guidance_core.models.keypad_judges import DigitReader

STEPS = 2500
BATCH = 96


def varied(images: Tensor) -> Tensor:
    """Return pictures with the contrast and the noise of clips, some of them moved by a pixel."""
    count = len(images)
    padded = F.pad(images, (1, 1, 1, 1), value=-1.0)
    across, down = torch.randint(3, (2, count)).where(torch.rand(2, count) < 0.3, 1)
    rows, columns = (start[:, None] + torch.arange(8) for start in (down, across))
    moved = padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    contrast = 0.75 + 0.3 * torch.rand(count, 1, 1)
    return (moved + 1) * contrast - 1 + 0.2 * torch.rand(count, 1, 1) * torch.randn(images.shape)


def train() -> DigitReader:
    """Return the trained classifier."""
    images, labels = pictures("judge")
    model = DigitReader()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS)
    for _ in range(STEPS):
        chosen = torch.randint(len(labels), (BATCH,))
        loss = F.cross_entropy(model(varied(images[chosen])), labels[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def main() -> None:
    """Train, measure, and write the weights."""
    parser = argparse.ArgumentParser(description="Train the reader of the Keypad model's digits.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "guidance_core/models/weights")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = train()
    images, labels = pictures("held out")
    with torch.no_grad():
        accuracy = (model(images).argmax(1) == labels).float().mean().item()
    print(f"accuracy on {len(labels)} digits that neither has seen: {accuracy:.4f}")
    options.out.mkdir(parents=True, exist_ok=True)
    save(model, options.out / "keypad_judge.safetensors", {"accuracy": f"{accuracy:.4f}"})


if __name__ == "__main__":
    main()
