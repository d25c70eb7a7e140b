"""What `module:Class` names: a class that no distribution publishes, or none yet."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from guidance_core.discovery.loading import comes_from_a_signal, visible_interrupts
from guidance_core.discovery.tracebacks import short_traceback
from guidance_core.errors import ConfigurationError, UnknownNameError, suggest

_FILE = re.compile(r"([\w./\\~-]+\.py):([A-Za-z_][\w.]*)")


def check_no_file(text: str) -> None:
    """Raise `ConfigurationError` where a text names a file, as in `folder/methods.py:MyMethod`, and not a module."""
    found = _FILE.search(text)
    if found is not None:
        file, attribute = found.groups()
        dotted = ".".join(part for part in Path(file).with_suffix("").parts if part not in ("/", ".", ".."))
        raise ConfigurationError(f"{file!r} is a file; give the module, as in an import: {dotted}:{attribute}")


def imported(target: str) -> Any:
    """Return what `module:attribute` names.

    Raises:
        ConfigurationError: the module does not import, with the end of its traceback, or has no such
            attribute.
    """
    module_name, _, attribute = target.partition(":")
    check_no_file(target)
    try:
        with visible_interrupts():
            found: Any = importlib.import_module(module_name)
    except BaseException as error:
        if comes_from_a_signal(error):
            raise
        advice = ""
        if isinstance(error, ModuleNotFoundError) and error.name == module_name.partition(".")[0]:
            advice = (
                "\nRun the command in the folder that holds it, such as src, or install its package: pip install -e ."
            )
        text = f"the module {module_name!r} cannot be imported:\n{short_traceback(error)}{advice}"
        raise ConfigurationError(text) from None
    for part in attribute.split("."):
        names = [name for name in dir(found) if not name.startswith("_")]
        try:
            found = getattr(found, part)
        except AttributeError:
            raise UnknownNameError(f"{module_name!r} has no {attribute!r}.{suggest(attribute, names)}") from None
    return found
