"""`guidance-core gallery`: every method drawn and measured, as pages."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from guidance_core.commands.extras import check_extra
from guidance_core.commands.options import AsJson, Console, print_json
from guidance_core.commands.terminal import is_quiet
from guidance_core.errors import ConfigurationError, UnguidedWarning

if TYPE_CHECKING:
    from guidance_core.gallery.work import Unit

OUT = Path("out")
"Made if it is missing; other folders must exist."


def gallery(
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer samples and steps: a few minutes, and wider intervals.")
    ] = False,
    out: Annotated[
        Path,
        typer.Option(
            help="An existing folder for gallery/ and choosing.md. Only the default one is created if missing."
        ),
    ] = OUT,
    work: Annotated[
        Path, typer.Option(help="Where finished units of work are kept, from which the same command continues.")
    ] = Path("out/gallery-work"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Draw everything again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Draw and measure every method beside plain cfg, and write pages with pictures and data.

    It first prints how long it will take. You can interrupt it at any time: the same command continues.
    """
    check_extra("demo")
    import torch

    from guidance_core.gallery.build import build, seconds_left
    from guidance_core.gallery.protocol import FULL, QUICK
    from guidance_core.gallery.work import Store

    _check_folder(out)
    torch.set_num_threads(1)  # more get in each other's way in models this small
    store, console = Store(work, QUICK if quick else FULL), Console(stderr=True, quiet=is_quiet())
    if fresh:
        store.clear()
    console.print(
        f"the gallery takes about {_minutes(seconds_left(store))} here; units of work are kept in {store.folder}"
    )
    start = time.perf_counter()
    with _bar(console) as progress:
        task = progress.add_task("", total=1.0)

        def on_unit(unit: Unit, share: float) -> None:
            progress.update(task, completed=share, description=f"{unit.model} {unit.stack or 'no guidance'}"[:60])

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnguidedWarning)  # windows of some entries hold none of the quick steps
            files = build(store, out, on_unit)
        progress.update(task, completed=1.0, description="written")
    if as_json:
        print_json({"files": [str(path) for path in files], "seconds": round(time.perf_counter() - start, 1)})
        return
    print(f"{len(files)} files; begin with {out / 'gallery' / 'index.md'}")


def _check_folder(out: Path) -> None:
    """Raise `ConfigurationError` unless pages can be written there, before anything is drawn."""
    if out == OUT:
        out.mkdir(exist_ok=True)
    if not out.is_dir():
        raise ConfigurationError(f"there is no folder {out}; make it, or choose another --out.")
    if not os.access(out, os.W_OK):
        raise ConfigurationError(f"the folder {out} cannot be written to; choose another --out.")


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True)


def _minutes(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} minutes"
