"""Drawing digits with the embedded transformer, to see and to measure what guidance does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import torch
from torch import Tensor

from guidance_core.errors import ConfigurationError
from guidance_core.executors.base import Denoiser, Executor
from guidance_core.guidance import Guidance
from guidance_core.models import NULL_LABEL, load_digits_classifier, load_digits_model
from guidance_core.samplers import euler
from guidance_core.stacking import StackedDenoiser

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


def draw_digits(
    guidance: Guidance,
    *,
    steps: int = 25,
    per_digit: int = 20,
    seed: int = 0,
    executor: str | Executor = "serial",
    on_step: Callable[[], object] = lambda: None,
) -> Drawing:
    """Draw digits with Euler steps over evenly falling sigmas; equal seeds start from equal noise.

    Args:
        guidance: the stack to use.
        steps: number of steps.
        per_digit: images of each digit.
        seed: of the starting noise.
        executor: what runs the branches.
        on_step: called after each step.

    Raises:
        ConfigurationError: steps or per_digit is not positive, or the stack cannot run here.
    """
    for name, value in (("steps", steps), ("per_digit", per_digit)):
        if value < 1:
            raise ConfigurationError(f"{name} must be at least 1; got {value}.")
    model, classifier = load_digits_model(), load_digits_classifier()
    label = torch.arange(DIGITS).repeat_interleave(per_digit)
    noise = torch.randn(len(label), 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    sigmas = [1 - number / steps for number in range(steps + 1)]
    run = guidance.start(
        conditions={"positive": {"label": label}, "negative": {"label": torch.full_like(label, NULL_LABEL)}},
        sigmas=sigmas,
        prediction_type="flow",
        executor=executor,
    )

    def denoiser(x: Tensor, sigma: float) -> Denoiser:
        shared = {"x": x, "sigma": sigma}
        return StackedDenoiser(model, shared, adapt=lambda branch: {"perturbations": branch.perturbations})

    start = time.perf_counter()
    with torch.inference_mode():
        images = euler(run, sigmas, noise, denoiser, on_step)
        seconds = time.perf_counter() - start
        accuracy = (classifier(images).argmax(1) == label).float().mean().item()
    return Drawing(images, run.passes / steps, seconds, accuracy)


def save_grid(drawings: Sequence[Drawing], path: Path, *, zoom: int = 8) -> None:
    """Write a PNG: a row for each drawing, a column for each digit, the first image of each."""
    from PIL import Image  # an optional dependency, needed for this alone

    rows = [drawing.images.reshape(DIGITS, -1, 8, 8)[:, 0] for drawing in drawings]
    tiles = torch.stack(rows).float().add(1).div(2).clamp(0, 1)
    tiles = torch.nn.functional.pad(1 - tiles, (1, 1, 1, 1), value=0.6)
    grid = tiles.permute(0, 2, 1, 3).reshape(len(rows) * 10, DIGITS * 10)
    pixels = grid.mul(255).round().to(torch.uint8).repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.numpy()).save(path)
