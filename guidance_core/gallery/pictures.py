"""The pictures of the gallery: small palette PNGs, ink on paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from guidance_core.errors import ConfigurationError
from guidance_core.gallery.letters import Found
from guidance_core.models.gaussians import default_mixture
from guidance_core.models.letters import CHARACTERS, SIDE

SHOWN = CHARACTERS[::4]
"The characters of the pictures: every fourth, the first picture of each."
ZOOM, GAP, LABEL, LINE = 2, 6, 15, 18
GREYS = 16
PANEL, REACH = 280, 3.2
"Sides of a picture of the mixture: in pixels, and of the part of the plane that it shows, from the middle."
COLORS = ((38, 84, 158), (190, 76, 30), (40, 122, 72))


def letters_strip(rows: Sequence[tuple[str, Found]], path: Path) -> None:
    """Write a PNG with a labelled row of letters for each stack, a column for each character shown.

    Args:
        rows: labels, and what was drawn.
        path: where to write.

    Raises:
        ConfigurationError: the path cannot be written.
    """
    from PIL import Image, ImageDraw, ImageFont  # an optional dependency, needed for pictures alone

    font = ImageFont.load_default(13)
    drawn = int(rows[0][1]["group"].max()) + 1
    shown = [CHARACTERS.index(each) for each in SHOWN if CHARACTERS.index(each) < drawn]
    tile = SIDE * ZOOM
    height = LINE + tile + GAP
    wide = max(len(shown) * (tile + GAP) + GAP, *(int(font.getlength(label)) + 2 * GAP for label, _ in rows))
    image = Image.new("L", (wide, len(rows) * height + GAP), 255)
    draw = ImageDraw.Draw(image)
    for number, (label, found) in enumerate(rows):
        top = number * height + GAP // 2
        draw.text((GAP, top), label, 40, font)
        for column, character in enumerate(shown):
            grey = (255 - found["images"][character]).repeat_interleave(ZOOM, 0).repeat_interleave(ZOOM, 1)
            corner = GAP + column * (tile + GAP), top + LINE
            image.paste(Image.frombytes("L", (tile, tile), bytes(grey.flatten().tolist())), corner)
            draw.rectangle((corner[0] - 1, corner[1] - 1, corner[0] + tile, corner[1] + tile), outline=187)
    _save(image.quantize(GREYS), path)


def mixture_panels(panels: Sequence[tuple[str, Found]], path: Path) -> None:
    """Write a PNG with a panel of points for each stack, a color for each class; rings are where true points are.

    Args:
        panels: labels, and what was drawn.
        path: where to write.

    Raises:
        ConfigurationError: the path cannot be written.
    """
    from PIL import Image, ImageDraw, ImageFont  # as above

    font, mixture = ImageFont.load_default(13), default_mixture()
    image = Image.new("RGB", (len(panels) * (PANEL + GAP) + GAP, PANEL + LINE + GAP), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    for number, (label, found) in enumerate(panels):
        left, top = GAP + number * (PANEL + GAP), LINE
        draw.text((left, 0), label, (40, 40, 40), font)
        draw.rectangle((left, top, left + PANEL, top + PANEL), outline=(187, 187, 187))
        for mean, std, label_ in zip(
            mixture.means.tolist(), mixture.stds.tolist(), mixture.labels.tolist(), strict=True
        ):
            (x, y), r = _place(mean, left, top), 2 * std * PANEL / (2 * REACH)
            draw.ellipse((x - r, y - r, x + r, y + r), outline=_pale(COLORS[label_]))
        for point, group in zip(found["points"].tolist(), found["group"].tolist(), strict=True):
            x, y = _place(point, left, top)
            if left < x < left + PANEL and top < y < top + PANEL:
                draw.rectangle((x, y, x + 1, y + 1), fill=COLORS[group])
    _save(image.quantize(GREYS), path)


def _place(point: Sequence[float], left: int, top: int) -> tuple[float, float]:
    return left + PANEL * (0.5 + point[0] / (2 * REACH)), top + PANEL * (0.5 - point[1] / (2 * REACH))


def _pale(color: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = (255 - (255 - part) // 3 for part in color)
    return red, green, blue


def _save(image: Any, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, "PNG", optimize=True)
    except OSError as error:
        raise ConfigurationError(f"the picture cannot be written to {path}: {error.strerror or error}.") from None
