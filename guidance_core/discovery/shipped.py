"""What this library ships. It is known without looking at what is installed, so that no name clash displaces it."""

from __future__ import annotations

from collections.abc import Mapping

LIBRARY = "guidance-core"
PLUGINS = "guidance_core.plugins"
EXECUTORS = "guidance_core.executors"
RECIPES = "guidance_core.recipes"

SHIPPED: Mapping[str, Mapping[str, str]] = {
    PLUGINS: {
        "adaptive": "guidance_plugins.adaptive:Adaptive",
        "apg": "guidance_plugins.apg:APG",
        "apg-mix": "guidance_plugins.apg_mix:APGMix",
        "autoguidance": "guidance_plugins.autoguidance:Autoguidance",
        "cads": "guidance_plugins.cads:CADS",
        "cfg": "guidance_plugins.cfg:CFG",
        "cfg-plus-plus": "guidance_plugins.cfg_plus_plus:CFGPlusPlus",
        "cfg-zero-star": "guidance_plugins.cfg_zero_star:CFGZeroStar",
        "classifier": "guidance_plugins.classifier:Classifier",
        "dual": "guidance_plugins.dual:Dual",
        "dynamic-thresholding": "guidance_plugins.dynamic_thresholding:DynamicThresholding",
        "ep-cfg": "guidance_plugins.ep_cfg:EPCFG",
        "fdg": "guidance_plugins.fdg:FDG",
        "fresca": "guidance_plugins.fresca:FreSca",
        "gate": "guidance_plugins.gate:Gate",
        "icg": "guidance_plugins.icg:ICG",
        "interval": "guidance_plugins.interval:Interval",
        "ltx2": "guidance_plugins.ltx2:LTX2",
        "m-swg": "guidance_plugins.swg:MaskedSWG",
        "mambo-g": "guidance_plugins.mambo_g:MamboG",
        "momentum": "guidance_plugins.momentum:Momentum",
        "multi-condition": "guidance_plugins.multi_condition:MultiCondition",
        "nag": "guidance_plugins.nag:NAG",
        "normalize": "guidance_plugins.normalize:Normalize",
        "pag": "guidance_plugins.pag:PAG",
        "perp-neg": "guidance_plugins.perp_neg:PerpNeg",
        "renorm": "guidance_plugins.renorm:Renorm",
        "renorm-text": "guidance_plugins.renorm_text:RenormText",
        "rescale": "guidance_plugins.rescale:Rescale",
        "rounded-cfg": "guidance_plugins.rounded_cfg:RoundedCFG",
        "s2": "guidance_plugins.s2:S2",
        "seg": "guidance_plugins.seg:SEG",
        "skimmed": "guidance_plugins.skimmed:Skimmed",
        "slg": "guidance_plugins.slg:SLG",
        "smc-cfg": "guidance_plugins.smc_cfg:SMCCFG",
        "softpag": "guidance_plugins.softpag:SoftPAG",
        "stg": "guidance_plugins.stg:STG",
        "swg": "guidance_plugins.swg:SWG",
        "tag": "guidance_plugins.tag:TAG",
        "tcfg": "guidance_plugins.tcfg:TCFG",
        "tpg": "guidance_plugins.tpg:TPG",
        "tsg": "guidance_plugins.tsg:TSG",
        "universal": "guidance_plugins.universal:Universal",
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
