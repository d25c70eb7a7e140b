"""ComfyUI without its server, as `make test-hosts` fetches it.

While it is imported, stand-ins take the place of missing packages (torchvision, torchaudio, av).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.abc
import importlib.machinery
import logging
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from guidance_core.bench.hosts.subject import NotInstalledError

FOLDER = Path(sys.prefix) / "comfyui"
ABSENT = ("av", "kornia", "spandrel", "torchaudio", "torchvision")
MODULES = (
    "comfy.samplers",
    "comfy.sd",
    "comfy.hooks",
    "comfy.multigpu",
    "comfy.supported_models",
    "comfy_api.latest",
    "comfy_extras.nodes_custom_sampler",
    "comfy_extras.nodes_advanced_samplers",
    "execution",
    "nodes",
)


@functools.cache
def with_comfyui() -> Path:
    """Have ComfyUI imported, on the CPU; return its folder.

    Raises:
        NotInstalledError: it has not been fetched.
    """
    folder = FOLDER / "ComfyUI"
    if not (folder / "comfy").is_dir():
        raise NotInstalledError("ComfyUI 0.30.0 is not here; `make test-hosts` fetches it")
    on_path(folder, FOLDER / "packages")
    with stand_ins(ABSENT):
        importlib.import_module("comfy.cli_args").args.cpu = True
        for name in MODULES:
            importlib.import_module(name)
    logging.getLogger().setLevel(logging.WARNING)
    return folder


def on_path(*folders: Path) -> None:
    """Have modules found in these folders, after all others."""
    sys.path += [str(folder) for folder in folders if str(folder) not in sys.path]


@contextlib.contextmanager
def stand_ins(names: tuple[str, ...]) -> Iterator[None]:
    """Have packages that are not here found, as modules whose every name is an empty class."""
    absent = tuple(name for name in names if importlib.machinery.PathFinder.find_spec(name) is None)
    finder = _Finder(absent)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] in absent]:
            del sys.modules[name]


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        own = name.split(".")[0] in self._names
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if own else None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Absent(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__path__ = []


class _Absent(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Kind(name, (), {})


class _Kind(type):
    """A class whose every name is a class."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Kind(name, (), {})
