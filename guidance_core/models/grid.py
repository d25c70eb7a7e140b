"""The picture that shows drawings side by side: a row for each stack, a column for each class."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch

from guidance_core.errors import ConfigurationError
from guidance_core.models.drawing import Drawing

TILE = 84
"About how many pixels a side of a picture takes."
GAP, MARGIN = 8, 12
INK, PAPER, FRAME = 40, 255, 170


def check_picture_path(path: Path) -> None:
    """Raise `ConfigurationError` unless a PNG can be written there, before any work is done."""
    if path.suffix.lower() != ".png":
        raise ConfigurationError(f"the picture is a PNG; --out must end in .png; got {path}.")
    folder = next((each for each in path.absolute().parents if each.exists()), Path("/"))
    if path.is_dir() or not folder.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise ConfigurationError(f"the picture cannot be written to {path}; choose another --out.")


def save_grid(drawings: Sequence[Drawing], labels: Sequence[str], path: Path) -> None:
    """Write a PNG: a row for each drawing, a column for each class, the first image of each; ink is black.

    Args:
        drawings: one for each row, all of the same model.
        labels: what stands left of each row; long ones are broken at commas.
        path: where to write; missing folders are made.

    Raises:
        ConfigurationError: the path cannot be written.
    """
    from PIL import Image, ImageDraw, ImageFont  # an optional dependency, needed for this alone

    font, small, smaller = (ImageFont.load_default(size) for size in (17, 14, 11))
    columns, pixels = drawings[0].columns, drawings[0].images.shape[-1]
    zoom = max(1, round(TILE / pixels))
    tile = pixels * zoom
    side, notes = tile + 2 * GAP, [textwrap.wrap(note, 12) for note in drawings[0].notes]
    header = 34 + 13 * max(map(len, notes), default=0)
    texts = [
        (
            wrapped(label or "no guidance"),
            f"{drawing.passes_per_step:.3g} passes per step, read {_read(drawing)}",
        )
        for label, drawing in zip(labels, drawings, strict=True)
    ]
    width = max(max(font.getlength(line) for line in (*name.splitlines(), facts)) for name, facts in texts)
    left = int(width) + 2 * MARGIN
    heights = [max(side, 22 * len(name.splitlines()) + 24 + MARGIN) for name, _ in texts]
    image = Image.new("L", (left + len(columns) * side + MARGIN, header + sum(heights) + MARGIN), PAPER)
    draw = ImageDraw.Draw(image)
    for number, column in enumerate(columns):
        middle = left + (number + 0.5) * side
        draw.text((middle, 17), column, INK, font, anchor="mm")
        for line, words in enumerate(notes[number] if notes else ()):
            draw.text((middle, 34 + 13 * line), words, 110, smaller, anchor="mm")
    top = header
    for drawing, (name, facts), height in zip(drawings, texts, heights, strict=True):
        middle = top + height / 2
        block = 22 * len(name.splitlines()) + 22
        draw.multiline_text((MARGIN, middle - block / 2), name, INK, font, spacing=22 - 17)
        draw.text((MARGIN, middle + block / 2 - 20), facts, 110, small)
        shown = drawing.images.reshape(len(columns), -1, pixels, pixels)[:, 0].float().add(1).div(2).clamp(0, 1)
        grey = (255 * (1 - shown)).round().to(torch.uint8).repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
        for number, each in enumerate(grey):
            corner = left + number * side + GAP, int(middle) - tile // 2
            image.paste(Image.frombytes("L", (tile, tile), bytes(each.flatten().tolist())), corner)
            draw.rectangle((corner[0] - 1, corner[1] - 1, corner[0] + tile, corner[1] + tile), outline=FRAME)
        top += height
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, "PNG")
    except OSError as error:
        raise ConfigurationError(f"the picture cannot be written to {path}: {error.strerror or error}.") from None


def _read(drawing: Drawing) -> str:
    character = drawing.scores.get("character")
    return f"{drawing.accuracy:.1%}" if character is None else character.written(percent=True)


def wrapped(label: str, longest: int = 34) -> str:
    """Break a spec at its commas, so that no line is longer than it must be."""
    lines = [""]
    for number, part in enumerate(label.split(",")):
        piece = part if number == 0 else f",{part}"
        if lines[-1] and len(lines[-1]) + len(piece) > longest:
            lines[-1] += ","
            piece = f"  {part}"
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)
