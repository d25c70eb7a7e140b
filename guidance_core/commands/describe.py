"""`guidance-core describe`."""

from __future__ import annotations

from typing import Annotated

import typer

from guidance_core.commands.options import SPEC, AsJson, print_json
from guidance_core.guidance import Guidance


def describe(
    spec: Annotated[str, typer.Argument(help=SPEC)],
    steps: Annotated[int, typer.Option(help="Number of steps of the run to describe.")] = 30,
    outputs: Annotated[str, typer.Option(help="Names of the outputs, such as video,audio.")] = "",
    ranks: Annotated[int, typer.Option(min=1, help="Also show which of so many ranks runs what.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Show what a stack will do: passes per step, who asked for each, where each value came from."""
    names = [name.strip() for name in outputs.split(",")] if outputs else None
    description = Guidance.from_spec(spec).describe(steps, outputs=names, ranks=ranks)
    if as_json:
        print_json(description.to_dict())
    else:
        print(description)
