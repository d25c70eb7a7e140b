"""The guidance methods that ship with guidance-core, one class for each method.

They use only names that `guidance_core` exports, like any third-party plugin.
"""

from guidance_plugins.adaptive import Adaptive
from guidance_plugins.apg import APG
from guidance_plugins.apg_mix import APGMix
from guidance_plugins.autoguidance import Autoguidance
from guidance_plugins.cads import CADS
from guidance_plugins.cfg import CFG
from guidance_plugins.cfg_plus_plus import CFGPlusPlus
from guidance_plugins.cfg_zero_star import CFGZeroStar
from guidance_plugins.classifier import Classifier
from guidance_plugins.dual import Dual
from guidance_plugins.dynamic_thresholding import DynamicThresholding
from guidance_plugins.ep_cfg import EPCFG
from guidance_plugins.fdg import FDG
from guidance_plugins.fresca import FreSca
from guidance_plugins.gate import Gate
from guidance_plugins.icg import ICG
from guidance_plugins.interval import Interval
from guidance_plugins.ltx2 import LTX2
from guidance_plugins.mambo_g import MamboG
from guidance_plugins.momentum import Momentum
from guidance_plugins.multi_condition import MultiCondition
from guidance_plugins.nag import NAG
from guidance_plugins.normalize import Normalize
from guidance_plugins.pag import PAG
from guidance_plugins.perp_neg import PerpNeg
from guidance_plugins.renorm import Renorm
from guidance_plugins.renorm_text import RenormText
from guidance_plugins.rescale import Rescale
from guidance_plugins.rounded_cfg import RoundedCFG
from guidance_plugins.s2 import S2
from guidance_plugins.seg import SEG
from guidance_plugins.skimmed import Skimmed
from guidance_plugins.slg import SLG
from guidance_plugins.smc_cfg import SMCCFG
from guidance_plugins.softpag import SoftPAG
from guidance_plugins.stg import STG
from guidance_plugins.swg import SWG, MaskedSWG
from guidance_plugins.tag import TAG
from guidance_plugins.tcfg import TCFG
from guidance_plugins.tpg import TPG
from guidance_plugins.tsg import TSG
from guidance_plugins.universal import Universal

__all__ = [
    "APG",
    "CADS",
    "CFG",
    "EPCFG",
    "FDG",
    "ICG",
    "LTX2",
    "NAG",
    "PAG",
    "S2",
    "SEG",
    "SLG",
    "SMCCFG",
    "STG",
    "SWG",
    "TAG",
    "TCFG",
    "TPG",
    "TSG",
    "APGMix",
    "Adaptive",
    "Autoguidance",
    "CFGPlusPlus",
    "CFGZeroStar",
    "Classifier",
    "Dual",
    "DynamicThresholding",
    "FreSca",
    "Gate",
    "Interval",
    "MamboG",
    "MaskedSWG",
    "Momentum",
    "MultiCondition",
    "Normalize",
    "PerpNeg",
    "Renorm",
    "RenormText",
    "Rescale",
    "RoundedCFG",
    "Skimmed",
    "SoftPAG",
    "Universal",
]
