"""From what was drawn to what is said of it: scores beside plain cfg at the same effective scale and passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from torch import Tensor

from guidance_core.gallery.entries import KEYPAD, LETTERS, MIXTURE, Entry
from guidance_core.gallery.letters import Found
from guidance_core.gallery.protocol import Protocol
from guidance_core.gallery.statistics import (
    Estimate,
    Statistic,
    average,
    difference,
    energy_distance,
    estimate,
    frechet,
    resampled,
    root_mean,
    share,
    spread,
)
from guidance_core.gallery.work import Store, Unit, beside, drawn, sweep_units, unit

USUAL = "cfg:scale=3"
"The row `cfg`."
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


SCORES: Mapping[str, tuple[Score, ...]] = {
    LETTERS: (
        Score(
            "character",
            "share of the pictures that the judge reads as the character asked for",
            lambda found: average(found["character"]),
            1,
            True,
            True,
        ),
        Score("typeface", "share read as in the typeface asked for", lambda found: average(found["typeface"]), 1, True),
        Score(
            "distance",
            "Fréchet distance from real letters, in the judge's features",
            lambda found: frechet(found["features"]),
            -1,
        ),
        Score(
            "diversity",
            "mean distance of two pictures of one character, in the judge's features",
            lambda found: spread(found["features"], found["group"]),
            0,
        ),
        Score(
            "saturation",
            "share of the values more than 0.1 outside of [-1, 1]",
            lambda found: average(found["saturation"]),
            -1,
            True,
        ),
        Score("sharpness", "root mean square of the Laplacian", lambda found: root_mean(found["roughness"]), 0),
    ),
    MIXTURE: (
        Score(
            "followed",
            "share of the points whose likeliest class is the one asked for",
            lambda found: average(found["followed"]),
            1,
            True,
            True,
        ),
        Score(
            "distance",
            "energy distance from true points of the class",
            lambda found: energy_distance(found["points"], found["real"], found["group"]),
            -1,
        ),
        Score(
            "diversity",
            "mean distance of two points of one class",
            lambda found: spread(found["points"], found["group"]),
            0,
        ),
    ),
    KEYPAD: (
        Score(
            "agreement",
            "share of the frames in which the digit seen is the digit heard",
            lambda found: average(found["agreement"]),
            1,
            True,
        ),
        Score(
            "seen", "share of the clips whose picture follows the prompt", lambda found: average(found["seen"]), 1, True
        ),
        Score(
            "heard", "share of the clips whose sound follows the prompt", lambda found: average(found["heard"]), 1, True
        ),
        Score(
            "both",
            "share of the clips in which both do, and agree in every frame",
            lambda found: average(found["both"]),
            1,
            True,
            True,
        ),
        Score(
            "saturated",
            "share of the pixels outside of [-1.1, 1.1]",
            lambda found: average(found["saturated"]),
            -1,
            True,
        ),
    ),
}
"What is measured with each model."


def verdict(score: Score, found: Estimate) -> str:
    """Say what a difference from plain cfg means: `same` where its interval holds 0."""
    if not found.excludes_zero:
        return SAME
    if score.wanted == 0:
        return MORE if found.value > 0 else LESS
    return BETTER if (found.value > 0) == (score.wanted > 0) else WORSE


class Scoring:
    """Scores what a store keeps, each unit once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._values: dict[tuple[Unit, str], Tensor] = {}

    def compared(self, model: str, row: Entry) -> dict[str, Any]:
        """Return a row as plain data: its scores, and how they differ from three others.

        `cfg` is plain cfg at the same effective scale and passes, `usual` the row `cfg`, and `none` no guidance.

        Raises:
            ConfigurationError: what was drawn cannot be kept.
        """
        protocol = self.store.protocol
        own = drawn(protocol, model, row)
        found = self.store.get(own)
        other = beside(protocol, model, found)
        others = {"cfg": other, "usual": unit(protocol, model, USUAL), "none": unit(protocol, model, "")}
        scores = {}
        for score in SCORES[model]:
            value = self._estimate(own, score)
            scores[score.name] = _plain(value)
            for name, each in others.items():
                apart = difference(self._drawn(own, score), self._drawn(each, score))
                scores[score.name][name] = {
                    "value": _rounded(value.value - apart.value),
                    "difference": _plain(apart),
                    "verdict": verdict(score, apart),
                }
        return {
            "name": row.name,
            "method": row.method,
            "stack": row.stack,
            "note": row.note,
            "samples": _count(found),
            "steps": own.steps,
            "passes_per_step": _rounded(float(found["passes"])),
            "effective_scale": _scales(model, found),
            "beside": {
                "stack": other.stack,
                "steps": other.steps,
                "effective_scale": _scales(model, self.store.get(other)),
            },
            "scores": scores,
        }

    def measured(self, own: Unit) -> dict[str, Any]:
        """Return a unit's scores as plain data, beside nothing."""
        found = self.store.get(own)
        return {
            "stack": own.stack,
            "steps": own.steps,
            "samples": _count(found),
            "passes_per_step": _rounded(float(found["passes"])),
            "effective_scale": _scales(own.model, found),
            "scores": {score.name: _plain(self._estimate(own, score)) for score in SCORES[own.model]},
        }

    def swept(self, row: Entry) -> dict[str, Any] | None:
        """Return an entry's sweep as plain data."""
        if row.sweep is None:
            return None
        rows = [self.measured(each) for each in sweep_units(self.store.protocol, row)]
        return {
            "parameter": row.sweep.parameter,
            "model": row.models[0],
            "rows": [{"value": value, **each} for value, each in zip(row.sweep.values, rows, strict=True)],
        }

    def unguided(self, model: str) -> dict[str, Any]:
        """Return the scores without guidance."""
        return self.measured(unit(self.store.protocol, model, ""))

    def _estimate(self, own: Unit, score: Score) -> Estimate:
        return share(self.store.get(own)[score.name]) if score.is_count else estimate(self._drawn(own, score))

    def _drawn(self, own: Unit, score: Score) -> Tensor:
        key = own, score.name
        if key not in self._values:
            found = self.store.get(own)
            self._values[key] = resampled(score.of(found), _count(found), self.store.protocol.draws)
        return self._values[key]


def size_of(protocol: Protocol, model: str) -> str:
    """Say how much is drawn of each row."""
    own = unit(protocol, model, "")
    samples = {
        LETTERS: f"{protocol.characters * own.size} pictures",
        MIXTURE: f"{3 * own.size} points",
        KEYPAD: f"{10 * own.size} clips",
    }[model]
    return f"{samples}, {own.steps} steps"


def _scales(model: str, found: Found) -> dict[str, float | None]:
    names = {"video": "video_scale", "audio": "audio_scale"} if model == KEYPAD else {"output": "effective_scale"}
    return {output: _rounded(float(found[name].mean())) for output, name in names.items()}


def _count(found: Found) -> int:
    """Return the number of samples."""
    return len(found["group"] if "group" in found else found["agreement"])


def _plain(found: Estimate) -> dict[str, float | None]:
    return {name: _rounded(each) for name, each in attrs.asdict(found).items()}


def _rounded(value: float) -> float | None:
    """Round to four digits, so that data files stay small; nan, which JSON does not have, is None."""
    return None if math.isnan(value) else float(f"{value:.4g}")
