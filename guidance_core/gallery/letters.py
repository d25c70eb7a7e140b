"""Letters of the gallery: drawn, and what a judge finds in each of them."""

from __future__ import annotations

import functools
import time
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from guidance_core.gallery.measured import MeasuredRun
from guidance_core.guidance import Guidance
from guidance_core.hosts.stacked_denoiser import StackedDenoiser
from guidance_core.methods.capabilities import Capabilities
from guidance_core.models.changes import POSSIBLE
from guidance_core.models.letters import TYPEFACES, load_letters_model, load_small_letters_model
from guidance_core.models.letters_drawing import SMALL, STRIDE, letters_conditions, letters_noise
from guidance_core.models.letters_judge import load_letters_judge
from guidance_core.models.scores import OVER

Found = dict[str, Tensor]
"What was drawn and found, by name; the first dimension of each tensor is the samples', except for single numbers."


def asked(characters: int, per_character: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the characters and typefaces of the pictures, and which of its character each is, `[N]`, round by round.

    The first round has every character once, so that fewer pictures are the first ones of more.
    """
    number = torch.arange(per_character).repeat_interleave(characters)
    character = torch.arange(characters).repeat(per_character)
    return character, (STRIDE * (character + number)) % len(TYPEFACES), number


@torch.no_grad()
def draw(guidance: Guidance, *, steps: int, characters: int, per_character: int, seed: int) -> Found:
    """Draw the first characters with Euler steps over evenly falling sigmas, and judge them.

    Returns tensors by name, for N pictures: `images` `[N, 28, 28]` as bytes with ink at 255, `features` `[N, 64]`,
    `character` and `typeface` (whether each is read as asked for), `saturation` and `roughness` (the mean square of the
    Laplacian) `[N]`, `group` `[N]`; and the numbers
    `effective_scale`, `passes` (a step) and `seconds`.
    """
    character, typeface, number = asked(characters, per_character)
    conditions = letters_conditions(character, typeface)
    noise, seeds = letters_noise(seed, per_character)
    models = _models()
    sigmas = [1 - step / steps for step in range(steps + 1)]
    run = guidance.start(
        conditions=conditions,
        sigmas=sigmas,
        prediction_type="flow",
        seeds=seeds[number, character].tolist(),
        supports=Capabilities(POSSIBLE, blocks=len(models[None].blocks), heads=models[None].heads, models=(SMALL,)),
    )
    measured, x = MeasuredRun(run), noise[number, character]
    start = time.perf_counter()
    for index, (sigma, following) in enumerate(pairwise(sigmas)):
        away = functools.partial(models[None], x, sigma, **conditions["negative"])
        x = x + (following - sigma) * measured.step(index, x, _denoiser(x, sigma), away)
    seconds = time.perf_counter() - start
    return _judged(x, character, typeface) | {
        "group": character,
        "effective_scale": measured.effective_scale,
        "strengths": torch.stack(measured.strengths),
        "passes": torch.tensor(run.passes / steps, dtype=torch.float64),
        "seconds": torch.tensor(seconds, dtype=torch.float64),
    }


def _judged(images: Tensor, character: Tensor, typeface: Tensor) -> Found:
    judge = load_letters_judge()
    read, set_in = judge(images)
    kernel = images.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    return {
        "images": (images[:, 0].clamp(-1, 1).add(1).mul(127.5)).round().to(torch.uint8),
        "features": judge.features(images),
        "character": (read.argmax(1) == character).double(),
        "typeface": (set_in.argmax(1) == typeface).double(),
        "saturation": (images.abs() > 1 + OVER).double().flatten(1).mean(1),
        "roughness": F.conv2d(images.clamp(-1, 1), kernel[None, None]).square().double().flatten(1).mean(1),
    }


@functools.cache
def _models() -> dict[str | None, Any]:
    return {None: load_letters_model(), SMALL: load_small_letters_model()}


def _denoiser(x: Tensor, sigma: float) -> StackedDenoiser:
    def call(name: str | None, **inputs: Any) -> Tensor:
        prediction: Tensor = _models()[name](**inputs)
        return prediction

    return StackedDenoiser(
        call,
        {"x": x, "sigma": sigma},
        adapt=lambda branch: {"perturbations": branch.perturbations, "name": branch.model},
    )
