"""Configurations of diffusers' guiders (`guider_config.json`) as stacks. Needs nothing but the file.

from guidance_core.hosts.guiders import guidance_of, read_config

guidance = guidance_of(read_config("guider/guider_config.json"))
"""

from guidance_core.hosts.guiders.config import GuiderConfig, read_config
from guidance_core.hosts.guiders.convert import guidance_of
from guidance_core.hosts.guiders.rows import ROWS

__all__ = ["ROWS", "GuiderConfig", "guidance_of", "read_config"]
