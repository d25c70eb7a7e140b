"""`guidance-core env`: what a report of a problem should say."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections import Counter
from collections.abc import Iterable
from importlib import metadata
from typing import Any

import torch

from guidance_core.commands.options import AsJson, print_json
from guidance_core.commands.variables import VARIABLES
from guidance_core.discovery import find_executors, find_plugins
from guidance_core.recipes import find_recipes
from guidance_core.scaffold.library import installed_library
from guidance_core.version import CONTRACT_VERSION, __version__

HOSTS = {"diffusers": "diffusers", "comfyui": "comfyui", "sglang": "sglang", "vllm-omni": "vllm-omni"}
"Each host, with the distribution that it comes in."
PACKAGES = ("attrs", "cattrs", "pluggy", "typer", "rich", "numpy", "pillow", "safetensors", "pytest", "hypothesis")


def env(as_json: AsJson = False) -> None:
    """Show versions, hosts, plugins and the environment variables that the library reads, with values and meaning."""
    with contextlib.redirect_stdout(sys.stderr):  # what modules print is not this command's answer
        facts = _facts()
    if as_json:
        print_json(facts)
        return
    for name, value in facts["versions"].items():
        print(f"{name:<16} {value}")
    print(f"{'installed from':<16} {facts['installed_from']}")
    for what in ("devices", "hosts", "packages"):
        found = (f"{name} {value}" for name, value in facts[what].items() if value)
        print(f"{what:<16} {', '.join(found) or 'none found'}")
    for what in ("plugins", "executors", "recipes"):
        counted = ", ".join(f"{number} of {origin}" for origin, number in facts[what].items())
        print(f"{what:<16} {counted or 'none'}")
    for problem in facts["problems"]:
        print(f"{'problem':<16} {problem}")
    print("\nenvironment variables")
    for variable in facts["variables"]:
        value = "not set" if variable["value"] is None else repr(variable["value"])
        print(f"  {variable['name']} ({value}): {variable['meaning']}")


def _facts() -> dict[str, Any]:
    plugins, executors = find_plugins(), find_executors()
    recipes = find_recipes()
    failed = [(each.name or each.distribution, each.failure) for each in (*plugins, *executors) if each.failure]
    failed += [(each.name, each.failure) for each in recipes if each.failure]
    library = installed_library()
    return {
        "versions": {
            "guidance-core": f"{__version__}, contract {'.'.join(map(str, CONTRACT_VERSION))}",
            "python": f"{platform.python_version()}, {sys.executable}",
            "platform": platform.platform(),
            "torch": torch.__version__,
        },
        "installed_from": library.url or "a package index",
        "devices": {"cuda": torch.cuda.device_count()} if torch.cuda.is_available() else {"cpu": os.cpu_count()},
        "hosts": {host: _version(name) for host, name in HOSTS.items()},
        "packages": {name: _version(name) for name in PACKAGES},
        "plugins": _counted(each.distribution for each in plugins if each.name),
        "executors": _counted(each.distribution for each in executors if each.name),
        "recipes": _counted(each.distribution for each in recipes),
        "problems": list(dict.fromkeys(f"{name}: {failure}" for name, failure in failed)),
        "variables": [
            {"name": name, "value": os.environ.get(name), "meaning": meaning} for name, meaning in VARIABLES.items()
        ],
    }


def _counted(origins: Iterable[str]) -> dict[str, int]:
    return dict(Counter(origin or "this program" for origin in origins))


def _version(distribution: str) -> str | None:
    with contextlib.suppress(Exception):  # metadata of a broken distribution
        return metadata.version(distribution)
    return None
