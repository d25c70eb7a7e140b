"""The public names of the library with their parameters, as docs/contract.md has them.

python tests/contract.py --write       write tests/contract.json anew
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_origin

import attrs

import guidance_core
from guidance_core.discovery import executor_class, executor_names, find_plugins

FILE = Path(__file__).with_name("contract.json")
MODULES = (
    "guidance_core",
    "guidance_core.conformance",
    "guidance_core.hosts.diffusers",
    "guidance_core.hosts.ltx",
    "guidance_core.hosts.ltx2",
    "guidance_core.models",
)
OWN = "guidance-core"


def surface() -> dict[str, Any]:
    """Return everything that a program may rely on by name."""
    return {
        "version": list(guidance_core.CONTRACT_VERSION),
        "names": {
            f"{module}.{name}": _described(getattr(importlib.import_module(module), name))
            for module in MODULES
            for name in public_names(importlib.import_module(module))
        },
        "plugins": {found.name: _arguments(found.loaded) for found in find_plugins() if found.distribution == OWN},
        "executors": {
            name: _arguments(executor_class(name))
            for name in executor_names()
            if executor_class(name).__module__.startswith("guidance_core.")
        },
    }


def public_names(module: ModuleType) -> list[str]:
    """Return the names that a module exports: those it lists, or else those that it defines."""
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    exported = getattr(module, "__all__", [name for name in own if not name.startswith("_")])
    return sorted(name for name in exported if not name.startswith("__"))


def _described(value: Any) -> Any:
    if inspect.isclass(value):
        members = {
            name: _signature(inspect.getattr_static(value, name))
            for name in sorted(dir(value))
            if not name.startswith("_") and not _inherited(value, name)
        }
        fields = [field.name for field in attrs.fields(value)] if attrs.has(value) else []
        made = [] if issubclass(value, BaseException) else _arguments(value)
        return {"parameters": made, "fields": fields, "members": members}
    if get_origin(value) is not None:
        return "type"
    return _arguments(value) if callable(value) else type(value).__name__


def _inherited(cls: type, name: str) -> bool:
    return all(name not in vars(base) for base in cls.__mro__ if base.__module__.startswith("guidance_core"))


def _signature(member: Any) -> Any:
    function = getattr(member, "__func__", member)
    return _arguments(function) if inspect.isfunction(function) else "value"


def _arguments(function: Any) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [
        f"{each.kind.description}: {each.name}" + ("" if each.default is each.empty else "=") for each in parameters
    ]


def lost(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return what was public before and is not after."""
    return sorted(each for kind in ("names", "plugins", "executors") for each in _lost(before[kind], after[kind], kind))


def _lost(before: Any, after: Any, where: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in before:
            if name in after:
                yield from _lost(before[name], after[name], f"{where}: {name}")
            else:
                yield f"{where}: {name}"
    elif isinstance(before, list) and isinstance(after, list):
        yield from (f"{where}: {each}" for each in before if each not in after)


if __name__ == "__main__":
    now = surface()
    if "--write" in sys.argv[1:]:
        gone = lost(json.loads(FILE.read_text()), now) if FILE.exists() else []
        FILE.write_text(json.dumps(now, indent=1) + "\n")
        print(*gone, sep="\n")
    else:
        print(json.dumps(now, indent=1))
