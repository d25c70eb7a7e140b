"""The command `guidance-core`. Needs the extra `cli`."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

from guidance_core.commands.extras import EXTRAS, lacking
from guidance_core.commands.statuses import CLOSED_PIPE, INTERRUPTED, MISTAKE, OK, TRACEBACK, WRONG_USE
from guidance_core.commands.terminal import end_silently, write_in_any_encoding
from guidance_core.errors import GuidanceError, told


def main() -> None:
    """Run the command; an error is one line on stderr and an exit status (`STATUSES`), never a traceback."""
    write_in_any_encoding()
    warnings.showwarning = _warn
    try:
        status = _run()
        sys.stdout.flush()
    except BrokenPipeError:
        end_silently()
        status = CLOSED_PIPE
    if status:
        raise SystemExit(status)


def _run() -> int:
    try:
        from guidance_core.commands.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        return _wrong(
            f"guidance-core needs the extra 'cli' ({error.name} is missing): pip install 'guidance-core[cli]'"
        )
    try:
        app()
    except SystemExit as end:
        # Where typer or click meets a closed pipe, it ends with status 1, and older ones wrap stdout.
        if isinstance(end.__context__, BrokenPipeError) or type(sys.stdout).__name__ == "PacifyFlushWrapper":
            end_silently()
            return CLOSED_PIPE
        return end.code if isinstance(end.code, int) else OK if end.code is None else _wrong(str(end.code))
    except GuidanceError as error:
        return _wrong(f"error: {error}")
    except BrokenPipeError:
        raise
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        return _wrong(f"error: {lacking(package)}") if package in EXTRAS else _mistake(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        return _wrong(f"error: {error}")
    except Exception as error:
        return _mistake(error)
    return OK


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """Write a warning on one line of stderr; one of this library without a place in its code."""
    is_ours = category.__module__.startswith("guidance_core.")
    text = f"warning: {message}\n" if is_ours else warnings.formatwarning(message, category, filename, lineno, line)
    (file or sys.stderr).write(text)


def _wrong(line: str) -> int:
    print(line, file=sys.stderr)
    return WRONG_USE


def _mistake(error: Exception) -> int:
    """Tell of an error that nobody foresaw."""
    if os.environ.get(TRACEBACK):
        raise error
    print(
        f"error: {told(error)}. This is a bug in guidance-core or in a plugin; {TRACEBACK}=1 shows where.",
        file=sys.stderr,
    )
    return MISTAKE
