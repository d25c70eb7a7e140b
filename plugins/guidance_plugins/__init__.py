"""The guidance methods that ship with guidance-core, one class a method.

They use nothing but what `guidance_core` exports, as any third-party plugin would.
"""

from guidance_plugins.apg import APG
from guidance_plugins.cfg import CFG
from guidance_plugins.cfg_zero_star import CFGZeroStar
from guidance_plugins.gate import Gate
from guidance_plugins.interval import Interval
from guidance_plugins.ltx2 import LTX2
from guidance_plugins.mambo_g import MamboG
from guidance_plugins.normalize import Normalize
from guidance_plugins.rescale import Rescale
from guidance_plugins.rounded_cfg import RoundedCFG
from guidance_plugins.stg import STG
from guidance_plugins.tcfg import TCFG

__all__ = [
    "APG",
    "CFG",
    "LTX2",
    "STG",
    "TCFG",
    "CFGZeroStar",
    "Gate",
    "Interval",
    "MamboG",
    "Normalize",
    "Rescale",
    "RoundedCFG",
]
