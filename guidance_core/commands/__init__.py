"""The command `guidance-core`. Needs the extra `cli`."""

from __future__ import annotations

import io
import sys

from guidance_core.commands.extras import EXTRAS, lacking
from guidance_core.errors import GuidanceError


def main() -> None:
    """Run the command; an error of the library is one line on stderr and exit status 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # text given on the command line may not be encodable
    try:
        from guidance_core.commands.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        raise SystemExit(
            f"guidance-core needs the extra 'cli' ({error.name} is missing): pip install 'guidance-core[cli]'"
        ) from None
    try:
        app()
    except GuidanceError as error:
        print(f"error: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        print(f"error: {lacking(package)}", file=sys.stderr)
    else:
        return
    raise SystemExit(2)
