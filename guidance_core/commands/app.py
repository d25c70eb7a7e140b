"""The commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from guidance_core.commands.bench import bench_app
from guidance_core.commands.check import check
from guidance_core.commands.convert import convert
from guidance_core.commands.describe import describe
from guidance_core.commands.gallery import gallery
from guidance_core.commands.new import new
from guidance_core.commands.plugins import plugins
from guidance_core.commands.recipes import recipes_app
from guidance_core.commands.sample import sample
from guidance_core.version import __version__

app = typer.Typer(
    help="Diffusion guidance: methods are plugins, execution is a backend.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (plugins, describe, sample, gallery, check, convert, new):
    app.command()(command)
app.add_typer(recipes_app, name="recipes")
app.add_typer(bench_app, name="bench")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"guidance-core {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take what is not about one command."""
