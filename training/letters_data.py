"""Pictures of characters in the typefaces that matplotlib ships: what the letters models learn from.

    python training/letters_data.py OUT.png     # a sheet: a row for each typeface, a column for each character

A glyph is drawn large by Pillow, once. Each picture is that drawing shifted, scaled and rotated a little, and reduced
to 28 × 28 pixels. A seed gives the same pictures every time.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import matplotlib
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from guidance_core.models.letters import CHARACTERS, SIDE, TYPEFACES

FONTS = Path(matplotlib.get_data_path()) / "fonts/ttf"
LARGE = 8
"How much larger than a picture its drawing is."
EM, BASELINE = 24.0, 20.5
"Size of a typeface, and where its letters stand, in pixels from the top."
SHIFT, SCALE, ANGLE = 1.5, 0.1, 6.0
"The most a glyph is moved, in pixels, resized, as a share, and turned, in degrees."


def drawings() -> Tensor:
    """Return each character in each typeface, `[47, typefaces, 1, 224, 224]` in [0, 1]."""
    side, found = LARGE * SIDE, []
    for file in TYPEFACES.values():
        font = ImageFont.truetype(FONTS / file, LARGE * EM)
        for character in CHARACTERS:
            left, _, right, _ = font.getbbox(character, anchor="ls")
            image = Image.new("L", (side, side))
            # Between the two ends of the ink, not of the advance: italics lean out of it.
            ImageDraw.Draw(image).text(
                (side / 2 - (left + right) / 2, LARGE * BASELINE), character, 255, font, anchor="ls"
            )
            found.append(torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, side, side))
    shape = (len(TYPEFACES), len(CHARACTERS), 1, side, side)
    return torch.stack(found).view(shape).transpose(0, 1).float() / 255


def pictures(glyphs: Tensor, each: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw every character in every typeface several times.

    Args:
        glyphs: what `drawings` returns.
        each: pictures of each pair of a character and a typeface.
        seed: of the shifts, scales and rotations.

    Returns:
        the pictures, `[N, 1, 28, 28]` in [-1, 1], with ink at 1; their characters and their typefaces, `[N]`.
    """
    generator = torch.Generator().manual_seed(seed)
    character, typeface = (
        index.flatten() for index in torch.meshgrid(*map(torch.arange, glyphs.shape[:2]), indexing="ij")
    )
    rounds = []
    for _ in range(each):
        for glyph in glyphs:  # one character at a time, for the memory that the large drawings take
            rounds.append(_moved(glyph, generator))
    return torch.cat(rounds), character.repeat(each), typeface.repeat(each)


def _moved(glyphs: Tensor, generator: torch.Generator) -> Tensor:
    """Return drawings `[N, 1, 224, 224]` moved at random, as pictures `[N, 1, 28, 28]`."""
    angle, scale, right, down = (2 * torch.rand(4, len(glyphs), generator=generator) - 1).unbind()
    angle, scale = angle * math.radians(ANGLE), 1 + scale * SCALE
    cos, sin = scale * angle.cos(), scale * angle.sin()
    shift = 2 * SHIFT / SIDE
    matrix = torch.stack((cos, -sin, shift * right, sin, cos, shift * down), -1).view(-1, 2, 3)
    # Twice as large as a picture; the drawings are reduced first, so that no ink is jumped over.
    half = F.avg_pool2d(glyphs, LARGE // 4)
    grid = F.affine_grid(matrix, [len(glyphs), 1, 4 * SIDE, 4 * SIDE], align_corners=False)
    return F.avg_pool2d(F.grid_sample(half, grid, align_corners=False), 4) * 2 - 1


def sheet(images: Tensor, columns: int, path: Path, zoom: int = 2) -> None:
    """Write pictures `[N, 1, 28, 28]` as a PNG, black ink on white."""
    rows = math.ceil(len(images) / columns)
    padded = F.pad(images.float().clamp(-1, 1), (1, 1, 1, 1), value=-0.6)
    padded = torch.cat((padded, padded.new_full((rows * columns - len(images), *padded.shape[1:]), -1.0)))
    side = padded.shape[-1]
    whole = padded.view(rows, columns, side, side).transpose(1, 2).reshape(rows * side, columns * side)
    pixels = ((1 - whole) * 127.5).round().to(torch.uint8).repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
    Image.frombytes("L", pixels.shape[::-1], bytes(pixels.contiguous().flatten().tolist())).save(path)


if __name__ == "__main__":
    images, characters, typefaces = pictures(drawings(), 1, 0)
    sheet(images[(typefaces * len(CHARACTERS) + characters).argsort()], len(CHARACTERS), Path(sys.argv[1]))
