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

from guidance_core.models.files import writing
from guidance_core.version import __version__

KINDS = {".png": "image/png", ".gif": "image/gif", ".webp": "image/webp", ".wav": "audio/wav"}
"What browsers call files, by their endings."
Page: TypeAlias = Callable[[Mapping[str, Any], Sequence[tuple[str, Path]]], Path]
"Writes the page of what `--json` prints and of what was written; returns its path."
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


def write_page(path: Path, command: str, data: Mapping[str, Any], files: Sequence[tuple[str, Path]]) -> Path:
    """Write the page and return its path; pictures and sounds are inside it, and it asks nothing of the network.

    Args:
        path: where to write.
        command: the command line.
        data: what `--json` prints: settings, and `rows` with their numbers.
        files: what was written, each with what stands above it.

    Raises:
        ConfigurationError: the path cannot be written.
    """
    parts = [
        "<!DOCTYPE html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>guidance-core sample</title><style>{STYLE}</style></head>',
        f"<body><h1>guidance-core sample</h1><pre>{escape(command)}</pre>",
        *(_shown(title, file) for title, file in files),
        _table(data["rows"]),
        f"<p>{escape(_settings(data))}</p><p>{escape(_versions())}</p></body></html>",
    ]
    with writing(path):
        path.write_text("\n".join(parts), encoding="utf-8")
    return path


def _shown(title: str, file: Path) -> str:
    kind = KINDS[file.suffix.lower()]
    url = f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
    name = escape(title, quote=True)
    if kind.startswith("audio"):
        return f'<p><code>{name}</code><br><audio controls src="{url}"></audio></p>'
    return f'<h2>{name}</h2><p class="wide"><img alt="{name}" src="{url}"></p>'


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the numbers of the rows, each with its interval where it has one."""
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in names)
    lines = ["".join(f"<td>{row.get(name, '')}</td>" for name in names) for row in flat]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<h2>Measured</h2><div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _flat(row: Mapping[str, Any]) -> dict[str, str]:
    found = {"guidance": f"<code>{escape(str(row['guidance']) or 'no guidance')}</code>"}
    for name, value in row.items():
        if name == "scores":
            found |= {score: _number(number) for score, number in value.items()}
        elif isinstance(value, int | float | Mapping):
            found[name] = _number(value)
    return found


def _number(value: Any) -> str:
    if isinstance(value, Mapping):
        low, high = value["interval"]
        known = "–" if value["value"] is None else f"{value['value']:.4g}"
        return known if low is None else f"{known} [{low:.4g}, {high:.4g}]"
    return f"{value:.4g}"


def _settings(data: Mapping[str, Any]) -> str:
    said = ("model", "steps", "seed", "samples", "executor")
    return "; ".join(f"{name}: {data[name]}" for name in said if name in data)


def _versions() -> str:
    found = [f"guidance-core {__version__}", f"torch {torch.__version__}"]
    for package in ("numpy", "pillow", "matplotlib"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join([*found, f"Python {platform.python_version()}", platform.platform()])
