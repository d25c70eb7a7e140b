"""The command `guidance-core`. Needs the extra `cli`."""

from __future__ import annotations

import importlib
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import attrs

from guidance_core.discovery import PLUGINS, find_plugins
from guidance_core.errors import ConfigurationError, GuidanceError, RankLostError
from guidance_core.guidance import Guidance
from guidance_core.parameters.values import UNSET

try:
    import typer
    from rich.console import Console
    from rich.markup import escape
    from rich.padding import Padding
    from rich.progress import Progress
    from rich.table import Table
    from rich.text import Text

    from guidance_core.commands.check import check
except ImportError as error:  # pragma: no cover
    raise SystemExit(
        f"guidance-core needs the extra 'cli' ({error.name} is missing): pip install 'guidance-core[cli]'"
    ) from None

from guidance_core.commands.new import new

app = typer.Typer(
    help="Diffusion guidance: methods are plugins, execution is a backend.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
bench_app = typer.Typer(help="Measure the library against its peers and its floor.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")
app.command(name="check")(check)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
_SPEC = "Methods in one line, such as 'cfg:scale=3,rescale:phi=0.7'. Empty: no guidance."


def _print_version(wanted: bool) -> None:
    if wanted:
        from guidance_core import __version__

        print(f"guidance-core {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Take what is not about one command."""


EXTRAS = {
    "numpy": "demo",
    "PIL": "demo",
    "safetensors": "demo",
    "diffusers": "hosts",
    "hypothesis": "testing",
    "pytest": "testing",
}
"The extra that brings each optional package a command imports."


def main() -> None:
    """Run the command; an error of the library is one line on stderr and exit status 2."""
    try:
        app()
    except GuidanceError as error:
        print(f"error: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        print(f"error: {_lacking(package)}", file=sys.stderr)
    else:
        return
    raise SystemExit(2)


def _lacking(package: str) -> str:
    extra = EXTRAS[package]
    return f"this command needs the extra {extra!r} ({package} is missing): pip install 'guidance-core[{extra}]'"


def _check_extra(extra: str) -> None:
    """Raise `ConfigurationError` unless the packages of an extra are there, before any process starts."""
    for package in (package for package, brings in EXTRAS.items() if brings == extra):
        try:
            importlib.import_module(package)
        except ModuleNotFoundError:
            raise ConfigurationError(_lacking(package)) from None


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=2))


@app.command()
def plugins(as_json: AsJson = False) -> None:
    """List the installed methods: name, version, distribution, parameters, and what failed to load."""
    found = [_plugin_row(each) for each in find_plugins()]
    if as_json:
        _print_json({"group": PLUGINS, "plugins": found})
        return
    console = Console()
    for row in found:
        origin = f"{row['distribution']} {row['version']}".strip()
        summary = escape(row["summary"] or "")
        console.print(f"[bold]{row['name']}[/bold]  {summary}  [dim]({escape(origin)})[/dim]", highlight=False)
        if row["failure"]:
            console.print(f"  [red]not loaded:[/red] {escape(row['failure'])}", highlight=False)
        if row["parameters"]:
            console.print(_parameter_grid(row["parameters"]))
    if not found:
        console.print("No plugins: autoload is switched off.")


def _parameter_grid(parameters: list[dict[str, Any]]) -> Padding:
    from guidance_core.describe import shown

    grid = Table.grid(padding=(0, 1))
    grid.add_column(min_width=26, overflow="fold")
    grid.add_column(style="dim")
    for parameter in parameters:
        default = "required" if parameter["required"] else shown(parameter["default"])
        options = ", ".join(map(shown, parameter.get("options", ())))
        about = parameter["help"] + (f" [{options}]" if options else "")
        grid.add_row(Text(f"{parameter['name']}={default}"), Text(about.strip()))
    return Padding(grid, (0, 0, 0, 2), expand=False)


def _plugin_row(found: Any) -> dict[str, Any]:
    parameters = []
    summary = None
    if found.loaded is not None and attrs.has(found.loaded):
        summary = (found.loaded.__doc__ or "").strip().partition("\n")[0]
        parameters = [_parameter_row(field) for field in attrs.fields(found.loaded) if field.init]
    return {
        "name": found.name,
        "version": found.version,
        "distribution": found.distribution,
        "target": found.target,
        "summary": summary,
        "parameters": parameters,
        "failure": found.failure,
    }


def _parameter_row(field: attrs.Attribute[Any]) -> dict[str, Any]:
    """Return what is known of a parameter; without `default` where it is required."""
    required = field.default is attrs.NOTHING
    row = {"name": field.name, "required": required}
    if not required:
        row["default"] = _default(field.default)
    if "options" in field.metadata:
        row["options"] = list(field.metadata["options"])
    return {**row, "help": field.metadata.get("help", "")}


def _default(value: Any) -> Any:
    """Return a default as data, or as text where it is none."""
    from guidance_core.config.tables import encode

    if isinstance(value, attrs.Factory) and not value.takes_self:  # type: ignore[arg-type]
        value = value.factory()
    try:
        return str(value) if value is UNSET else encode(value, "default")
    except GuidanceError:
        return str(value)


@app.command()
def describe(
    spec: Annotated[str, typer.Argument(help=_SPEC)],
    steps: Annotated[int, typer.Option(help="Number of steps of the run to describe.")] = 30,
    outputs: Annotated[str, typer.Option(help="Names of the outputs, such as video,audio.")] = "",
    ranks: Annotated[int, typer.Option(min=1, help="Also show which of so many ranks runs what.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Show what a stack will do: passes per step, who asked for each, where each value came from."""
    names = [name.strip() for name in outputs.split(",")] if outputs else None
    description = Guidance.from_spec(spec).describe(steps, outputs=names, ranks=ranks)
    if as_json:
        _print_json(description.to_dict())
    else:
        print(description)


@app.command()
def sample(
    guidance: Annotated[
        list[str] | None, typer.Option("--guidance", "-g", help=f"{_SPEC} Repeat it: each one is a row.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Number of Euler steps.")] = 25,
    seed: Annotated[int, typer.Option(help="Seed of the noise; all rows start from the same.")] = 0,
    per_digit: Annotated[int, typer.Option(min=1, help="Images of each digit to measure the accuracy on.")] = 20,
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
    as_json: AsJson = False,
) -> None:
    """Draw handwritten digits with the embedded model: a row for each --guidance, a column for each digit."""
    _check_extra("demo")
    from guidance_core.commands import launch
    from guidance_core.models.drawing import check_one_output, check_picture_path

    started = launch.torchrun_size()
    launch.check_ranks(ranks)
    if started is not None and ranks not in (1, started):
        raise ConfigurationError(f"torchrun started {started} ranks, so --ranks {ranks} cannot be had; leave it out.")
    size = started or ranks
    chosen = executor or ("all_gather" if size > 1 else "serial")
    launch.check_executor(chosen, size)
    check_picture_path(out)
    specs = tuple(guidance or ["", "cfg:scale=3"])
    job = Job(specs, steps, seed, per_digit, chosen, out, as_json)
    for spec in specs:
        check_one_output(Guidance.from_spec(spec))  # what is wrong with it is said before any process starts
    if started is not None:
        raise SystemExit(_on_rank(int(os.environ["RANK"]), started, None, job))
    if ranks > 1:
        raise SystemExit(launch.run_ranks(_on_rank, ranks, job))
    launch.use_one_thread()
    _draw(job, is_first=True)


@attrs.frozen
class Job:
    """What `sample` was asked to do."""

    specs: tuple[str, ...]
    steps: int
    seed: int
    per_digit: int
    executor: str
    out: Path
    as_json: bool


def _on_rank(rank: int, size: int, store: str | None, job: Job) -> int:
    """Do the job as one of several ranks; the first one writes and prints."""
    from guidance_core.commands import launch

    try:
        with launch.group(rank, size, store):
            _draw(job, is_first=rank == 0)
    except GuidanceError as error:
        if rank == 0 or isinstance(error, RankLostError):
            print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _draw(job: Job, *, is_first: bool) -> None:
    from guidance_core.models.drawing import draw_digits, save_grid

    drawings = []
    with Progress(console=Console(stderr=True), transient=True, disable=not is_first) as progress:
        for spec in job.specs:
            task = progress.add_task(spec or "no guidance", total=job.steps)
            drawings.append(
                draw_digits(
                    Guidance.from_spec(spec),
                    steps=job.steps,
                    per_digit=job.per_digit,
                    seed=job.seed,
                    executor=job.executor,
                    on_step=partial(progress.advance, task),
                )
            )
    if not is_first:
        return
    save_grid(drawings, job.specs, job.out)
    rows = [
        {
            "guidance": spec,
            "passes_per_step": drawing.passes_per_step,
            "seconds": round(drawing.seconds, 3),
            "accuracy": round(drawing.accuracy, 4),
        }
        for spec, drawing in zip(job.specs, drawings, strict=True)
    ]
    count = 10 * job.per_digit
    if job.as_json:
        settings = {"steps": job.steps, "seed": job.seed, "samples": count, "executor": job.executor}
        _print_json({**settings, "picture": str(job.out), "rows": rows})
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
    console.print(table)
    console.print(f"accuracy: share of {count} images that an independent classifier reads as asked for")
    console.print(f"picture: {job.out}", soft_wrap=True)


app.command()(new)


@bench_app.command("dispatch")
def bench_dispatch(
    rounds: Annotated[int, typer.Option(min=10, help="Steps to time of each.")] = 2000,
    as_json: AsJson = False,
) -> None:
    """Time one step with a model that costs nothing, [1, 16, 8], one thread."""
    from guidance_core.bench import dispatch

    _report(dispatch.measure(rounds), as_json)


@bench_app.command("combine")
def bench_combine(
    rounds: Annotated[int, typer.Option(min=3, help="Steps to time of each.")] = 7, as_json: AsJson = False
) -> None:
    """Time LTX-2's combination of four branches with rescale, one thread, against written-out formulas."""
    from guidance_core.bench import combine

    _report(combine.measure(rounds), as_json)


@bench_app.command("parallel")
def bench_parallel(
    rounds: Annotated[int, typer.Option(min=2, help="Steps to time of each.")] = 15, as_json: AsJson = False
) -> None:
    """Time and count LTX-2's branches on several ranks, one thread each, against serial and the engines' dispatch."""
    from guidance_core.bench import parallel

    _report(parallel.measure(rounds), as_json)


def _report(report: Any, as_json: bool) -> None:
    if as_json:
        _print_json(report.to_dict())
    else:
        print(report)
