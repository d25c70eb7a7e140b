"""Drawing digits with the embedded transformer, to see and to measure what guidance does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import torch
from torch import Tensor

from guidance_core.algebra.outputs import SINGLE
from guidance_core.errors import ConfigurationError
from guidance_core.executors.base import Denoiser, Executor
from guidance_core.guidance import Guidance
from guidance_core.hosts.stacked_denoiser import StackedDenoiser
from guidance_core.methods.capabilities import Capabilities
from guidance_core.models.changes import POSSIBLE
from guidance_core.models.digits import NULL_LABEL, load_digits_classifier, load_digits_model
from guidance_core.models.samplers import euler
from guidance_core.trace import Trace

DIGITS = 10


@attrs.frozen(eq=False)
class Drawing:
    """What one stack drew."""

    images: Tensor
    "`[10·n, 1, 8, 8]`, about [-1, 1]: n of each digit, digit by digit."
    passes_per_step: float
    seconds: float
    accuracy: float
    "Share of the images that an independent classifier reads as the digit asked for."
    trace: Trace | None = None
    "What each step did, where that was asked for."


def draw_digits(
    guidance: Guidance,
    *,
    steps: int = 25,
    per_digit: int = 20,
    seed: int = 0,
    executor: str | Executor = "serial",
    on_step: Callable[[], object] = lambda: None,
    trace: Trace | None = None,
) -> Drawing:
    """Draw digits with Euler steps over evenly falling sigmas; equal seeds start from equal noise.

    Args:
        guidance: the stack to use.
        steps: number of steps.
        per_digit: images of each digit.
        seed: of the starting noise, and of what methods draw.
        executor: what runs the branches.
        on_step: called after each step.
        trace: is given what each step did.

    Raises:
        ConfigurationError: steps or per_digit is not positive, or the stack is not for a model of one output.
    """
    for name, value in (("steps", steps), ("per_digit", per_digit)):
        if value < 1:
            raise ConfigurationError(f"{name} must be at least 1; got {value}.")
    check_one_output(guidance)
    model, classifier = load_digits_model(), load_digits_classifier()
    label = torch.arange(DIGITS).repeat_interleave(per_digit)
    noise = torch.randn(len(label), 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    sigmas = [1 - number / steps for number in range(steps + 1)]
    # The embeddings, and not the labels themselves, so that methods can edit what a condition says.
    labels = {"positive": label, "negative": torch.full_like(label, NULL_LABEL)}
    run = guidance.start(
        conditions={name: {"label": model.embedded(given)} for name, given in labels.items()},
        sigmas=sigmas,
        prediction_type="flow",
        executor=executor,
        seeds=seed,
        supports=Capabilities(POSSIBLE, blocks=len(model.blocks), heads=model.heads),
        trace=trace,
    )

    def denoiser(x: Tensor, sigma: float) -> Denoiser:
        shared = {"x": x, "sigma": sigma}
        return StackedDenoiser(model, shared, adapt=lambda branch: {"perturbations": branch.perturbations})

    start = time.perf_counter()
    with torch.no_grad():  # which, unlike inference mode, lets a method differentiate
        images = euler(run, sigmas, noise, denoiser, on_step)
        seconds = time.perf_counter() - start
        accuracy = (classifier(images).argmax(1) == label).float().mean().item()
    return Drawing(images, run.passes / steps, seconds, accuracy, trace)


def check_one_output(guidance: Guidance) -> None:
    """Raise `ConfigurationError` for methods with values for outputs that the embedded model does not have."""
    others = [name for name in guidance.outputs if name != SINGLE]
    if others:
        raise ConfigurationError(
            f"the embedded digits model has one output, named {SINGLE!r}, but the methods have values for "
            f"{', '.join(others)}. Give plain numbers instead, as in "
            "'ltx2:cfg_scale=3,modality_scale=1,stg_blocks=3'."
        )


def check_picture_path(path: Path) -> None:
    """Raise `ConfigurationError` unless a PNG can be written there, before any work is done."""
    if path.suffix.lower() != ".png":
        raise ConfigurationError(f"the picture is a PNG; --out must end in .png; got {path}.")
    folder = next((each for each in path.absolute().parents if each.exists()), Path("/"))
    if path.is_dir() or not folder.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise ConfigurationError(f"the picture cannot be written to {path}; choose another --out.")


ZOOM = 8
"Pixels for one pixel of a digit."
INK, PAPER, MARGIN = 40, 255, 12


def save_grid(drawings: Sequence[Drawing], labels: Sequence[str], path: Path) -> None:
    """Write a PNG: a row for each drawing, a column for each digit, the first image of each.

    Args:
        drawings: one for each row.
        labels: what stands left of each row; long ones are broken at commas.
        path: where to write; missing folders are made.

    Raises:
        ConfigurationError: the path cannot be written.
    """
    from PIL import Image, ImageDraw, ImageFont  # an optional dependency, needed for this alone

    font, small = ImageFont.load_default(17), ImageFont.load_default(14)
    side, header = (8 + 2) * ZOOM, 34
    texts = [
        (
            wrapped(label or "no guidance"),
            f"{drawing.passes_per_step:.3g} passes per step, {drawing.accuracy:.1%} read",
        )
        for label, drawing in zip(labels, drawings, strict=True)
    ]
    width = max(max(font.getlength(line) for line in (*name.splitlines(), facts)) for name, facts in texts)
    left = int(width) + 2 * MARGIN
    heights = [max(side, 22 * len(name.splitlines()) + 24 + MARGIN) for name, _ in texts]
    image = Image.new("L", (left + 10 * side + MARGIN, header + sum(heights) + MARGIN), PAPER)
    draw = ImageDraw.Draw(image)
    for digit in range(DIGITS):
        draw.text((left + (digit + 0.5) * side, header / 2), str(digit), INK, font, anchor="mm")
    top = header
    for drawing, (name, facts), height in zip(drawings, texts, heights, strict=True):
        middle = top + height / 2
        block = 22 * len(name.splitlines()) + 22
        draw.multiline_text((MARGIN, middle - block / 2), name, INK, font, spacing=22 - 17)
        draw.text((MARGIN, middle + block / 2 - 20), facts, 110, small)
        tiles = drawing.images.reshape(DIGITS, -1, 8, 8)[:, 0].float().add(1).div(2).clamp(0, 1)
        pixels = (255 * (1 - tiles)).round().to(torch.uint8).repeat_interleave(ZOOM, 1).repeat_interleave(ZOOM, 2)
        for digit, tile in enumerate(pixels):
            corner = left + digit * side + ZOOM, int(middle) - 4 * ZOOM
            image.paste(Image.frombytes("L", (8 * ZOOM, 8 * ZOOM), bytes(tile.flatten().tolist())), corner)
            draw.rectangle((corner[0] - 1, corner[1] - 1, corner[0] + 8 * ZOOM, corner[1] + 8 * ZOOM), outline=170)
        top += height
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, "PNG")
    except OSError as error:
        raise ConfigurationError(f"the picture cannot be written to {path}: {error.strerror or error}.") from None


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
