"""The picture that shows drawings side by side: a row for each stack, a column for each class."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from guidance_core.models.drawing import Drawing
from guidance_core.models.files import writing

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

TILE = 112
"About how many pixels a side of a picture takes."
GAP, MARGIN = 8, 12
HEADER, NOTE, LINE, FACTS, CAPTION = 34, 13, 22, 24, 26
"Heights of columns' names and of a line below them, of a row's name, of its facts, and of the caption."
INK, GREY, PAPER, FRAME = 40, 110, 255, 170


@attrs.frozen(eq=False)
class Row:
    """What a grid shows of one stack."""

    name: str
    "Long ones are broken at commas; empty for no guidance."
    facts: str
    tiles: Tensor
    "Pictures `[lines, columns, H, W]`, about [-1, 1], of which 1 is ink: one line, or several below each other."


def save_grid(drawings: Sequence[Drawing], labels: Sequence[str], path: Path, caption: str = "") -> None:
    """Write a PNG: a row for each drawing, a column for each class, the first image of each; ink is black.

    Args:
        drawings: one for each row, all of the same model.
        labels: what stands left of each row; long ones are broken at commas.
        path: where to write.
        caption: stands below.

    Raises:
        ConfigurationError: the path cannot be written.
    """
    first = drawings[0]
    rows = [
        Row(label, facts_of(drawing), drawing.images[:: len(drawing.images) // len(first.columns), 0][None])
        for label, drawing in zip(labels, drawings, strict=True)
    ]
    with writing(path):
        grid(first.columns, rows, notes=first.notes, caption=caption).save(path, "PNG")


def facts_of(drawing: Drawing) -> str:
    """Return what stands below a row's name."""
    passes = f"{drawing.passes_per_step:.3g}"
    read = drawing.scores["character"].written(percent=True)
    return f"{passes} {'pass' if passes == '1' else 'passes'} per step, read {read}"


def grid(columns: Sequence[str], rows: Sequence[Row], *, notes: Sequence[str] = (), caption: str = "") -> Picture:
    """Return the picture; its pixels are repeated, and not smoothed.

    Args:
        columns: their names.
        rows: all with pictures of one size.
        notes: what stands below the columns' names, one for each or none.
        caption: stands below all rows.
    """
    from PIL import Image, ImageDraw  # an optional dependency, needed for this alone

    font, small, smaller = fonts(17, 14, 11)
    pixels = rows[0].tiles.shape[-1]
    zoom = max(1, round(TILE / pixels))
    tile = pixels * zoom
    side = tile + 2 * GAP
    below = [textwrap.wrap(note, 12) for note in notes]
    header = HEADER + NOTE * max(map(len, below), default=0)
    names = [wrapped(row.name or "no guidance") for row in rows]
    width = max(font.getlength(line) for name in names for line in name.splitlines())
    left = int(max(width, *(small.getlength(row.facts) for row in rows))) + 2 * MARGIN
    heights = [
        max(side * len(row.tiles), LINE * len(name.splitlines()) + FACTS + MARGIN)
        for row, name in zip(rows, names, strict=True)
    ]
    size = (left + len(columns) * side + MARGIN, header + sum(heights) + (CAPTION if caption else MARGIN))
    image = Image.new("L", size, PAPER)
    draw = ImageDraw.Draw(image)
    for number, column in enumerate(columns):
        middle = left + (number + 0.5) * side
        draw.text((middle, HEADER // 2), column, INK, font, anchor="mm")
        for line, words in enumerate(below[number] if below else ()):
            draw.text((middle, HEADER + NOTE * line), words, GREY, smaller, anchor="mm")
    top = header
    for row, name, height in zip(rows, names, heights, strict=True):
        middle = top + height / 2
        block = LINE * len(name.splitlines()) + LINE
        draw.multiline_text((MARGIN, middle - block / 2), name, INK, font, spacing=LINE - 17)
        draw.text((MARGIN, middle + block / 2 - 20), row.facts, GREY, small)
        upper = int(middle) - side * len(row.tiles) // 2 + GAP
        for line, pictures in enumerate(row.tiles):
            for number, each in enumerate(pictures):
                corner = left + number * side + GAP, upper + line * side
                image.paste(enlarged(each, zoom), corner)
                draw.rectangle((corner[0] - 1, corner[1] - 1, corner[0] + tile, corner[1] + tile), outline=FRAME)
        top += height
    if caption:
        draw.text((MARGIN, top + 4), caption, GREY, small)
    return image


def enlarged(picture: Tensor, zoom: int) -> Picture:
    """Return a picture `[H, W]`, about [-1, 1], with every pixel repeated `zoom` times each way; 1 is black."""
    from PIL import Image

    ink = picture.float().add(1).div(2).clamp(0, 1)
    grey = (255 * (1 - ink)).round().to(torch.uint8).repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
    return Image.frombytes("L", (grey.shape[1], grey.shape[0]), grey.numpy().tobytes())


def fonts(*sizes: int) -> list[Any]:
    """Return pillow's own font in these sizes; where it was built without fonts, the one of fixed size that it has."""
    from PIL import ImageFont

    try:
        return [ImageFont.load_default(size) for size in sizes]
    except (ImportError, OSError):
        return [ImageFont.load_default()] * len(sizes)


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
