"""ltx-pipelines with any stack of methods: a `Denoiser` for its samplers, and its pipelines in one line.

from guidance_core.hosts.ltx import guide

guide(pipeline, "ltx2:preset=2.3,skip_step=1")
"""

from guidance_core.hosts.ltx.denoiser import StackDenoiser
from guidance_core.hosts.ltx.own import stack_of
from guidance_core.hosts.ltx.stage import GuidedStage, guide

__all__ = ["GuidedStage", "StackDenoiser", "guide", "stack_of"]
