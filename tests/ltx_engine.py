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
from typing import Any

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
_imported: dict[str, tuple[SimpleNamespace, dict[str, Any]]] = {}
"By version: its modules by short names, and all that stand in `sys.modules` while it is the one that is found."


def loaded(version: str) -> SimpleNamespace:
    """Have one version found in the place of the other, or skip the test where it has not been fetched."""
    folders = SOURCES[version]
    if not all(folder.is_dir() for folder in folders):
        pytest.skip(f"ltx-pipelines {version} is not here; `make test-hosts` fetches it")
    for name in _theirs():
        del sys.modules[name]
    every = {str(folder) for source in SOURCES.values() for folder in source}
    sys.path[:] = [*map(str, folders), *(each for each in sys.path if each not in every)]
    if version in _imported:
        found, modules = _imported[version]
        sys.modules.update(modules)
        return found
    importlib.invalidate_caches()
    with stand_ins(ABSENT):
        names = MODULES | (NEWER if version != "1.0.0" else {})
        found = SimpleNamespace(version=version, **{short: importlib.import_module(names[short]) for short in names})
    _imported[version] = found, _theirs()
    return found


def _theirs() -> dict[str, Any]:
    return {name: module for name, module in sys.modules.items() if name.split(".")[0] in ("ltx_core", "ltx_pipelines")}
