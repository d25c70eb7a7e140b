"""Where pictures, animations, sounds and pages are written, looked at before any work is done."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from guidance_core.errors import ConfigurationError

FOLDER = Path("out")
"The folder that is made where it is missing; every other must be there."


def check_output(path: Path, option: str, endings: Sequence[str]) -> None:
    """Raise `ConfigurationError` unless a file with one of these endings can be written there.

    Args:
        path: of the file.
        option: that gave it.
        endings: with their dots, in small letters.
    """
    if path.suffix.lower() not in endings:
        raise ConfigurationError(f"{option} must end in {' or '.join(endings)}; got {path}.")
    folder = path.parent
    if folder == FOLDER and not folder.exists():
        folder = Path()
    if not folder.exists():
        raise ConfigurationError(
            f"{option} {path}: the folder {folder} does not exist. Make it, or choose another; only {FOLDER} is made."
        )
    if path.is_dir() or not folder.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise ConfigurationError(f"{option}: {path} cannot be written to; choose another place.")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make the usual folder where it is missing, and name the file if it cannot be written inside the block.

    Raises:
        ConfigurationError: it cannot be written.
    """
    try:
        if path.parent == FOLDER:
            path.parent.mkdir(exist_ok=True)
        yield
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror or error}.") from None
