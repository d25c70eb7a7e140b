"""`guidance-core sample`: what the embedded models draw, with and without guidance."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from guidance_core.commands.extras import check_extra, check_package
from guidance_core.commands.options import SPEC, AsJson, Console, print_json
from guidance_core.commands.sample_keypad import SPEC as KEYPAD_SPEC
from guidance_core.commands.sample_keypad import show_clips
from guidance_core.commands.sample_mixture import SPECS as MIXTURE_SPECS
from guidance_core.commands.sample_mixture import show_clouds
from guidance_core.commands.sample_page import Page, command_line, show_measured, write_page
from guidance_core.commands.scored import Measured, Row
from guidance_core.commands.sweep import Sweep
from guidance_core.commands.terminal import is_quiet
from guidance_core.errors import ConfigurationError, brief, shortened, suggest

if TYPE_CHECKING:
    from guidance_core.models.demo import PictureDemo
    from guidance_core.models.drawing import Drawing

LETTERS, KEYPAD, MIXTURE = "letters", "keypad", "mixture"
MODELS = (LETTERS, KEYPAD, MIXTURE)

GRID, STEPS = "grid", "steps"
VIEWS = (GRID, STEPS)

SHARES = frozenset({"character", "typeface", "saturation"})
"Scores that are shares."


def sample(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Option(
            help="What draws: letters, in many typefaces; keypad, which makes clips of picture and sound; or mixture, "
            "samples in the plane whose densities are known."
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
            "If not given: 4 for letters, 500 for mixture, 20 for keypad.",
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt",
            help="For keypad: a pattern and a tempo, such as 'rising, quick'. Repeat it: each is a column, "
            "of which pictures show the first three.",
        ),
    ] = None,
    ranks: Annotated[
        int, typer.Option(help="Processes to spread the passes over; under torchrun, its ranks are used.")
    ] = 1,
    executor: Annotated[
        str,
        typer.Option(
            help="What runs the passes: serial, batched, auto; with several ranks all_gather or all_reduce. "
            "If not given: serial for one process, all_gather for several."
        ),
    ] = "",
    out: Annotated[
        Path,
        typer.Option(help="Where to write the picture. The folder out is created; any other folder must exist."),
    ] = Path("out/sample.png"),
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            help="Draw each stack once for each value of a parameter, one row per value: --sweep cfg.scale=1,2,4,8, or "
            "scale=1,2 if only one method has it. Stacks without a method stay as they are. If no -g is given: no "
            "guidance and the swept method."
        ),
    ] = None,
    view: Annotated[
        str,
        typer.Option(
            help="grid: a column for each character. steps: for letters, the x0 that some steps "
            "lead to; a column for each step."
        ),
    ] = GRID,
    animate: Annotated[
        Path | None,
        typer.Option(
            help="Also write an animation, .gif or .webp: for letters, of x0 over the steps. keypad always "
            "animates its frames; this sets the file."
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Also write a self-contained page, .html, with pictures, sounds, numbers and the command line."
        ),
    ] = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Also show what each step did; with several ranks, on the first one.")
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
    from guidance_core.models.demo import KeypadDemo, LettersDemo, MixtureDemo
    from guidance_core.models.estimates import spread
    from guidance_core.models.estimates_views import COLUMNS, FRAMES
    from guidance_core.models.files import check_output
    from guidance_core.models.keypad_clips import PROMPTS
    from guidance_core.models.letters_drawing import SHOWN

    if model not in MODELS:
        raise ConfigurationError(f"there is no model {brief(model)}.{suggest(model, MODELS)}")
    if view not in VIEWS:
        raise ConfigurationError(f"there is no view {brief(view)}.{suggest(view, VIEWS)}")
    if animate is not None and model == MIXTURE:
        raise ConfigurationError(
            f"--animate is for --model {LETTERS} and {KEYPAD}; the picture of {model} has all steps."
        )
    for option, given, its_model in (
        ("--view steps", None if view == GRID else view, LETTERS),
        ("--prompt", prompt, KEYPAD),
        ("--characters", characters, LETTERS),
    ):
        if given is not None and model != its_model:
            raise ConfigurationError(f"{option} is for --model {its_model}; the model {model} has none.")
    usual = MIXTURE_SPECS if model == MIXTURE else ("", KEYPAD_SPEC if model == KEYPAD else "cfg:scale=3")
    swept = Sweep.of(sweep) if sweep else None
    specs = tuple(guidance or usual) if swept is None else swept.stacks(guidance or swept.usual())
    settings = (specs, steps, seed, per_class, executor, ranks, trace)
    outputs = (
        (out, "--out", (".png",)),
        (animate, "--animate", (".gif", ".webp")),
        (html, "--html", (".html", ".htm")),
    )
    for path, option, endings in outputs:
        if path is not None:
            check_output(path, option, endings)
    page = None if html is None else partial(write_page, html, command_line(context))
    watch = partial(_progress, len(specs), steps)
    if model == KEYPAD:
        keypad = KeypadDemo(*settings, prompts=tuple(prompt or PROMPTS))
        keypad.check()
        if rows := keypad.draw(watch):
            show_clips(keypad, rows, out, animate, page, as_json=as_json)
    elif model == MIXTURE:
        mixture = MixtureDemo(*settings)
        mixture.check()
        if clouds := mixture.draw(watch):
            show_clouds(mixture, clouds, out, page, as_json=as_json)
    else:
        keep = {*(spread(steps, COLUMNS) if view == STEPS else ()), *(spread(steps, FRAMES) if animate else ())}
        drawn = SHOWN if characters is None else characters
        pictures = LettersDemo(*settings, characters=drawn, keep=tuple(sorted(keep)))
        pictures.check()
        if drawings := pictures.draw(watch):
            files = _save(pictures, drawings, view, out, animate)
            _show(model, pictures, drawings, files, page, as_json=as_json)


@contextlib.contextmanager
def _progress(rows: int, steps: int) -> Iterator[Callable[[str, int], Callable[[], object]]]:
    """Show one bar for all rows, with the row that is being drawn and the time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, quiet=is_quiet()), transient=True) as progress:
        task = progress.add_task("", total=rows * steps)
        numbers = itertools.count(1)

        def announce(spec: str, _: int) -> Callable[[], object]:
            said = shortened(spec or "no guidance", 40).replace("[", r"\[")
            progress.update(task, description=f"row {next(numbers)} of {rows}: {said}")
            return partial(progress.advance, task)

        yield announce


def _save(
    demo: PictureDemo, drawings: list[Drawing], view: str, out: Path, animation: Path | None
) -> list[tuple[str, Path]]:
    """Write the picture and the animation; return what they are, and where."""
    from guidance_core.models.estimates_views import save_animation, save_steps
    from guidance_core.models.grid import save_grid

    made = f"{demo.steps} steps, seed {demo.seed}"
    if view == STEPS:
        save_steps(drawings, demo.specs, out, f"what a step takes the result for, x0, of the first picture; {made}")
    else:
        save_grid(drawings, demo.specs, out, f"the first picture of each character; {made}")
    if animation is None:
        return [("picture", out)]
    save_animation(drawings, demo.specs, animation, f"what the step takes the result for, x0; {made}")
    return [("picture", out), ("animation", animation)]


def _show(
    model: str,
    demo: PictureDemo,
    drawings: list[Drawing],
    files: list[tuple[str, Path]],
    page: Page | None,
    *,
    as_json: bool,
) -> None:
    """Print what was measured and written, and write the page of it."""
    count = len(drawings[0].images)
    measured = Measured(
        [
            Row(spec, drawing.passes_per_step, drawing.seconds, drawing.scores, drawing.trace)
            for spec, drawing in zip(demo.specs, drawings, strict=True)
        ],
        {name: name for name in drawings[0].scores},
        SHARES,
        f"Pictures in a row: {count}. character, typeface: share that an independent classifier reads as asked for; "
        "distance: Fréchet distance from real letters in the classifier's features, which falls with the number of "
        "pictures, so compare rows of one command only; diversity: of the pictures of one character; saturation: share "
        "of values more than 0.1 outside [-1, 1], where burning shows; sharpness: root mean square of the Laplacian. "
        "Better: more character and typeface, less distance and saturation. Diversity and sharpness only describe.",
    )
    settings = {
        "model": model,
        "steps": demo.steps,
        "seed": demo.seed,
        "samples": count,
        "executor": demo.chosen,
    }
    if page is not None:
        files = [*files, ("page", page(settings, measured, files))]
    if as_json:
        rows = [
            {**row, "accuracy": round(drawing.accuracy, 4)}
            for row, drawing in zip(measured.as_data(), drawings, strict=True)
        ]
        print_json({**settings, **{kind: str(path) for kind, path in files}, "rows": rows})
        return
    show_measured(measured, f"{count} pictures", files)
