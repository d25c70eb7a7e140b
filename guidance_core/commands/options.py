"""What several commands take and print."""

from __future__ import annotations

import json
from typing import Annotated, Any, NoReturn, TypeAlias

import rich.console
import typer

from guidance_core.commands.statuses import CLOSED_PIPE
from guidance_core.commands.terminal import end_silently

AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
SPEC = (
    "Methods in one line, such as 'cfg:scale=3,rescale:phi=0.7', or a recipe, such as '@qwen-image'. A method that is "
    "not installed is named as module:Class, or module:Class:scale=3. Give an empty spec, '', for no guidance."
)


class Console(rich.console.Console):
    """A console of rich that ends with our own status where its reader is gone."""

    def on_broken_pipe(self) -> NoReturn:
        """End the command."""
        end_silently()
        raise SystemExit(CLOSED_PIPE)


def print_json(data: Any) -> None:
    """Print plain data, indented."""
    print(json.dumps(data, indent=2))
