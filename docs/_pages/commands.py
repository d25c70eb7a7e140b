"""A page for each command, made from the command itself."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from _pages.markdown import table
from guidance_core.commands.app import app

PROGRAM = "guidance-core"
TREE = "```{toctree}\n:hidden:\n:glob:\n\n*\n```"


def pages(docs: Path) -> dict[str, str]:
    """Return the page of each command at the top, and of the program itself."""
    program = typer.main.get_command(app)
    made = {"index": _index(program)}
    return made | {name: _page(command, name) for name, command in sorted(program.commands.items())}


def walk(command, path: str = PROGRAM):
    """Return every command with what one types for it."""
    yield path, command
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        yield from walk(inner, f"{path} {name}")


def _index(program) -> str:
    rows = [(f"[`{path}`]({path.split()[1]}.md)", _first(inner)) for path, inner in walk(program) if path != PROGRAM]
    return (
        "\n\n".join([f"# The command `{PROGRAM}`", program.help or "", table(("command", "what it does"), rows), TREE])
        + "\n"
    )


def _page(command, name: str) -> str:
    parts = []
    for path, inner in walk(command, f"{PROGRAM} {name}"):
        level = "#" if inner is command else "##"
        parts += [f"{level} `{path}`", _text(inner.help or ""), *_told(inner, path)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _told(command, path: str) -> list[str]:
    context = typer.Context(command, info_name=path)
    usage = command.get_usage(context).removeprefix("Usage: ")
    parts = [f"```text\n{usage}\n```"]
    for kind in ("argument", "option"):
        records = [each.get_help_record(context) for each in command.params if each.param_type_name == kind]
        if shown := [record for record in records if record]:
            parts.append(table((kind, "meaning"), [(f"`{name.strip()}`", _line(text) or "–") for name, text in shown]))
    examples = (command.epilog or "").partition("\n\n")[0]
    return [*parts, f"Examples:\n\n```sh\n{examples}\n```"] if examples else parts


def _text(help: str) -> str:
    """Return the help text as Markdown; paragraphs that click must not fill begin with a mark."""
    parts = []
    for part in re.split(r"\n\s*\n", help.strip()):
        if part.startswith("\b"):
            part = f"```text\n{part.removeprefix(chr(8)).strip(chr(10))}\n```"
        parts.append(part)
    return "\n\n".join(parts)


def _line(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("[", "\\[")


def _first(command) -> str:
    return _line((command.help or "").partition("\n\n")[0])
