"""Tracebacks as an author reads them: where in the plugin it was raised, and little else."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import torch

from guidance_core.errors import GuidanceError


def raised(error: BaseException) -> str:
    """Return where in a plugin an error came from, and the error itself rather than the one it became."""
    return short_traceback(error.__cause__ if isinstance(error, GuidanceError) and error.__cause__ else error)


def short_traceback(error: BaseException, *, limit: int = 3) -> str:
    """Return the end of an error's traceback: the last places outside this library, torch and importlib."""
    folders = (Path(__file__).parents[1], Path(torch.__file__).parent)
    others = (*(f"{folder}{os.sep}" for folder in folders), "<frozen importlib")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(others) and "importlib/__init__" not in frame.filename
    ]
    lines = [f"  {frame.filename}:{frame.lineno}, in {frame.name}\n    {frame.line}" for frame in frames[-limit:]]
    what = "".join(traceback.format_exception_only(error)).splitlines()
    return "\n".join([*lines, *(f"  {line}" for line in what)])
