"""`guidance-core sample`: what the embedded models draw, with and without guidance."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table

from guidance_core.commands.extras import check_extra, check_package
from guidance_core.commands.options import SPEC, AsJson, print_json
from guidance_core.commands.sample_keypad import SPEC as KEYPAD_SPEC
from guidance_core.commands.sample_keypad import show_clips
from guidance_core.commands.sample_mixture import SPECS as MIXTURE_SPECS
from guidance_core.commands.sample_mixture import show_clouds
from guidance_core.commands.scored import as_data, score_table
from guidance_core.errors import ConfigurationError, brief, suggest

if TYPE_CHECKING:
    from guidance_core.models.demo import PictureDemo
    from guidance_core.models.drawing import Drawing

LETTERS, DIGITS, KEYPAD, MIXTURE = "letters", "digits", "keypad", "mixture"
MODELS = (LETTERS, DIGITS, KEYPAD, MIXTURE)

SHARES = ("character", "typeface", "saturation")
"Scores that are shares."


def sample(
    model: Annotated[
        str,
        typer.Option(
            help="What draws: letters, in many typefaces; digits, handwritten; keypad, which makes clips of picture "
            "and sound; or mixture, samples in the plane whose densities are known."
        ),
    ] = LETTERS,
    guidance: Annotated[
        list[str] | None, typer.Option("--guidance", "-g", help=f"{SPEC} Repeat it: each one is a row.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=100_000, help="Number of Euler steps.")] = 25,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Seed of the noise; all rows start from the same.")
    ] = 0,
    characters: Annotated[
        str | None,
        typer.Option(help="For letters: the letters and digits to draw; a column for each."),
    ] = None,
    per_class: Annotated[
        int | None,
        typer.Option(
            "--per-class",
            "--per-digit",
            min=1,
            max=1000,
            help="Samples of each character or prompt to measure on; pictures show the first. "
            "If not given: 4 for letters, 500 for the mixture, 20 for the others.",
        ),
    ] = None,
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
    """Draw with an embedded model: a row for each --guidance, a column for each character or prompt.

    mixture draws a panel for each --guidance. keypad also writes an animation and a sound file for each row, beside the
    picture.
    """
    check_extra("demo")
    if model == MIXTURE:
        check_package("matplotlib")
    from guidance_core.models.demo import DigitsDemo, KeypadDemo, LettersDemo, MixtureDemo
    from guidance_core.models.grid import check_picture_path
    from guidance_core.models.keypad_clips import PROMPTS
    from guidance_core.models.letters_drawing import SHOWN

    if model not in MODELS:
        raise ConfigurationError(f"there is no model {brief(model)}.{suggest(model, MODELS)}")
    for option, given, its_model in (("--prompt", prompt, KEYPAD), ("--characters", characters, LETTERS)):
        if given is not None and model != its_model:
            raise ConfigurationError(f"{option} is for --model {its_model}; the model {model} has none.")
    usual = MIXTURE_SPECS if model == MIXTURE else ("", KEYPAD_SPEC if model == KEYPAD else "cfg:scale=3")
    specs = tuple(guidance or usual)
    settings = (specs, steps, seed, per_class, executor, ranks, trace)
    check_picture_path(out)
    if model == KEYPAD:
        keypad = KeypadDemo(*settings, prompts=tuple(prompt or PROMPTS))
        keypad.check()
        if rows := keypad.draw(_progress):
            show_clips(keypad, rows, out, as_json=as_json)
    elif model == MIXTURE:
        mixture = MixtureDemo(*settings)
        mixture.check()
        if clouds := mixture.draw(_progress):
            show_clouds(mixture, clouds, out, as_json=as_json)
    else:
        pictures = (
            LettersDemo(*settings, characters=SHOWN if characters is None else characters)
            if model == LETTERS
            else DigitsDemo(*settings)
        )
        pictures.check()
        if drawings := pictures.draw(_progress):
            _show(model, pictures, drawings, out, as_json=as_json)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int], Callable[[], object]]]:
    with Progress(console=Console(stderr=True), transient=True) as progress:
        yield lambda spec, steps: partial(progress.advance, progress.add_task(spec or "no guidance", total=steps))


def _show(model: str, demo: PictureDemo, drawings: list[Drawing], out: Path, *, as_json: bool) -> None:
    """Write the picture and print what was measured."""
    from guidance_core.models.grid import save_grid

    save_grid(drawings, demo.specs, out)
    rows = [
        {
            "guidance": spec,
            "passes_per_step": drawing.passes_per_step,
            "seconds": round(drawing.seconds, 3),
            "accuracy": round(drawing.accuracy, 4),
            **({"scores": as_data(drawing.scores)} if drawing.scores else {}),
            **({} if drawing.trace is None else {"trace": drawing.trace.to_dict()["steps"]}),
        }
        for spec, drawing in zip(demo.specs, drawings, strict=True)
    ]
    count = len(drawings[0].images)
    if as_json:
        settings = {
            "model": model,
            "steps": demo.steps,
            "seed": demo.seed,
            "samples": count,
            "executor": demo.chosen,
        }
        print_json({**settings, "picture": str(out), "rows": rows})
        return
    table = Table("", _specs(), "passes per step", "seconds", "accuracy")
    for number, row in enumerate(rows, 1):
        spec = str(row["guidance"]) or "none"
        table.add_row(
            str(number), spec, f"{row['passes_per_step']:.2f}", f"{row['seconds']:.2f}", f"{row['accuracy']:.1%}"
        )
    console = Console()
    for spec, drawing in zip(demo.specs, drawings, strict=True):
        if drawing.trace is not None:
            print(f"{spec or 'no guidance'}, means over {count} images\n{drawing.trace}\n")
    console.print(table)
    console.print(f"accuracy: share of {count} images that an independent classifier reads as asked for")
    if drawings[0].scores:
        numbers = map(str, range(1, len(drawings) + 1))
        console.print(score_table([drawing.scores for drawing in drawings], SHARES, numbers))
        console.print(
            "With half of the 95 % intervals. character, typeface: share read as asked for; distance: "
            "Fréchet distance from real letters in the classifier's features; diversity: of the pictures of one "
            "character; saturation: share of values outside the range; sharpness: root mean square of the Laplacian"
        )
    console.print(f"picture: {out}", soft_wrap=True)


def _specs() -> Column:
    return Column("guidance", overflow="fold")
