"""Stacks with methods that no distribution publishes yet, named as `module:Class`: for commands that try one out."""

from __future__ import annotations

import contextlib
import os
import sys

from guidance_core.config.spec import parse_spec
from guidance_core.discovery import entry_name, plugin_names
from guidance_core.discovery.places import imported
from guidance_core.discovery.registry import published
from guidance_core.errors import ConfigurationError
from guidance_core.guidance import Guidance


def stack_of(spec: str) -> Guidance:
    """Build the stack of a spec, in which `module:Class` names a method too: `my_module:MyMethod:scale=3`.

    Modules are also looked for in the working folder, as `python` would. What they print goes to stderr. A spec that
    comes from elsewhere belongs in `Guidance.from_spec`, which imports nothing but published plugins.

    Raises:
        GuidanceError: as `Guidance.from_spec`; or a module cannot be imported, or does not hold that class.
    """
    data = parse_spec(spec, places=True)
    with contextlib.ExitStack() as known:
        for table in data["guidance"]:
            module, colon, _ = table.get("plugin", "").partition(":")
            if not colon:
                continue
            if module in plugin_names():
                return Guidance.from_spec(spec)  # a parameter without a value, and not a place
            cls = _class_at(table["plugin"])
            name = entry_name(cls)
            if name is None:
                known.enter_context(published(table["plugin"], cls))
            else:
                table["plugin"] = name
        return Guidance.from_dict(data)


def _class_at(place: str) -> type:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    with contextlib.redirect_stdout(sys.stderr):
        found = imported(place)
    if not isinstance(found, type):
        raise ConfigurationError(
            f"{place} is a {type(found).__name__}, not a method. Name the class, a frozen attrs class with hooks."
        )
    return found
