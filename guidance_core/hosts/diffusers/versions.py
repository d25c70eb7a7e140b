"""The versions of diffusers that the pipelines were compared on."""

from __future__ import annotations

import functools
import importlib
import warnings
from typing import Any

TESTED = "0.42"
"Releases that begin with it."


class UntestedVersionWarning(UserWarning):
    """A version of diffusers is installed that no pipeline was compared on."""


@functools.cache
def warn_of_version() -> None:
    """Warn, once, if another version of diffusers is installed."""
    diffusers: Any = importlib.import_module("diffusers")
    if not f"{diffusers.__version__}.".startswith(f"{TESTED}."):
        warnings.warn(
            f"diffusers {diffusers.__version__} is installed, and guided pipelines were compared with their own "
            f"guidance on {TESTED} only; compare a picture made with 'cfg' to one of the pipeline's own guidance.",
            UntestedVersionWarning,
            stacklevel=4,
        )
