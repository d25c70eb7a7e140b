"""`guidance-core describe`."""

from __future__ import annotations

from typing import Annotated

import attrs
import typer

from guidance_core.commands.options import SPEC, AsJson, print_json
from guidance_core.executors.degrees import EFFICIENCY, choices, shown
from guidance_core.unpublished import stack_of


def describe(
    spec: Annotated[str | None, typer.Argument(help=SPEC)] = None,
    recipe: Annotated[str, typer.Option(help="Name of a recipe, with parameters or without, instead of methods.")] = "",
    steps: Annotated[int, typer.Option(help="Number of steps of the run to describe.")] = 30,
    outputs: Annotated[str, typer.Option(help="Names of the outputs, such as video,audio.")] = "",
    ranks: Annotated[int, typer.Option(min=1, help="Also show which rank runs which branch, for this many ranks.")] = 1,
    world_size: Annotated[
        int, typer.Option(min=0, help="Also show how this many ranks can be divided between guidance and a sequence.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Show what a stack will do: passes per step, who asked for each, where each value came from."""
    names = [name.strip() for name in outputs.split(",")] if outputs else None
    if bool(recipe) == (spec is not None):
        raise typer.BadParameter("give a spec or --recipe; the spec '@qwen-image,gate:lo=0.5' adds to a recipe.")
    guidance = stack_of(f"@{recipe.removeprefix('@')}" if spec is None else spec)
    description = guidance.describe(steps, outputs=names, ranks=ranks)
    most = max((group.passes for group in description.steps), key=len, default=())
    found = choices(world_size, max(1, len(most))) if world_size else []
    if as_json:
        ways = {"degrees": [attrs.asdict(each) for each in found]} if found else {}
        print_json({**description.to_dict(), **ways})
        return
    print(description)
    if found:
        print(
            f"\n{world_size} ranks, steps of {len(most)} passes; doubling the ranks of a pass keeps {EFFICIENCY:.0%}:"
        )
        print(shown(found))
