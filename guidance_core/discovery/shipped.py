"""What this library ships. It is known without looking at what is installed, so that no name clash displaces it."""

from __future__ import annotations

from collections.abc import Mapping

LIBRARY = "guidance-core"
PLUGINS = "guidance_core.plugins"
EXECUTORS = "guidance_core.executors"
RECIPES = "guidance_core.recipes"

SHIPPED: Mapping[str, Mapping[str, str]] = {
    PLUGINS: {
        "apg": "guidance_plugins.apg:APG",
        "cfg": "guidance_plugins.cfg:CFG",
        "cfg-zero-star": "guidance_plugins.cfg_zero_star:CFGZeroStar",
        "gate": "guidance_plugins.gate:Gate",
        "interval": "guidance_plugins.interval:Interval",
        "ltx2": "guidance_plugins.ltx2:LTX2",
        "mambo-g": "guidance_plugins.mambo_g:MamboG",
        "normalize": "guidance_plugins.normalize:Normalize",
        "rescale": "guidance_plugins.rescale:Rescale",
        "rounded-cfg": "guidance_plugins.rounded_cfg:RoundedCFG",
        "stg": "guidance_plugins.stg:STG",
        "tcfg": "guidance_plugins.tcfg:TCFG",
    },
    EXECUTORS: {
        "all_gather": "guidance_core.executors.all_gather:AllGatherExecutor",
        "all_reduce": "guidance_core.executors.all_reduce:AllReduceExecutor",
        "auto": "guidance_core.executors.auto:AutoExecutor",
        "batched": "guidance_core.executors.batched:BatchedExecutor",
        "serial": "guidance_core.executors.serial:SerialExecutor",
    },
}
"By entry-point group and name; `pyproject.toml` publishes the same."
