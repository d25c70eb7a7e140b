"""What several commands take and print."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeAlias

import typer

AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
SPEC = (
    "Methods in one line, such as 'cfg:scale=3,rescale:phi=0.7', or a recipe, such as '@qwen-image'. A method that is "
    "not installed is named as module:Class, or module:Class:scale=3. Empty: no guidance."
)


def print_json(data: Any) -> None:
    """Print plain data, indented."""
    print(json.dumps(data, indent=2))
