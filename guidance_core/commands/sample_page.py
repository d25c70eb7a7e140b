"""`--html`: a page that stands alone, with all that `guidance-core sample` drew, measured and was asked for."""

from __future__ import annotations

import base64
import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

import torch
import typer

from guidance_core.commands.options import Console
from guidance_core.commands.scored import Measured
from guidance_core.models.files import writing
from guidance_core.version import __version__

KINDS = {".png": "image/png", ".gif": "image/gif", ".webp": "image/webp", ".wav": "audio/wav"}
"What browsers call files, by their endings."
WIDEST = 1000
"Columns that no table reaches."
Files: TypeAlias = Sequence[tuple[str, Path]]
"What was written, each with its kind."
Page: TypeAlias = Callable[[Mapping[str, Any], Measured, Files], Path]
"Writes the page of how it was drawn, what was measured and what was written; returns its path."
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#222}"
    "img{max-width:100%}table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .7rem;text-align:right;"
    "border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}code,pre{font-family:ui-monospace,"
    "monospace;overflow-wrap:anywhere;white-space:pre-wrap}.wide{overflow-x:auto}"
)


def command_line(context: typer.Context) -> str:
    """Return the command that asks for what the context holds: every option that was given, as one types it."""
    words = ["guidance-core", context.info_name or ""]
    for option in context.command.params:
        name = option.name or ""
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE":
            continue
        given, spelt = context.params[name], max(option.opts, key=len)
        for value in given if isinstance(given, list) else [given]:
            words += [spelt] if value is True else [spelt, str(value)]
    return shlex.join(words)


def write_page(path: Path, command: str, settings: Mapping[str, Any], measured: Measured, files: Files) -> Path:
    """Write the page and return its path; pictures and sounds are inside it, and it asks nothing of the network.

    Args:
        path: where to write.
        command: the command line.
        settings: how it was drawn, by name.
        measured: what was measured.
        files: what was written, each with what stands above it.

    Raises:
        ConfigurationError: the path cannot be written.
    """
    parts = [
        "<!DOCTYPE html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>guidance-core sample</title><style>{STYLE}</style></head>',
        f"<body><h1>guidance-core sample</h1><pre>{escape(command)}</pre>",
        *(_shown(title, file) for title, file in files),
        measured.html(),
        f"<p>{escape(_settings(settings))}</p><p>{escape(_versions())}</p></body></html>",
    ]
    with writing(path):
        path.write_text("\n".join(parts), encoding="utf-8")
    return path


def show_measured(measured: Measured, means_over: str, files: Files) -> None:
    """Print the traces, what was measured, and the files that were written."""
    for row in measured.rows:
        if row.trace is not None:
            print(f"{row.name}, means over {means_over}\n{row.trace}\n")
    console = Console()
    table = measured.table()
    if console.measure(table, options=console.options.update(max_width=WIDEST)).maximum <= console.width:
        console.print(table)
    else:
        print(measured.lines())
    for number, row in enumerate(measured.rows, 1):
        console.print(f"{number}: {row.name}", soft_wrap=True, markup=False)
    console.print(measured.legend, markup=False)
    for kind, path in files:
        console.print(f"{kind}: {path}", soft_wrap=True, markup=False)


def _shown(title: str, file: Path) -> str:
    kind = KINDS[file.suffix.lower()]
    url = f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
    name = escape(title, quote=True)
    if kind.startswith("audio"):
        return f'<p><code>{name}</code><br><audio controls src="{url}"></audio></p>'
    return f'<h2>{name}</h2><p class="wide"><img alt="{name}" src="{url}"></p>'


def _settings(settings: Mapping[str, Any]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in settings.items())


def _versions() -> str:
    found = [f"guidance-core {__version__}", f"torch {torch.__version__}"]
    for package in ("numpy", "pillow", "matplotlib"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join([*found, f"Python {platform.python_version()}", platform.platform()])
