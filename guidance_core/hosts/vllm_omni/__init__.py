"""vLLM-Omni's diffusion pipelines with any stack of methods.

from guidance_core.hosts.vllm_omni import GuidedCFG

class Pipeline(GuidedCFG, QwenImagePipeline):
    stack = "cfg:scale=4,normalize:form=match,interval:lo=0.2,hi=0.8"
"""

from guidance_core.hosts.versions import UntestedVersionWarning
from guidance_core.hosts.vllm_omni.cfg import GuidedCFG
from guidance_core.hosts.vllm_omni.ltx2 import GuidedLTX

__all__ = ["GuidedCFG", "GuidedLTX", "UntestedVersionWarning"]
