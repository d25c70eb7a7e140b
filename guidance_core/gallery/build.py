"""Building a gallery: draw what is missing, compare, and write data, pictures and pages."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from guidance_core.errors import ConfigurationError
from guidance_core.gallery import choosing, pages
from guidance_core.gallery.comparing import USUAL, Scoring, is_fair, size_of
from guidance_core.gallery.entries import CONTROLS, ENTRIES, KEYPAD, LETTERS, MIXTURE, UNSHOWN, Entry, of_model
from guidance_core.gallery.letters import asked
from guidance_core.gallery.pictures import letters_strip, mixture_panels
from guidance_core.gallery.work import MODELS, Store, Unit, beside, drawn, own_units, sweep_units, unit
from guidance_core.models.letters import load_letters_model
from guidance_core.models.letters_drawing import letters_conditions, letters_noise
from guidance_core.version import __version__

FOLDER = "gallery"
"The folder of the pages, beside `choosing.md`."
BESIDE = 0.5
"About how much of the work on the rows comes again for plain cfg beside them."

OnUnit = Callable[[Unit, float], object]
"Called before a unit is drawn, with the share of the work that is done, 0 to 1."


def seconds_left(store: Store) -> float:
    """Return about how long the missing units take here, by the time of a few forwards."""
    protocol = store.protocol
    rows = [each for each in own_units(protocol) if not store.has(each)]
    others = [each for row in ENTRIES for each in sweep_units(protocol, row) if not store.has(each)]
    cost = (1 + BESIDE) * sum(each.cost(protocol) for each in rows) + sum(each.cost(protocol) for each in others)
    return cost * _forward_seconds()


@torch.no_grad()
def _forward_seconds() -> float:
    """Return how long a forward takes for each letter of a batch."""
    model, (character, typeface, number) = load_letters_model(), asked(16, 1)
    noise, _ = letters_noise(0, 1)
    inputs = letters_conditions(character, typeface)["positive"]
    model(noise[number, character], 0.5, **inputs)
    start = time.perf_counter()
    for _ in range(3):
        model(noise[number, character], 0.5, **inputs)
    return (time.perf_counter() - start) / (3 * len(character))


def draw_all(store: Store, on_unit: OnUnit = lambda unit, share: None) -> None:
    """Draw every unit that is missing: the rows, plain cfg beside each, and the sweeps.

    Raises:
        ConfigurationError: what was drawn cannot be kept.
    """
    protocol = store.protocol
    first, last = own_units(protocol), [each for row in ENTRIES for each in sweep_units(protocol, row)]
    done, cost = 0.0, sum(each.cost(protocol) for each in first)
    whole = (1 + BESIDE) * cost + sum(each.cost(protocol) for each in last)
    for each in _phases(store, first, last):
        if not store.has(each):
            on_unit(each, min(done / whole, 1.0))
            store.get(each)
        done += each.cost(protocol)


def _phases(store: Store, first: list[Unit], last: list[Unit]) -> Iterator[Unit]:
    seen: set[Unit] = set()
    yield from first
    seen.update(first)
    for model in MODELS:  # the scales of these are known only now
        for row in of_model(model):
            other = beside(store.protocol, model, store.get(drawn(store.protocol, model, row)))
            if other not in seen:
                seen.add(other)
                yield other
    yield from (each for each in dict.fromkeys(last) if each not in seen)


def build(store: Store, out: Path, on_unit: OnUnit = lambda unit, share: None) -> list[Path]:
    """Draw what is missing; write `gallery/` with pages, pictures and data, and `choosing.md`; return the files.

    Args:
        store: keeps what is drawn.
        out: an existing folder.
        on_unit: called before each unit that is drawn.

    Raises:
        ConfigurationError: something cannot be written.
    """
    draw_all(store, on_unit)
    folder = out / FOLDER
    files = [_written(folder / "data" / f"{name}.json", _json(each)) for name, each in data_of(store).items()]
    files += _pictures(store, folder / "pictures")
    return files + write_pages(out)


def write_pages(out: Path) -> list[Path]:
    """Write the pages from the data beside them; return the files.

    Raises:
        ConfigurationError: something cannot be read or written.
    """
    folder = out / FOLDER
    data = read_data(folder / "data")
    texts = {folder / name: text for name, text in pages.written(data).items()}
    texts[out / "choosing.md"] = choosing.written(data)
    return [_written(path, text) for path, text in texts.items()]


def read_data(folder: Path) -> dict[str, Any]:
    """Return the data of a gallery by name: `gallery`, and one for each method.

    Raises:
        ConfigurationError: there is none, or it cannot be read.
    """
    try:
        found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the data in {folder} cannot be read: {error}.") from None
    if "gallery" not in found:
        raise ConfigurationError(f"there is no gallery in {folder}; run guidance-core gallery.")
    return found


def data_of(store: Store) -> dict[str, Any]:
    """Return everything that the pages say, as plain data: `gallery`, and one for each method."""
    protocol, scoring = store.protocol, Scoring(store)
    methods: dict[str, dict[str, Any]] = {
        row.method: {"method": row.method, "rows": [], "sweeps": []} for row in ENTRIES
    }
    for row in ENTRIES:
        own = methods[row.method]
        own["rows"] += [
            {"model": model, **scoring.compared(model, row), "picture": _picture(model, row)} for model in row.models
        ]
        sweep = scoring.swept(row)
        if sweep is not None:
            picture = f"pictures/{row.name}-sweep.png" if sweep["model"] == LETTERS else None
            own["sweeps"].append({"name": row.name, **sweep, "picture": picture})
    about = {
        "version": __version__,
        "protocol": protocol.to_dict(),
        "sizes": {model: size_of(protocol, model) for model in MODELS},
        "order": [row.name for row in ENTRIES],
        "unguided": {model: scoring.unguided(model) for model in MODELS},
        "controls": [
            {"model": model, **scoring.compared(model, row), "picture": _picture(model, row)}
            for row in CONTROLS
            for model in row.models
        ],
        "unshown": dict(UNSHOWN),
    }
    return {"gallery": about, **methods}


def _picture(model: str, row: Entry) -> str | None:
    return {LETTERS: f"pictures/{row.name}.png", MIXTURE: f"pictures/{row.name}-mixture.png"}.get(model)


def _pictures(store: Store, folder: Path) -> list[Path]:
    """Draw the letters of each row beside plain cfg, the points likewise, and the sweeps."""
    files = []
    for row in (*ENTRIES, *CONTROLS):
        for model in row.models:
            if model == KEYPAD:
                continue
            own = drawn(store.protocol, model, row)
            found = store.get(own)
            fair = is_fair(model, found)
            other = beside(store.protocol, model, found) if fair else unit(store.protocol, model, USUAL)
            shown = [(_label(other, own), store.get(other)), (row.stack, found)]
            path = folder / Path(str(_picture(model, row))).name
            if model == LETTERS:
                letters_strip(shown, path)
            else:
                mixture_panels(shown, path)
            files.append(path)
        if row.sweep is not None and row.models[0] == LETTERS:
            stacks = [(each.stack or "no guidance", store.get(each)) for each in sweep_units(store.protocol, row)]
            letters_strip(stacks, folder / f"{row.name}-sweep.png")
            files.append(folder / f"{row.name}-sweep.png")
    nothing = store.get(unit(store.protocol, LETTERS, ""))
    letters_strip([("no guidance", nothing)], folder / "none.png")
    return [*files, folder / "none.png"]


def _label(other: Unit, own: Unit) -> str:
    steps = f", {other.steps} steps" if other.steps != own.steps else ""
    return (other.stack or "no guidance") + steps


def _json(data: Any) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def _written(path: Path, text: str) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror or error}.") from None
    return path
