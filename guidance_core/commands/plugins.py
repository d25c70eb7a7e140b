"""`guidance-core plugins`."""

from __future__ import annotations

from typing import Any

import attrs
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from guidance_core.commands.options import AsJson, print_json
from guidance_core.config.tables import encode
from guidance_core.describe import shown
from guidance_core.discovery import PLUGINS, find_plugins
from guidance_core.errors import GuidanceError
from guidance_core.parameters.values import UNSET


def plugins(as_json: AsJson = False) -> None:
    """List the installed methods: name, version, distribution, parameters, and what failed to load."""
    found = [_plugin_row(each) for each in find_plugins()]
    if as_json:
        print_json({"group": PLUGINS, "plugins": found})
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
    if isinstance(value, attrs.Factory) and not value.takes_self:  # type: ignore[arg-type]
        value = value.factory()
    try:
        return str(value) if value is UNSET else encode(value, "default")
    except GuidanceError:
        return str(value)
