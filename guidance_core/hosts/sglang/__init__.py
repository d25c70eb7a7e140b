"""sglang's diffusion engine with any stack of methods: mixins for its denoising stages.

from guidance_core.hosts.sglang import GuidedDenoising

class Stage(GuidedDenoising, DenoisingStage):
    stack = "cfg:scale=4,interval:lo=0.2,hi=0.8"
"""

from guidance_core.hosts.sglang.guide import guide
from guidance_core.hosts.sglang.ltx2 import GuidedLTX2Denoising
from guidance_core.hosts.sglang.stage import GuidedDenoising
from guidance_core.hosts.versions import UntestedVersionWarning

__all__ = ["GuidedDenoising", "GuidedLTX2Denoising", "UntestedVersionWarning", "guide"]
