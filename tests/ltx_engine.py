"""ltx-core and ltx-pipelines as `make test-hosts` fetches them, in two versions, and a small model of their classes.

    theirs = loaded("1.2.0")
    theirs.samplers.euler_denoising_loop(...)

What they import and is not here (av, torchaudio, OpenImageIO) is a stand-in, while it is imported.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from comfyui_engine import stand_ins

FOLDER = Path(sys.prefix) / "ltx"
PACKAGES = FOLDER / "packages"
SOURCES = {
    "1.0.0": (PACKAGES,),
    "1.2.0": (FOLDER / "repository/packages/ltx-core/src", FOLDER / "repository/packages/ltx-pipelines/src", PACKAGES),
}
ABSENT = ("av", "torchaudio", "OpenImageIO")
MODULES = {
    "guiders": "ltx_core.components.guiders",
    "steps": "ltx_core.components.diffusion_steps",
    "noisers": "ltx_core.components.noisers",
    "schedulers": "ltx_core.components.schedulers",
    "conditioning": "ltx_core.conditioning",
    "transformer": "ltx_core.model.transformer",
    "adaln": "ltx_core.model.transformer.text_projection",
    "constants": "ltx_pipelines.utils.constants",
    "helpers": "ltx_pipelines.utils.helpers",
    "samplers": "ltx_pipelines.utils.samplers",
    "types": "ltx_pipelines.utils.types",
}
NEWER = {"blocks": "ltx_pipelines.utils.blocks", "denoisers": "ltx_pipelines.utils.denoisers"}
_found: dict[str, SimpleNamespace] = {}


def loaded(version: str) -> SimpleNamespace:
    """Have one version imported in the place of the other, or skip the test where it has not been fetched."""
    folders = SOURCES[version]
    if not all(folder.is_dir() for folder in folders):
        pytest.skip(f"ltx-pipelines {version} is not here; `make test-hosts` fetches it")
    kept = [name for name in sys.modules if name.split(".")[0] in ("ltx_core", "ltx_pipelines")]
    if _found.get("now") is not None and _found["now"].version == version:
        return _found["now"]
    for name in kept:
        del sys.modules[name]
    every = {str(folder) for source in SOURCES.values() for folder in source}
    sys.path[:] = [*map(str, folders), *(each for each in sys.path if each not in every)]
    importlib.invalidate_caches()
    with stand_ins(ABSENT):
        names = MODULES | (NEWER if version != "1.0.0" else {})
        modules = {short: importlib.import_module(name) for short, name in names.items()}
    _found["now"] = SimpleNamespace(version=version, **modules)
    return _found["now"]
