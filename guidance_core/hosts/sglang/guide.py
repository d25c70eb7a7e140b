"""Guiding a pipeline of sglang in one line."""

from __future__ import annotations

from typing import Any

from guidance_core.errors import ConfigurationError
from guidance_core.hosts.sglang.ltx2 import GuidedLTX2Denoising
from guidance_core.hosts.sglang.stage import GuidedDenoising, Stack


def guide(pipeline: Any, stack: Stack) -> Any:
    """Have the denoising stages of a pipeline guided by a stack of methods, and return the pipeline.

        guide(pipeline, "cfg:scale=4,interval:lo=0.2,hi=0.8")

    Raises:
        ConfigurationError: it has no stage that can be guided.
    """
    found = 0
    for stage in pipeline.stages:
        names = {each.__name__ for each in type(stage).__mro__}
        if "DenoisingStage" not in names:
            continue
        mixin = GuidedLTX2Denoising if "LTX2DenoisingStage" in names else GuidedDenoising
        bases = (type(stage),) if isinstance(stage, GuidedDenoising) else (mixin, type(stage))
        stage.__class__ = type(type(stage).__name__, bases, {"stack": stack, "__module__": type(stage).__module__})
        found += 1
    if not found:
        raise ConfigurationError(
            f"{type(pipeline).__name__} has no denoising stage that can be guided; its stages are "
            f"{', '.join(type(stage).__name__ for stage in pipeline.stages)}."
        )
    return pipeline
