"""`guidance-core convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guidance_core.commands.options import AsJson, print_json
from guidance_core.hosts.guiders import guidance_of, read_config


def convert(
    config: Annotated[Path, typer.Argument(help="A guider_config.json that diffusers wrote, or the folder it is in.")],
    audio: Annotated[
        Path | None, typer.Option(help="The audio guider's configuration, if config is that of LTX-2's video guider.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the spec of the stack that guides like a diffusers guider, including its step window.

    The window is right for any number of steps: diffusers rounds both ends down to whole steps, and
    so does the spec (ends=floored; ends=inside if the guider also leaves out the first step). A
    disabled guider gives the empty spec.
    """
    guidance = guidance_of(read_config(config), audio=None if audio is None else read_config(audio))
    if as_json:
        print_json({"spec": guidance.to_spec(), **guidance.to_dict()})
    else:
        print(guidance.to_spec())
