"""The units of work of a gallery: each is a stack drawn once, kept in a file, so that an interrupted run goes on."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

import attrs

from guidance_core.errors import ConfigurationError
from guidance_core.gallery import keypad, letters, mixture
from guidance_core.gallery.entries import KEYPAD, LETTERS, Entry, entry, nearest, of_model, plain
from guidance_core.gallery.letters import Found
from guidance_core.gallery.protocol import Protocol
from guidance_core.guidance import Guidance
from guidance_core.version import __version__

MODELS = ("letters", "mixture", "keypad")
MADE = "made:"
"Begins the stack of a unit whose entry makes it in Python."


@attrs.frozen
class Unit:
    """A stack to draw: how much of it follows from the protocol."""

    model: str
    stack: str
    "A spec, or `made:` and the name of an entry."
    steps: int
    size: int
    "Samples of each character, class or prompt."

    @property
    def file(self) -> str:
        """Name of the file that keeps it."""
        words = re.sub(r"[^a-z0-9.]+", "-", self.stack.lower()).strip("-")[:60] or "cond-alone"
        said = entry(self.stack.removeprefix(MADE)).stack if self.stack.startswith(MADE) else ""
        key = hashlib.sha256(f"{self!r} {__version__}{said}".encode()).hexdigest()[:8]
        return f"{self.model}-{words}-{key}.safetensors"

    def guidance(self) -> Guidance:
        """Return the stack."""
        if self.stack.startswith(MADE):
            return entry(self.stack.removeprefix(MADE)).guidance()
        return Guidance.from_spec(self.stack)

    def cost(self, protocol: Protocol) -> float:
        """About how long it takes, in forwards of one letter."""
        samples = {LETTERS: protocol.characters, KEYPAD: 1.5 * len(keypad.PROMPTS)}.get(self.model, 0.02)
        return samples * self.size * self.steps * (1 if self.stack == "" else 2.2)

    def draw(self, protocol: Protocol) -> Found:
        """Draw it."""
        guidance, seed = self.guidance(), protocol.seed
        if self.model == LETTERS:
            characters = protocol.characters
            return letters.draw(guidance, steps=self.steps, characters=characters, per_character=self.size, seed=seed)
        if self.model == KEYPAD:
            return keypad.draw(guidance, steps=self.steps, clips=self.size, seed=seed)
        return mixture.draw(guidance, steps=self.steps, points=self.size, seed=seed)


def unit(protocol: Protocol, model: str, stack: str, *, steps: int | None = None, size: int | None = None) -> Unit:
    """Return the unit of a stack, as large as the protocol says unless told otherwise."""
    usual = {
        "letters": (protocol.steps, protocol.per_character),
        "mixture": (min(mixture.STEPS, 2 * protocol.steps), protocol.points),
        "keypad": (min(keypad.STEPS, 2 * protocol.steps), protocol.clips),
    }[model]
    return Unit(model, stack, steps or usual[0], size or usual[1])


def drawn(protocol: Protocol, model: str, row: Entry) -> Unit:
    """Return the unit of an entry."""
    return unit(protocol, model, row.stack if row.make is None else MADE + row.name)


def own_units(protocol: Protocol, models: Iterable[str] = MODELS) -> list[Unit]:
    """Return the units of all entries, and of no guidance."""
    units = [
        each
        for model in models
        for each in (unit(protocol, model, ""), *(drawn(protocol, model, row) for row in of_model(model)))
    ]
    return list(dict.fromkeys(units))


def beside(protocol: Protocol, model: str, found: Found) -> Unit:
    """Return plain cfg at the same effective scale and the same number of passes as what was found.

    Cfg makes two passes a step, and one at scale 1: it makes more or fewer steps than a method with other passes.
    """
    steps = unit(protocol, model, "").steps
    if model == KEYPAD:
        scales = [nearest(float(found[f"{output}_scale"].nanmean().nan_to_num(1.0))) for output in ("video", "audio")]
        stack = "cfg:scale={{video: {:g}, audio: {:g}}}".format(*scales)
        stack = plain(scales[0]) if scales[0] == scales[1] else stack
    else:
        stack = plain(nearest(float(found["effective_scale"])))
    each = 1 if stack == "" else 2
    return unit(protocol, model, stack, steps=max(1, round(steps * float(found["passes"]) / each)))


def sweep_units(protocol: Protocol, row: Entry) -> list[Unit]:
    """Return the units of an entry's sweep, on the first of its models."""
    if row.sweep is None:
        return []
    model = row.models[0]
    size = 1 if model == LETTERS else max(1, protocol.clips // 2)
    return [unit(protocol, model, row.sweep.stack.format(value), size=size) for value in row.sweep.values]


class Store:
    """A folder of finished units."""

    def __init__(self, folder: Path, protocol: Protocol) -> None:
        self.folder = folder / protocol.name
        self.protocol = protocol

    def clear(self) -> None:
        """Forget what was drawn."""
        for path in self.folder.glob("*.safetensors"):
            path.unlink(missing_ok=True)

    def has(self, wanted: Unit) -> bool:
        """Whether a unit is finished."""
        return (self.folder / wanted.file).exists()

    def get(self, wanted: Unit) -> Found:
        """Return a unit, drawn now if it was not.

        Raises:
            ConfigurationError: the folder cannot be written to.
        """
        from safetensors import SafetensorError  # an optional dependency, needed for this alone
        from safetensors.torch import load_file, save_file

        path = self.folder / wanted.file
        if path.exists():
            try:
                return dict(load_file(path))
            except (SafetensorError, OSError):
                path.unlink(missing_ok=True)  # damaged: drawn again
        found = wanted.draw(self.protocol)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({name: each.contiguous() for name, each in found.items()}, partial)
            partial.replace(path)
        except (OSError, SafetensorError) as error:
            raise ConfigurationError(
                f"what was drawn cannot be kept in {self.folder}: {error}; choose another --work."
            ) from None
        return found
