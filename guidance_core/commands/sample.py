"""`guidance-core sample`: what the embedded models draw, with and without guidance."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from guidance_core.commands.extras import check_extra
from guidance_core.commands.options import SPEC, AsJson, Console, print_json
from guidance_core.commands.sample_keypad import SPEC as KEYPAD_SPEC
from guidance_core.commands.sample_keypad import show_clips
from guidance_core.commands.terminal import is_quiet
from guidance_core.errors import ConfigurationError, brief, suggest

if TYPE_CHECKING:
    from guidance_core.models.demo import DigitsDemo
    from guidance_core.models.drawing import Drawing

MODELS = ("digits", "keypad")


def sample(
    model: Annotated[
        str, typer.Option(help="What draws: digits; or keypad, which makes clips of picture and sound.")
    ] = "digits",
    guidance: Annotated[
        list[str] | None, typer.Option("--guidance", "-g", help=f"{SPEC} Repeat it: each one is a row.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=100_000, help="Number of Euler steps.")] = 25,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Seed of the noise; all rows start from the same.")
    ] = 0,
    per_class: Annotated[
        int,
        typer.Option(
            "--per-class", "--per-digit", min=1, max=1000, help="Samples of each digit or prompt to measure on."
        ),
    ] = 20,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", help="For keypad: a pattern and a tempo, such as 'rising, quick'. Repeat it: each is a column."
        ),
    ] = None,
    ranks: Annotated[
        int, typer.Option(help="Processes to spread the passes over; under torchrun its own ranks are used.")
    ] = 1,
    executor: Annotated[
        str,
        typer.Option(
            help="What runs the passes: serial, batched, auto; with several ranks all_gather or all_reduce. "
            "If not given: serial for one process, all_gather for several."
        ),
    ] = "",
    out: Annotated[Path, typer.Option(help="Where to write the picture.")] = Path("out/sample.png"),
    trace: Annotated[
        bool, typer.Option("--trace", help="Also show what each step did; of several ranks the first's.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Draw with an embedded model: a row for each --guidance, a column for each digit or prompt.

    keypad also writes an animation and a sound file for each row, beside the picture.
    """
    check_extra("demo")
    from guidance_core.models.demo import DigitsDemo, KeypadDemo
    from guidance_core.models.drawing import check_picture_path
    from guidance_core.models.keypad_clips import PROMPTS

    if model not in MODELS:
        raise ConfigurationError(f"there is no model {brief(model)}.{suggest(model, MODELS)}")
    if prompt and model != "keypad":
        raise ConfigurationError(f"--prompt is for --model keypad; the model {model} has none.")
    specs = tuple(guidance or (["", "cfg:scale=3"] if model == "digits" else ["", KEYPAD_SPEC]))
    settings = (specs, steps, seed, per_class, executor, ranks, trace)
    check_picture_path(out)
    if model == "digits":
        digits = DigitsDemo(*settings)
        digits.check()
        if drawings := digits.draw(_progress):
            _show(digits, drawings, out, as_json=as_json)
    else:
        keypad = KeypadDemo(*settings, prompts=tuple(prompt or PROMPTS))
        keypad.check()
        if rows := keypad.draw(_progress):
            show_clips(keypad, rows, out, as_json=as_json)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int], Callable[[], object]]]:
    with Progress(console=Console(stderr=True, quiet=is_quiet()), transient=True) as progress:
        yield lambda spec, steps: partial(progress.advance, progress.add_task(spec or "no guidance", total=steps))


def _show(demo: DigitsDemo, drawings: list[Drawing], out: Path, *, as_json: bool) -> None:
    """Write the picture and print what was measured."""
    from guidance_core.models.drawing import save_grid

    save_grid(drawings, demo.specs, out)
    rows = [
        {
            "guidance": spec,
            "passes_per_step": drawing.passes_per_step,
            "seconds": round(drawing.seconds, 3),
            "accuracy": round(drawing.accuracy, 4),
            **({} if drawing.trace is None else {"trace": drawing.trace.to_dict()["steps"]}),
        }
        for spec, drawing in zip(demo.specs, drawings, strict=True)
    ]
    count = 10 * demo.per_class
    if as_json:
        settings = {"steps": demo.steps, "seed": demo.seed, "samples": count, "executor": demo.chosen}
        print_json({**settings, "picture": str(out), "rows": rows})
        return
    table = Table("guidance", "passes per step", "seconds", "accuracy")
    for row in rows:
        table.add_row(
            str(row["guidance"]) or "none",
            f"{row['passes_per_step']:.2f}",
            f"{row['seconds']:.2f}",
            f"{row['accuracy']:.1%}",
        )
    console = Console()
    for spec, drawing in zip(demo.specs, drawings, strict=True):
        if drawing.trace is not None:
            print(f"{spec or 'no guidance'}, means over {count} images\n{drawing.trace}\n")
    console.print(table)
    console.print(f"accuracy: share of {count} images that an independent classifier reads as asked for")
    console.print(f"picture: {out}", soft_wrap=True)
