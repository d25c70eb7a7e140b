"""The commands, put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from guidance_core.commands.bench import bench_app
from guidance_core.commands.check import check
from guidance_core.commands.command import GuidanceGroup, add_command
from guidance_core.commands.convert import convert
from guidance_core.commands.dashboard import dashboard
from guidance_core.commands.describe import describe
from guidance_core.commands.env import env
from guidance_core.commands.gallery import gallery
from guidance_core.commands.new import new
from guidance_core.commands.plugins import plugins
from guidance_core.commands.recipes import recipes_app
from guidance_core.commands.sample import sample
from guidance_core.commands.statuses import STATUSES
from guidance_core.version import __version__

COMMANDS: Mapping[Callable[..., None], tuple[str, ...]] = {
    plugins: ("guidance-core plugins", "guidance-core plugins cfg apg", "guidance-core plugins --json"),
    describe: (
        "guidance-core describe cfg:scale=3,rescale:phi=0.7",
        "guidance-core describe --recipe qwen-image --steps 50",
        "guidance-core describe @ltx-2.3 --ranks 4",
    ),
    sample: (
        "guidance-core sample",
        "guidance-core sample -g '' -g cfg:scale=3 -g apg:scale=4 --out out/letters.png",
        "guidance-core sample --sweep cfg.scale=1,2,4,8 --view steps",
        "guidance-core sample --model keypad --per-class 2",
        "guidance-core sample --model mixture --html out/mixture.html",
    ),
    gallery: ("guidance-core gallery --quick", "guidance-core gallery --out docs"),
    check: (
        "guidance-core check cfg",
        "guidance-core check my_module:MyMethod --param scale=4 --ranks 0",
        "guidance-core check --all --max-examples 5",
        "guidance-core check --executor all_gather",
    ),
    convert: ("guidance-core convert path/to/guider_config.json",),
    new: ("guidance-core new my-method", "guidance-core new my-method --kind correction --library '>=0.2'"),
    dashboard: (
        "guidance-core dashboard plugins.txt",
        "guidance-core dashboard plugins.txt --library . --json",
    ),
    env: ("guidance-core env", "guidance-core env --json"),
}
"Each command, with examples for its help."

app = typer.Typer(
    cls=GuidanceGroup,
    help="Diffusion guidance: methods are plugins, execution is a backend.",
    epilog="\n\n".join(
        [
            "guidance-core describe cfg:scale=3\nguidance-core sample -g cfg:scale=3\nguidance-core check cfg",
            "Exit status: " + "; ".join(f"{status} {what}" for status, what in STATUSES.items()) + ".",
            "`guidance-core COMMAND --help` shows examples of a command.",
        ]
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text: it fits every terminal and encoding, and can be copied
)
for _function, _examples in COMMANDS.items():
    add_command(app, _function, *_examples)
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
