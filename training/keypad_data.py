"""Clips for the Keypad model: handwritten digits that appear one after another, each with its keypad tone.

A clip has six frames and three digits. A quick one shows each digit for one frame, with three empty and silent frames
anywhere between them; a slow one shows each for two frames. Loudness, noise and contrast vary from clip to clip.
"""

from __future__ import annotations

import math

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from guidance_core.models.keypad import ANY, FRAMES, PATTERNS, TEMPOS, follows
from guidance_core.models.keypad_sounds import COLUMN, FRAME, HIGH, LOW, RATE, ROW, encode

DIGITS = 3
EMPTY = -1


def pictures(part: str) -> tuple[Tensor, Tensor]:
    """Return real digits, `[N, 8, 8]` in [-1, 1], and which they are: those of the model, the judge, or held out."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    chosen = dict(zip(("model", "judge", "held out"), order.split((900, 600, 297)), strict=True))[part]
    return torch.tensor(images, dtype=torch.float32).reshape(-1, 8, 8)[chosen] / 8 - 1, torch.tensor(labels)[chosen]


def sequences() -> list[Tensor]:
    """Return, for each pattern but `any`, all three digits that follow it, `[N, 3]`."""
    every = torch.cartesian_prod(*[torch.arange(10)] * DIGITS)
    return [every[follows(every, number)] for number in range(1, len(PATTERNS))]


def clips(count: int, part: str, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return video `[N, 6, 8, 8]`, sound latents `[N, 6, 14]`, prompts `[N, 2]` and symbols `[N, 6]` (-1 is empty)."""

    def draw(high: int, *shape: int) -> Tensor:
        return torch.randint(high, (count, *shape), generator=generator)

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    pattern, tempo = 1 + draw(len(PATTERNS) - 1), 1 + draw(len(TEMPOS) - 1)
    digits = torch.empty(count, DIGITS, dtype=torch.int64)
    for number, allowed in enumerate(sequences(), 1):
        rows = torch.nonzero(pattern == number).flatten()
        digits[rows] = allowed[torch.randint(len(allowed), (len(rows),), generator=generator)]

    # Which digit stands in each frame: -1 for none.
    places = torch.rand(count, FRAMES, generator=generator).argsort(1)[:, :DIGITS].sort(1).values
    quick = torch.full((count, FRAMES), EMPTY).scatter(1, places, torch.arange(DIGITS).expand(count, -1))
    slow = (torch.arange(FRAMES) // 2).expand(count, -1)
    which = torch.where((tempo == TEMPOS.index("quick"))[:, None], quick, slow)
    shown = which >= 0
    symbols = digits.gather(1, which.clamp(min=0)).where(shown, EMPTY)

    images, labels = pictures(part)
    by_digit = [torch.nonzero(labels == digit).flatten() for digit in range(10)]
    picked = torch.empty(count, DIGITS, dtype=torch.int64)
    for digit, choices in enumerate(by_digit):
        places = digits == digit
        picked[places] = choices[torch.randint(len(choices), (int(places.sum()),), generator=generator)]
    seen = images[picked.gather(1, which.clamp(min=0))]
    ink = (seen + 1) * between(0.8, 1.0, 1, 1, 1) - 1
    video = torch.where(shown[..., None, None], ink, -1.0)
    video = (video + between(0, 0.06, 1, 1, 1) * torch.randn(video.shape, generator=generator)).clamp(-1, 1)

    seconds = torch.arange(FRAMES * FRAME, dtype=torch.float64) / RATE
    sound = torch.zeros(count, FRAMES * FRAME)
    loudness = between(0.7, 1.0, 1)
    for frequencies, table in ((LOW, ROW), (HIGH, COLUMN)):
        heard = torch.tensor(frequencies)[torch.tensor(table)[digits]].gather(1, which.clamp(min=0))
        # One phase for each digit, so that a tone goes on where a digit stays.
        phase = between(0, 2 * math.pi, DIGITS).gather(1, which.clamp(min=0))
        size = (between(0.36, 0.46, DIGITS) * loudness).gather(1, which.clamp(min=0)).where(shown, 0.0)
        phase, heard, size = (each.repeat_interleave(FRAME, 1) for each in (phase, heard, size))
        sound += size * (2 * math.pi * (heard * seconds.float() % 1.0) + phase).sin()
    sound += between(0.01, 0.1, 1) * torch.randn(sound.shape, generator=generator)
    return video, encode(sound.clamp(-1, 1)), torch.stack((pattern, tempo), 1), symbols


def dropped(prompts: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return prompts in which a share of the patterns, and of the tempos, says `any`."""
    return prompts.masked_fill(torch.rand(prompts.shape, generator=generator) < share, ANY)
