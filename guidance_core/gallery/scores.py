"""What is measured with each model, and what a difference means."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
from torch import Tensor

from guidance_core.gallery.entries import KEYPAD, LETTERS, MIXTURE
from guidance_core.gallery.letters import Found
from guidance_core.gallery.statistics import average, energy_distance, excludes_zero, root_mean
from guidance_core.models import intervals
from guidance_core.models.intervals import Statistic
from guidance_core.models.letters_judge import load_letters_judge
from guidance_core.models.scores import frechet, mean_distance

BETTER, WORSE, MORE, LESS, SAME = "better", "worse", "more", "less", "same"


@attrs.frozen
class Score:
    """One thing that is measured."""

    name: str
    meaning: str
    of: Callable[[Found], Statistic]
    wanted: int
    "1 where more is better, -1 where less is, 0 where neither is."
    is_share: bool = False
    "Whether it is shown in percent."
    is_count: bool = False
    "Whether each sample has it or not."


def hits(name: str, meaning: str) -> Score:
    """Return the share of samples that have something, which is wanted."""
    return Score(name, meaning, lambda found: average(found[name]), wanted=1, is_share=True, is_count=True)


def part(name: str, meaning: str, wanted: int) -> Score:
    """Return the mean of a share that each sample has."""
    return Score(name, meaning, lambda found: average(found[name]), wanted, is_share=True)


def from_real_letters(features: Tensor) -> Statistic:
    """Return the Fréchet distance of features `[N, 64]` from those of real letters as a statistic."""
    judge = load_letters_judge()
    return frechet(features, judge.mean, judge.covariance)


SCORES: Mapping[str, tuple[Score, ...]] = {
    LETTERS: (
        hits("character", "share of the pictures that the judge reads as the character asked for"),
        hits("typeface", "share of the pictures that the judge reads as the typeface asked for"),
        Score(
            "distance",
            "Fréchet distance from real letters, in the judge's features",
            lambda found: from_real_letters(found["features"]),
            wanted=-1,
        ),
        Score(
            "diversity",
            "mean distance of two pictures of one character, in the judge's features",
            lambda found: mean_distance(found["features"], found["group"]),
            wanted=0,
        ),
        part("saturation", "share of the values more than 0.1 outside [-1, 1]", wanted=-1),
        Score("sharpness", "root mean square of the Laplacian", lambda found: root_mean(found["roughness"]), wanted=0),
    ),
    MIXTURE: (
        hits("followed", "share of the points whose likeliest class is the one asked for"),
        Score(
            "distance",
            "energy distance from true points of the class",
            lambda found: energy_distance(found["points"], found["real"], found["group"]),
            wanted=-1,
        ),
        Score(
            "diversity",
            "mean distance of two points of one class",
            lambda found: mean_distance(found["points"], found["group"]),
            wanted=0,
        ),
    ),
    KEYPAD: (
        part("agreement", "share of the frames in which the digit seen is the digit heard", wanted=1),
        hits("seen", "share of the clips whose picture follows the prompt"),
        hits("heard", "share of the clips whose sound follows the prompt"),
        hits("both", "share of the clips in which both follow the prompt and agree in every frame"),
        part("saturated", "share of the pixels outside [-1.1, 1.1]", wanted=-1),
    ),
}
"What is measured with each model."


def verdict(score: Score, found: intervals.Score) -> str:
    """Say what a difference means: `same` where its interval holds 0."""
    if not excludes_zero(found):
        return SAME
    if score.wanted == 0:
        return MORE if found.value > 0 else LESS
    return BETTER if (found.value > 0) == (score.wanted > 0) else WORSE
