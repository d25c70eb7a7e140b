"""Clips to look at and to listen to: a sheet of frames, waveforms and spectrograms, an animation, and WAV files."""

from __future__ import annotations

import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from guidance_core.models.files import writing
from guidance_core.models.grid import fonts, wrapped
from guidance_core.models.keypad import FRAMES, SIDE
from guidance_core.models.keypad_clips import Clips
from guidance_core.models.keypad_judges import EMPTY, heard, load_digit_reader, seen
from guidance_core.models.keypad_sounds import FRAME, RATE, decode

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

ZOOM = 8
"Pixels for one pixel of a frame, which are repeated and not smoothed."
CELL = ZOOM * SIDE
STRIP = CELL * FRAMES
WAVEFORM, SPECTROGRAM = 56, 96
"Heights, in pixels."
HIGHEST = 2000
"Hertz at the top of a spectrogram."
COLUMN = 40
"Samples between the columns of a spectrogram."
QUIETEST = -50.0
"Decibels that are drawn black in a spectrogram, below a tone of amplitude 0.5."
MARGIN, LINE, LEGEND = 16, 22, 48
BLOCK = LINE + CELL + LINE + WAVEFORM + SPECTROGRAM + 2 * MARGIN
"Height of a row."
INK, GREY, EDGE, PAPER = (40, 40, 40), (110, 110, 110), (170, 170, 170), (255, 255, 255)
WRONG = (200, 30, 30)
HEAT = ((0, 0, 0), (90, 15, 110), (230, 90, 40), (255, 245, 190))
"Colours of a spectrogram, from quiet to loud."
SHOWN = 3
"The most clips in a row of a sheet."
PAUSE = 0.25
"Seconds between the clips in a sound file."


def save_clips(rows: Sequence[Clips], labels: Sequence[str], path: Path, animation: Path | None = None) -> list[Path]:
    """Write a sheet (PNG), an animation (the same frames in time) and a WAV for each row; return their paths.

    A sheet shows the first clip of each prompt, of three at most. Above a frame stands the digit that is seen in it,
    below the digit that is heard: `·` is none, `?` is a sound of no digit, red is where they differ.

    Args:
        rows: what each stack made.
        labels: what stands left of each row; long ones are broken at commas.
        path: of the sheet; the others lie beside it.
        animation: GIF or WebP; by default a GIF beside the sheet.

    Raises:
        ConfigurationError: a file cannot be written.
    """
    sheet = _sheet(rows, labels)
    animation = animation or path.with_suffix(".gif")
    sounds = [path.with_name(f"{path.stem}-{n}.wav") for n in range(1, len(rows) + 1)]
    with writing(path):
        sheet.save(path, "PNG")
    frames = [_animated(rows, labels, frame) for frame in range(FRAMES)]
    pause = [1000 * FRAME // RATE] * (FRAMES - 1) + [1000 * FRAME // RATE + 500]
    with writing(animation):
        frames[0].save(
            animation, save_all=True, append_images=frames[1:], duration=pause, loop=0, lossless=True
        )  # in lossless WebP; GIF is anyway
    for clips, file in zip(rows, sounds, strict=True):
        with writing(file):
            save_sound(clips.audio[:: clips.per_prompt], file)
    return [path, animation, *sounds]


def save_sound(latents: Tensor, path: Path) -> None:
    """Write the sounds of latents `[N, 6, 14]` one after another: mono, 8 kHz, 16 bits, cut at [-1, 1]."""
    silence = torch.zeros(len(latents), int(PAUSE * RATE))
    samples = torch.cat((decode(latents).clamp(-1, 1), silence), 1).flatten()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples * 32767).round().to(torch.int16).numpy().tobytes())


def _sheet(rows: Sequence[Clips], labels: Sequence[str]) -> Picture:
    """Return the sheet: a row for each stack, a column for each prompt."""
    page = _Page(rows, labels, STRIP, BLOCK)
    below = 2 * LINE + CELL
    legend = {
        "seen": LINE / 2,
        "heard": LINE * 1.5 + CELL,
        "wave": below + WAVEFORM / 2,
        "2 kHz": below + WAVEFORM + LINE / 2,
        "0 Hz": below + WAVEFORM + SPECTROGRAM - LINE / 2,
    }
    for number, clips in enumerate(rows):
        page.write_legend(number, legend)
        for column, (video, latents, symbols) in enumerate(_first_of_each(clips)):
            left, top = page.corner(number, column)
            sound = decode(latents)
            for frame in range(FRAMES):
                across = left + frame * CELL
                page.image.paste(_picture(video[frame], ZOOM), (across, top + LINE))
                edge = (across, top + LINE, across + CELL - 1, top + LINE + CELL - 1)
                page.draw.rectangle(edge, outline=EDGE)
                colour = INK if symbols[0][frame] == symbols[1][frame] else WRONG
                for text, height in zip(symbols, (top + LINE / 2, top + LINE * 1.5 + CELL), strict=True):
                    page.draw.text((across + CELL / 2, height), text[frame], colour, page.font, anchor="mm")
            _draw_waveform(page.draw, sound, (left, top + below))
            page.image.paste(_spectrogram(sound), (left, top + below + WAVEFORM))
    return page.image


def _animated(rows: Sequence[Clips], labels: Sequence[str], frame: int) -> Picture:
    """Return one frame of the animation: what is seen, and below it what is heard."""
    zoom = 2 * ZOOM
    page = _Page(rows, labels, SIDE * zoom, SIDE * zoom + LINE + MARGIN)
    for number, clips in enumerate(rows):
        for column, (video, _, symbols) in enumerate(_first_of_each(clips)):
            left, top = page.corner(number, column)
            page.image.paste(_picture(video[frame], zoom), (left, top))
            page.draw.rectangle((left, top, left + SIDE * zoom - 1, top + SIDE * zoom - 1), outline=EDGE)
            colour = INK if symbols[0][frame] == symbols[1][frame] else WRONG
            place = (left + SIDE * zoom / 2, top + SIDE * zoom + LINE / 2)
            said = symbols[1][frame]
            page.draw.text(place, "silent" if said == "·" else f"sounds: {said}", colour, page.font, anchor="mm")
    return page.image


class _Page:
    """A page with a row for each stack and a column for each prompt, with their names."""

    def __init__(self, rows: Sequence[Clips], labels: Sequence[str], width: int, height: int) -> None:
        from PIL import Image, ImageDraw  # an optional dependency, needed for this alone

        self.font, self._small = fonts(17, 14)
        names = [wrapped(label or "no guidance") for label in labels]
        facts = [_facts(clips) for clips in rows]
        prompts = rows[0].prompts[:SHOWN]
        lines = [line for text in (*names, *facts) for line in text.splitlines()]
        self._left = int(max(map(self.font.getlength, lines))) + 2 * MARGIN + LEGEND
        self._column = max(width, *(int(self.font.getlength(prompt)) for prompt in prompts)) + MARGIN
        self._header = 34
        tallest = max(LINE * (name + fact).count("\n") + 3 * LINE for name, fact in zip(names, facts, strict=True))
        self._row = max(height, tallest)
        size = (self._left + len(prompts) * self._column, self._header + len(rows) * self._row + MARGIN)
        self.image = Image.new("RGB", size, PAPER)
        self.draw = ImageDraw.Draw(self.image)
        for column, prompt in enumerate(prompts):
            middle = (self._left + column * self._column + width / 2, self._header / 2)
            self.draw.text(middle, prompt, INK, self.font, anchor="mm")
        for number, (name, fact) in enumerate(zip(names, facts, strict=True)):
            top = self.corner(number, 0)[1] + LINE
            self.draw.multiline_text((MARGIN, top), name, INK, self.font, spacing=LINE - 17)
            below = top + LINE * (name.count("\n") + 1) + 4
            self.draw.multiline_text((MARGIN, below), fact, GREY, self._small, spacing=LINE - 16)

    def write_legend(self, row: int, legend: Mapping[str, float]) -> None:
        """Write what is drawn beside a row, each at a height below its top."""
        left, top = self.corner(row, 0)
        for text, height in legend.items():
            self.draw.text((left - 8, top + height), text, GREY, self._small, anchor="rm")

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Return the upper left corner of a clip."""
        return self._left + column * self._column, self._header + row * self._row


def _facts(clips: Clips) -> str:
    found = {name: score.written(percent=True, places=0) for name, score in clips.scores.summary().items()}
    passes, count = f"{clips.passes_per_step:.3g}", len(clips.video)
    return (
        f"{passes} {'pass' if passes == '1' else 'passes'} per step; of {count} {'clip' if count == 1 else 'clips'}\n"
        f"agreement {found['agreement']}\nprompt, seen {found['video']}\nprompt, heard {found['audio']}"
    )


def _first_of_each(clips: Clips) -> list[tuple[Tensor, Tensor, tuple[str, str]]]:
    """Return the first clip of each prompt: video, latents, and what is seen and heard in its frames."""
    chosen = slice(None, SHOWN * clips.per_prompt, clips.per_prompt)
    video, latents = clips.video[chosen], clips.audio[chosen]
    with torch.no_grad():
        shown, sounding = seen(video, load_digit_reader()), heard(decode(latents).clamp(-1, 1))
    symbols = zip(map(_symbols, shown), map(_symbols, sounding), strict=True)
    return list(zip(video, latents, symbols, strict=True))


def _symbols(frames: Tensor) -> str:
    return "".join("·" if each == EMPTY else "?" if each < 0 else str(each) for each in frames.tolist())


def _picture(frame: Tensor, zoom: int) -> Picture:
    from PIL import Image

    ink = frame.float().add(1).div(2).clamp(0, 1)
    pixels = (255 * (1 - ink)).round().to(torch.uint8).repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
    return Image.frombytes("L", (SIDE * zoom, SIDE * zoom), pixels.numpy().tobytes())


def _draw_waveform(draw: Any, sound: Tensor, corner: tuple[int, int]) -> None:
    """Draw the least and the most of each column of pixels; red lines are where a sound file cuts it."""
    left, top = corner
    columns = sound.view(STRIP, -1)
    low, high = (1 - columns.amin(1) / 1.25) / 2, (1 - columns.amax(1) / 1.25) / 2
    for across, (bottom, upper) in enumerate(zip(low.clamp(0, 1).tolist(), high.clamp(0, 1).tolist(), strict=True)):
        draw.line((left + across, top + upper * WAVEFORM, left + across, top + bottom * WAVEFORM), fill=GREY)
    for limit in (-1, 1):
        height = top + (1 - limit / 1.25) / 2 * WAVEFORM
        draw.line((left, height, left + STRIP - 1, height), fill=WRONG)


def _spectrogram(sound: Tensor) -> Picture:
    """Return how loud each frequency up to `HIGHEST` is over time, low ones below."""
    from PIL import Image

    size = 512
    window = torch.hann_window(size)
    bins = torch.stft(sound, size, COLUMN, window=window, center=True, pad_mode="constant", return_complex=True).abs()
    bins = bins[: size * HIGHEST // RATE + 1].flip(0)
    decibels = 20 * (bins / (0.25 * window.sum())).clamp(min=1e-6).log10()
    level = (1 - decibels / QUIETEST).clamp(0, 1) * (len(HEAT) - 1)
    colours = torch.tensor(HEAT, dtype=torch.float32)
    below = level.floor().long().clamp(max=len(HEAT) - 2)
    mixed = colours[below].lerp(colours[below + 1], (level - below)[..., None])
    pixels = mixed.round().to(torch.uint8).contiguous()
    image = Image.frombytes("RGB", (pixels.shape[1], pixels.shape[0]), pixels.numpy().tobytes())
    return image.resize((STRIP, SPECTROGRAM))
