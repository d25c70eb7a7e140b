"""The environment variables that the library reads."""

from __future__ import annotations

from collections.abc import Mapping

from guidance_core.commands.statuses import TRACEBACK
from guidance_core.discovery import DISABLE, ONLY, ONLY_EXECUTORS

VARIABLES: Mapping[str, str] = {
    DISABLE: "1 loads no plugins, no recipes from other packages, and only the executors of this library",
    ONLY: "names of the plugins to load, separated by commas; no others are loaded",
    ONLY_EXECUTORS: "names of the executors to load, separated by commas; no others are loaded",
    TRACEBACK: "1 shows the traceback of an unexpected error",
    "RANK": "the number of this process, as torchrun sets it; with WORLD_SIZE and MASTER_ADDR, `sample` uses its ranks",
    "WORLD_SIZE": "the number of processes, as torchrun sets it",
    "MASTER_ADDR": "the host of rank 0, as torchrun sets it",
    "MASTER_PORT": "the port of rank 0, as torchrun sets it; torch reads it",
    "GLOO_SOCKET_IFNAME": "the network interface of Gloo, which torch reads; processes that the commands start use lo",
    "TORCH_DEVICE_BACKEND_AUTOLOAD": "0 stops torch from loading extensions for other devices; set while torch is "
    "imported if the entry points of a distribution cannot be read",
    "HYPOTHESIS_NO_PLUGINS": "1 stops Hypothesis from loading plugins; set in that case too",
    "PYTHONIOENCODING": "the encoding of what the commands print; any encoding works, even ascii",
    "COLUMNS": "the width of what the commands print if the output is not a terminal",
    "NO_COLOR": "not empty: the commands print without colours",
}
"Each with its meaning."
