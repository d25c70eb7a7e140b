"""diffusers' pipelines, unedited, with any stack of methods. Needs the extra `hosts`.

from guidance_core.hosts.diffusers import guide

image = guide(pipe, "cfg:scale=5,rescale:phi=0.7")(prompt="a lake", num_inference_steps=28).images[0]
"""

from guidance_core.errors import UnguidedWarning
from guidance_core.hosts.diffusers.guide import GuidanceArgumentWarning, GuidanceRecipeWarning, guide, guided
from guidance_core.hosts.diffusers.levels import Levels, levels_of
from guidance_core.hosts.diffusers.patterns import Pattern
from guidance_core.hosts.diffusers.perturbed import capabilities_of, perturbed
from guidance_core.hosts.diffusers.versions import UntestedVersionWarning

__all__ = [
    "GuidanceArgumentWarning",
    "GuidanceRecipeWarning",
    "Levels",
    "Pattern",
    "UnguidedWarning",
    "UntestedVersionWarning",
    "capabilities_of",
    "guide",
    "guided",
    "levels_of",
    "perturbed",
]
