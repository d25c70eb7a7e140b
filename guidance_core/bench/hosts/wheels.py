"""Import single modules out of an engine's wheel, unchanged, without installing it or what it needs.

    with_engine("sglang")
    from sglang.multimodal_gen.runtime.pipelines_core.stages.denoising import DenoisingStage

`REAL` says which modules are the wheel's own. Whatever else they import (CUDA kernels, servers, packages that are not
here) is a stand-in, whose classes take any argument and do nothing.
"""

from __future__ import annotations

import abc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from guidance_core.bench.hosts.subject import NotInstalledError

WHEELS = Path(sys.prefix) / "engines"
VERSIONS = {"sglang": "0.5.23", "vllm_omni": "0.30.0"}
"In which the adapters were tested."

_GEN = "sglang.multimodal_gen"
_CORE = f"{_GEN}.runtime.pipelines_core"
_STAGES = f"{_CORE}.stages"
REAL = {
    "sglang": (
        f"{_GEN}.envs",
        f"{_GEN}.runtime.distributed",
        f"{_GEN}.runtime.managers.forward_context",
        f"{_GEN}.runtime.models.schedulers",
        f"{_STAGES}.base",
        f"{_STAGES}.denoising",
        f"{_STAGES}.model_specific_stages.ltx_2.denoising",
        f"{_GEN}.test.unit",
    ),
    "vllm_omni": (
        "vllm_omni.diffusion.distributed.cfg_parallel",
        "vllm_omni.diffusion.models.ltx2.ltx2_guidance",
    ),
}
"Modules that are read from the wheel, each with what is below it."


def with_engine(name: str) -> str:
    """Have the modules of an engine found in its wheel and return its version.

    Raises:
        NotInstalledError: the wheel has not been fetched.
    """
    for each in sys.meta_path:
        if isinstance(each, _Finder) and each.engine == name:
            return each.version
    found = sorted(WHEELS.glob(f"{name}-*.whl"))
    if not found:
        raise NotInstalledError(f"{name} {VERSIONS[name]} is not here; `make engines` fetches it")
    finder = _Finder(name, found[-1])
    sys.meta_path.insert(0, finder)
    return finder.version


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds an engine's modules, and stand-ins for what they import and is not here."""

    def __init__(self, engine: str, wheel: Path) -> None:
        self.engine = engine
        self.version = wheel.name.split("-")[1]
        self._wheel = str(wheel)
        self._real = REAL[engine]
        sys.path_importer_cache.pop(self._wheel, None)

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> Any:
        if name.split(".")[0] == self.engine:
            folder = f"{self._wheel}/{'/'.join(name.split('.')[:-1])}".rstrip("/")
            if any(each.startswith(f"{name}.") for each in self._real):
                spec = importlib.machinery.ModuleSpec(name, self, is_package=True)
                spec.submodule_search_locations = [f"{self._wheel}/{name.replace('.', '/')}"]
                return spec
            if any(name == each or name.startswith(f"{each}.") for each in self._real):
                return importlib.machinery.PathFinder.find_spec(name, [folder])
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return self._stand_in(name)

    def _stand_in(self, name: str) -> Any:
        """Return a stand-in for a package that is not here, where an engine's module asks for it."""
        top = name.split(".")[0]
        if top in sys.stdlib_module_names or not self._asks() or _is_here(top, self):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def _asks(self) -> bool:
        frame: types.FrameType | None = sys._getframe()
        while frame is not None and frame.f_globals.get("__name__", "").startswith((__name__, "importlib", "_frozen")):
            frame = frame.f_back
        return frame is not None and str(frame.f_globals.get("__name__", "")).split(".")[0] == self.engine

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Absent(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        spec = module.__spec__
        module.__path__ = list(spec.submodule_search_locations or []) if spec is not None else []


def _is_here(top: str, finder: _Finder) -> bool:
    if isinstance(sys.modules.get(top), _Absent):
        return False
    return importlib.machinery.PathFinder.find_spec(top) is not None


class _Absent(types.ModuleType):
    """A module whose every name is a class that takes anything and does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if any(f"{self.__name__}.{name}" == each for real in REAL.values() for each in real):
            return importlib.import_module(f"{self.__name__}.{name}")
        made = _Kind(name, (_Nothing,), {"__module__": self.__name__})
        setattr(self, name, made)
        return made


class _Kind(abc.ABCMeta):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls

    def __or__(cls, other: Any) -> Any:
        return cls

    __ror__ = __getitem__ = __or__

    def __iter__(cls) -> Any:
        return iter(())


class _Nothing(metaclass=_Kind):
    def __new__(cls, *given: Any, **named: Any) -> Any:
        if len(given) == 1 and callable(given[0]) and not named:
            return given[0]  # a decorator
        return super().__new__(cls)

    def __init__(self, *given: Any, **named: Any) -> None:
        pass

    def __call__(self, *given: Any, **named: Any) -> Any:
        return given[0] if len(given) == 1 and callable(given[0]) else self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __iter__(self) -> Any:
        return iter(())

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: Any) -> None:
        pass
