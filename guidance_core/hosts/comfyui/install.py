"""Write the custom-node folder: `python -m guidance_core.hosts.comfyui.install /path/to/ComfyUI`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from guidance_core.errors import ConfigurationError

SOURCE = Path(__file__).parent / "custom_node"
NAME = "guidance-core"


def install(comfyui: str | Path) -> Path:
    """Copy the folder into `custom_nodes` of a ComfyUI, over an earlier copy, and return where it is.

    Raises:
        ConfigurationError: there is no ComfyUI.
    """
    nodes = Path(comfyui) / "custom_nodes"
    if not nodes.is_dir():
        raise ConfigurationError(f"{str(comfyui)!r} has no folder custom_nodes; give the folder that ComfyUI is in.")
    target = nodes / NAME
    shutil.copytree(SOURCE, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return target


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m guidance_core.hosts.comfyui.install /path/to/ComfyUI")
    try:
        print(install(sys.argv[1]))
    except ConfigurationError as error:
        sys.exit(str(error))
