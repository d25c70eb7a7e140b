"""`guidance-core plugins`."""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import attrs
import typer
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from guidance_core.commands.options import AsJson, Console, print_json
from guidance_core.config.tables import encode
from guidance_core.describe import shown
from guidance_core.discovery import EXECUTORS, PLUGINS, Found, find_executors, find_plugins
from guidance_core.errors import UnknownNameError, brief, suggest, told
from guidance_core.parameters.documented import parameters_of
from guidance_core.parameters.fields import ANY, Bounds
from guidance_core.parameters.values import UNSET


def plugins(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Show these methods and executors alone, in full.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the installed methods and executors: name, version, distribution, parameters, and what failed to load.

    With names: those alone, with their whole description.
    """
    with contextlib.redirect_stdout(sys.stderr):  # what modules print is not this command's answer
        found = {PLUGINS: find_plugins(), EXECUTORS: find_executors()}
        methods = [_plugin_row(each) for each in found[PLUGINS] if each.name]
        executors = [_row(each) for each in found[EXECUTORS] if each.name]
    wrong = dict.fromkeys(each for several in found.values() for each in several if not each.name)
    problems = [{"distribution": each.distribution, "version": each.version, "problem": each.failure} for each in wrong]
    if names:
        rows = [*methods, *executors]
        for name in names:
            if name not in {row["name"] for row in rows}:
                known = [*(row["name"] for row in rows)]
                raise UnknownNameError(f"there is no method and no executor {brief(name)}.{suggest(name, known)}")
        methods, executors = ([row for row in several if row["name"] in names] for several in (methods, executors))
        problems = []
    if as_json:
        print_json({"group": PLUGINS, "plugins": methods, "executors": executors, "problems": problems})
        return
    console = Console()
    for row in methods:
        _print_row(console, row, in_full=bool(names))
    if names:
        for row in executors:
            _print_row(console, row, in_full=True)
        return
    if not methods:
        console.print("No plugins: autoload is switched off.")
    console.print("\nexecutors")
    for row in executors:
        _print_row(console, row)
    for problem in problems:
        origin = f"{problem['distribution']} {problem['version']}".strip()
        console.print(f"[red]problem:[/red] {escape(origin)}: {escape(problem['problem'] or '')}", highlight=False)


def _print_row(console: Console, row: Mapping[str, Any], *, in_full: bool = False) -> None:
    origin = f"{row['distribution']} {row['version']}".strip() or "registered by this program"
    console.print(
        f"[bold]{escape(row['name'])}[/bold]  {escape(row['summary'] or '')}  [dim]({escape(origin)})[/dim]",
        highlight=False,
    )
    if row["failure"]:
        console.print(f"  [red]not loaded:[/red] {escape(row['failure'])}", highlight=False)
    if in_full and row["description"]:
        console.print()
        for paragraph in _paragraphs(row["description"]):
            console.print(paragraph)
    if row.get("parameters"):
        console.print(_parameter_grid(row["parameters"], console.width))


def _paragraphs(description: str) -> Iterator[Padding]:
    """Yield what a docstring says: prose as wide as the terminal; formulas, lists and tables line by line."""
    for paragraph in re.split(r"\n\s*\n", description):
        is_laid_out = any(line.startswith((" ", "- ", "* ", "|")) for line in paragraph.splitlines())
        text = textwrap.dedent(paragraph) if is_laid_out else " ".join(paragraph.split())
        yield Padding(Text(text), (0, 0, 1, 4 if paragraph.startswith(" ") else 2))


def _parameter_grid(parameters: list[dict[str, Any]], width: int) -> Padding:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(min_width=min(26, width // 3), overflow="fold")
    grid.add_column(style="dim", overflow="fold")
    for parameter in parameters:
        default = "required" if parameter["required"] else shown(parameter["default"])
        options = ", ".join(map(shown, parameter.get("options", ())))
        about = parameter["help"] + (f" [{options}]" if options else "")
        if "bounds" in parameter:
            about += f" (allowed: {parameter['bounds']})"
        grid.add_row(Text(f"{parameter['name']}={default}"), Text(about.strip()))
    return Padding(grid, (0, 0, 0, 2), expand=False)


def _plugin_row(found: Found) -> dict[str, Any]:
    row = _row(found)
    parameters = []
    if found.loaded is not None and attrs.has(found.loaded):
        try:
            parameters = [_parameter_row(field) for field in parameters_of(found.loaded)]
        except Exception as error:
            row["failure"] = f"its parameters cannot be read: {told(error)}"
    return {**row, "parameters": parameters, "failure": row.pop("failure")}


def _row(found: Found) -> dict[str, Any]:
    """Return what is known of a plugin or executor, without its parameters."""
    text = "" if found.loaded is None else inspect.cleandoc(found.loaded.__doc__ or "")
    summary, _, description = text.partition("\n")
    description = description.partition("\nArgs:")[0].strip("\n").rstrip()  # the parameters are listed
    return {
        "name": found.name,
        "version": found.version,
        "distribution": found.distribution,
        "target": found.target,
        "summary": None if found.loaded is None else summary,
        "description": description,
        "failure": found.failure,
    }


def _parameter_row(field: attrs.Attribute[Any]) -> dict[str, Any]:
    """Return what is known of a parameter; without `default` where it is required."""
    required = field.default is attrs.NOTHING
    row = {"name": field.name, "required": required}
    if not required:
        row["default"] = _default(field.default)
    options = field.metadata.get("options")
    if isinstance(options, tuple | list):
        row["options"] = [_as_data(option) for option in options]
    bounds = field.metadata.get("bounds")
    if isinstance(bounds, Bounds) and bounds != ANY:
        row["bounds"] = str(bounds)
    help = field.metadata.get("help", "")
    return {**row, "help": help if isinstance(help, str) else brief(help)}


def _default(value: Any) -> Any:
    """Return a default as data, or as text where it is none."""
    if isinstance(value, attrs.Factory) and not value.takes_self:  # type: ignore[arg-type]
        try:
            value = value.factory()
        except Exception as error:
            return f"(cannot be made: {told(error)})"
    return str(value) if value is UNSET else _as_data(value)


def _as_data(value: Any) -> Any:
    """Return a value as data, or as text where it is none."""
    try:
        return encode(value, "default")
    except Exception:
        return brief(value, written=str)
