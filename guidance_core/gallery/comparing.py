"""From what was drawn to what is said of it: scores beside plain cfg at the same effective scale and passes."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from guidance_core.gallery.entries import HIGHEST, KEYPAD, LETTERS, MIXTURE, Entry
from guidance_core.gallery.letters import Found
from guidance_core.gallery.protocol import Protocol
from guidance_core.gallery.scores import SCORES, Score, verdict
from guidance_core.gallery.statistics import difference, estimate, resampled
from guidance_core.gallery.work import Store, Unit, beside, drawn, sweep_units, unit
from guidance_core.models import intervals
from guidance_core.models.intervals import share

USUAL = "cfg:scale=3"
"The row `cfg`."


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
        scores: dict[str, dict[str, Any]] = {}
        for score in SCORES[model]:
            value = self._estimate(own, score)
            scores[score.name] = {**_plain(value)}
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
                "is_fair": is_fair(model, found),
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

    def _estimate(self, own: Unit, score: Score) -> intervals.Score:
        return share(self.store.get(own)[score.name]) if score.is_count else estimate(self._drawn(own, score))

    def _drawn(self, own: Unit, score: Score) -> Tensor:
        key = own, score.name
        if key not in self._values:
            found = self.store.get(own)
            self._values[key] = resampled(score.of(found), _count(found), self.store.protocol.draws)
        return self._values[key]


def is_fair(model: str, found: Found) -> bool:
    """Whether plain cfg can pull as hard as a row does."""
    return all((scale or 0.0) <= HIGHEST for scale in _scales(model, found).values())


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


def _plain(found: intervals.Score) -> dict[str, float | None]:
    return {name: _rounded(getattr(found, name)) for name in ("value", "low", "high")}


def _rounded(value: float) -> float | None:
    """Round to four digits, so that data files stay small; nan, which JSON does not have, is None."""
    return None if math.isnan(value) else float(f"{value:.4g}")
