"""What the Keypad model's clips are judged by: what is seen, what is heard, and whether the two agree.

Tones are measured exactly, by Goertzel's filter. Digits are read by a classifier that has seen real digits only, and
other ones than the model. Ink tells whether a frame is empty, loudness whether it is silent.
"""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor, nn

from guidance_core.models.intervals import Score, mean, share
from guidance_core.models.keypad import FRAMES, PATTERNS, TEMPOS, follows
from guidance_core.models.keypad_sounds import COLUMN, FRAME, LOW, RATE, ROW, decode, goertzel
from guidance_core.models.transformer import loaded

EMPTY = -1
"The symbol of a frame in which nothing is seen, or heard."
UNCLEAR = -2
"The symbol of a frame in which something sounds that is not a digit's tone."
INK = 0.1
"Mean ink, from 0 to 1, above which something is seen; a real digit has 0.2 to 0.4."
LOUD = 0.1
"Amplitude of the strongest frequency above which something is heard; a real tone has 0.25 or more."
PURE = 2.0
"How many times louder than the second a row's, or a column's, loudest frequency is in a clear tone."


class DigitReader(nn.Module):
    """Tells which digit an 8×8 picture in [-1, 1] shows."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, 48, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(48, 64, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.4),
            nn.Linear(64 * 16, 10),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the logits `[N, 10]` of pictures `[N, 8, 8]`."""
        logits: Tensor = self.layers(pictures[:, None])
        return logits


def load_digit_reader() -> DigitReader:
    """Return the trained classifier: float32 on the CPU, in eval mode, without gradients."""
    with torch.device("meta"):
        model = DigitReader()
    return loaded(model, "keypad_judge.safetensors")


def seen(video: Tensor, reader: DigitReader) -> Tensor:
    """Return the symbol that each frame of video `[B, 6, 8, 8]` shows, `[B, 6]`: a digit, or `EMPTY`."""
    pictures = video.float().clamp(-1, 1)
    ink = (pictures + 1).mean((-2, -1)) / 2
    read: Tensor = reader(pictures.flatten(0, 1)).argmax(1).view(ink.shape)
    return read.where(ink > INK, EMPTY)


def heard(sound: Tensor) -> Tensor:
    """Return the symbol that sounds in each frame of a sound `[B, samples]`: a digit, `EMPTY`, or `UNCLEAR`."""
    amplitudes = goertzel(sound)
    rows, columns = amplitudes[..., : len(LOW)].topk(2), amplitudes[..., len(LOW) :].topk(2)
    keys = torch.full((len(LOW), 3), UNCLEAR)
    keys[torch.tensor(ROW), torch.tensor(COLUMN)] = torch.arange(10)
    digit = keys[rows.indices[..., 0], columns.indices[..., 0]]
    clear = (rows.values[..., 0] > PURE * rows.values[..., 1]) & (
        columns.values[..., 0] > PURE * columns.values[..., 1]
    )
    return digit.where(clear, UNCLEAR).where(amplitudes.amax(-1) > LOUD, EMPTY)


def obeys(symbols: Tensor, prompts: Tensor) -> Tensor:
    """Return which rows of symbols `[B, 6]` do what their prompts `[B, 2]` say, `[B]` of bools.

    A quick clip has a digit in three frames, a slow one the same digit in each pair of frames; a tempo of any is
    either. The three digits follow the pattern.
    """
    present = symbols != EMPTY
    quick, slow = present.sum(1) == 3, (symbols[:, ::2] == symbols[:, 1::2]).all(1) & present.all(1)
    order = present.int().argsort(dim=1, descending=True, stable=True)[:, :3]
    digits = torch.where(slow[:, None], symbols[:, ::2], symbols.gather(1, order))
    kept = torch.zeros(len(symbols), dtype=torch.bool)
    for number in range(len(PATTERNS)):
        kept |= follows(digits, number) & (prompts[:, 0] == number)
    asked = prompts[:, 1]
    in_tempo = (quick & (asked != TEMPOS.index("slow"))) | (slow & (asked != TEMPOS.index("quick")))
    return kept & in_tempo & (digits >= 0).all(1)


@attrs.frozen(eq=False)
class Scores:
    """What was found in each of a number of clips; all `[B]`."""

    agreement: Tensor
    "Share of the frames with something to see or to hear in which the digit seen is the digit heard; 0 without any."
    video: Tensor
    "Whether what is seen follows the prompt."
    audio: Tensor
    "Whether what is heard follows the prompt."
    both: Tensor
    "Whether both follow it, and agree in every frame."
    in_time: Tensor
    "Share of frames in which something is seen just when something is heard."
    offset: Tensor
    "Milliseconds by which the sound must be moved for it to fit what is seen best; not negative."
    clipped: Tensor
    "Share of the sound's samples outside of [-1, 1]."
    saturated: Tensor
    "Share of the video's values outside of [-1.1, 1.1]."

    def summary(self) -> dict[str, Score]:
        """Return each score's mean over clips: of shares of clips with Wilson's interval, of others the bootstrap's."""
        found = attrs.asdict(self)
        return {name: share(each) if each.dtype == torch.bool else mean(each) for name, each in found.items()}


def judge(video: Tensor, latents: Tensor, prompts: Tensor, reader: DigitReader) -> Scores:
    """Score clips.

    Args:
        video: `[B, 6, 8, 8]`, about [-1, 1].
        latents: of the sound, `[B, 6, 14]`.
        prompts: patterns and tempos asked for, `[B, 2]`.
        reader: reads the digits.
    """
    sound = decode(latents)
    shown, sounding = seen(video, reader), heard(sound.clamp(-1, 1))
    either = (shown != EMPTY) | (sounding != EMPTY)
    same = (shown == sounding) & either
    agreement = same.sum(1) / either.sum(1).clamp(min=1)
    follows_video, follows_audio = obeys(shown, prompts), obeys(sounding, prompts)
    visible, audible = shown != EMPTY, sounding != EMPTY
    return Scores(
        agreement=agreement,
        video=follows_video,
        audio=follows_audio,
        both=follows_video & follows_audio & (agreement == 1),
        in_time=(visible == audible).float().mean(1),
        offset=_lag(visible, audible).abs() * (1000.0 * FRAME / RATE),
        clipped=(sound.abs() > 1).float().mean(1),
        saturated=(video.abs() > 1.1).float().mean((1, 2, 3)),
    )


def _lag(visible: Tensor, audible: Tensor) -> Tensor:
    """Return the shift of the audible frames `[B, 6]` that fits the visible ones best, the smallest of the best."""
    most, best = torch.full((len(visible),), -math.inf), torch.zeros(len(visible))
    for lag in sorted(range(1 - FRAMES, FRAMES), key=abs):
        moved = torch.zeros_like(audible)
        moved[:, max(lag, 0) : FRAMES + min(lag, 0)] = audible[:, max(-lag, 0) : FRAMES - max(lag, 0)]
        fit = (visible & moved).sum(1).float()
        best = torch.where(fit > most, float(lag), best)
        most = fit.maximum(most)
    return best
