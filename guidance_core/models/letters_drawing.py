"""Drawing letters with the embedded transformer, and scoring them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from guidance_core.errors import ConfigurationError, brief
from guidance_core.executors.base import Executor
from guidance_core.guidance import Guidance
from guidance_core.models.drawing import Drawing, OnStep, Settings, drawn
from guidance_core.models.estimates import Estimates
from guidance_core.models.intervals import Score, share
from guidance_core.models.letters import (
    ANY_CHARACTER,
    ANY_TYPEFACE,
    CHARACTERS,
    SIDE,
    TYPEFACES,
    letters_condition,
    load_letters_model,
    load_small_letters_model,
)
from guidance_core.models.letters_judge import load_letters_judge
from guidance_core.models.scores import diversity, frechet_distance, saturation, sharpness
from guidance_core.trace import Trace

SMALL = "small"
"The name under which a branch asks for the weaker model."
SHOWN = "ABGQRag5"
"The characters of the usual picture."
STRIDE = 8
"How far apart the typefaces of one picture and the next are: every typeface comes, as 21 is not a multiple of it."


def draw_letters(
    guidance: Guidance,
    *,
    characters: str = SHOWN,
    steps: int = 25,
    per_class: int = 4,
    seed: int = 0,
    executor: str | Executor = "serial",
    on_step: OnStep = lambda: None,
    trace: Trace | None = None,
    keep: Sequence[int] = (),
) -> Drawing:
    """Draw letters with Euler steps over evenly falling sigmas, each in another typeface.

    Every picture has noise and a seed of its own: a picture does not change with the other characters, or the number of
    pictures. Conditions beside `positive` are `negative` and `empty`, which leave both open, `character`, which
    leaves the typeface open, and `typeface`, which leaves the character open. Methods may ask for the model `small`.

    Args:
        guidance: the stack to use.
        characters: what to draw, of `CHARACTERS`.
        steps: number of steps.
        per_class: images of each character.
        seed: of the starting noise, and of what methods draw.
        executor: what runs the branches.
        on_step: called after each step.
        trace: is given what each step did.
        keep: the steps whose estimates of x0 come with the drawing, of the first image of each character.

    Raises:
        ConfigurationError: there is no character or one that the model does not know, steps or per_class is not
            positive, or the stack is not for a model of one output.
    """
    kept = Estimates(keep, every=max(1, per_class))
    settings = Settings(steps, per_class, seed, executor, on_step, trace, kept)
    settings.check(guidance)
    check_characters(characters)
    character = torch.tensor([CHARACTERS.index(each) for each in characters]).repeat_interleave(per_class)
    number = torch.arange(per_class).repeat(len(characters))
    typeface = (STRIDE * (character + number)) % len(TYPEFACES)
    noise, seeds = letters_noise(seed, per_class)
    images, passes, seconds = drawn(
        guidance,
        settings,
        load_letters_model(),
        {SMALL: load_small_letters_model()},
        letters_conditions(character, typeface),
        noise[number, character],
        seeds[number, character].tolist(),
    )
    scores = letters_scores(images, character, typeface)
    names = tuple(TYPEFACES)
    return Drawing(
        images,
        tuple(characters),
        passes,
        seconds,
        scores["character"].value,
        notes=tuple(names[each] for each in typeface[::per_class].tolist()),
        scores=scores,
        trace=trace,
        kept=kept,
    )


def check_characters(characters: str) -> None:
    """Raise `ConfigurationError` unless the model knows each of these, and there is one."""
    unknown = next((each for each in characters if each not in CHARACTERS), None)
    if unknown is not None or not characters:
        raise ConfigurationError(
            f"characters are some of {CHARACTERS}, which has a small letter only where it looks unlike the capital; "
            f"got {brief(characters if unknown is None else unknown)}."
        )


@torch.no_grad()
def letters_scores(images: Tensor, character: Tensor, typeface: Tensor) -> dict[str, Score]:
    """Return what an independent judge finds in pictures `[N, 1, 28, 28]`, asked to be characters in typefaces, `[N]`.

    Each score has a 95 % interval over pictures; it is unknown where there are too few.

    - character, typeface: the shares read as asked for.
    - distance: the Fréchet distance from real letters of all kinds, in the judge's features.
    - diversity: the mean distance between two pictures of one character.
    - saturation: the share of values more than 0.1 outside [-1, 1].
    - sharpness: the root mean square of the Laplacian.
    """
    judge = load_letters_judge()
    read, set_in = judge(images)
    features = judge.features(images)
    return {
        "character": share(read.argmax(1) == character),
        "typeface": share(set_in.argmax(1) == typeface),
        "distance": frechet_distance(features, judge.mean, judge.covariance),
        "diversity": diversity(features, character),
        "saturation": saturation(images),
        "sharpness": sharpness(images),
    }


def letters_noise(seed: int, rounds: int) -> tuple[Tensor, Tensor]:
    """Return the noise, `[rounds, 47, 1, 28, 28]`, and the seed of each picture, `[rounds, 47]`."""
    generator = torch.Generator().manual_seed(seed)
    found = [
        (
            torch.randn(len(CHARACTERS), 1, SIDE, SIDE, generator=generator),
            torch.randint(2**62, (len(CHARACTERS),), generator=generator),
        )
        for _ in range(rounds)
    ]
    noise, seeds = zip(*found, strict=True)
    return torch.stack(noise), torch.stack(seeds)


def letters_conditions(character: Tensor, typeface: Tensor) -> dict[str, dict[str, Tensor]]:
    """Return the conditions of `draw_letters` for pictures of these characters and typefaces, `[N]`."""
    any_character, any_typeface = (
        torch.full_like(character, ANY_CHARACTER),
        torch.full_like(typeface, ANY_TYPEFACE),
    )
    neither = letters_condition(any_character, any_typeface)
    return {
        "positive": letters_condition(character, typeface),
        "negative": neither,
        "empty": neither,
        "character": letters_condition(character, any_typeface),
        "typeface": letters_condition(any_character, typeface),
    }
