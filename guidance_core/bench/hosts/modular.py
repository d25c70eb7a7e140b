"""Modular pipelines of diffusers: its guider beside `StackGuidance`."""

from __future__ import annotations

import importlib
from typing import Any

from guidance_core.bench.hosts.classic import SCALE, STEPS, diffusers_package, wan_inputs, wan_pipeline
from guidance_core.bench.hosts.subject import Counted, Subject, Way, drawn, saving


def modular_wan(tiny: bool) -> Subject:
    """Return Wan's blocks from embeddings to latents."""
    diffusers = diffusers_package()
    from guidance_core.hosts.diffusers.modular import StackGuidance

    modular: Any = importlib.import_module("diffusers.modular_pipelines")
    blocks = modular.WanBlocks()
    for name in ("text_encoder", "decode"):
        blocks.sub_blocks.pop(name)
    _quiet(blocks)
    pipe, classic = blocks.init_pipeline(), wan_pipeline(tiny)
    pipe.update_components(transformer=classic.transformer, scheduler=classic.scheduler)
    pipe.set_progress_bar_config(disable=True)
    counted = Counted()
    counted.watch(classic.transformer, "hidden_states")

    def call(guider: Any, seed: int) -> Any:
        pipe.update_components(guider=guider)
        given = wan_inputs(tiny, seed)
        frames, size = (given["num_frames"] - 1) // 4 + 1, given["height"] // 8
        noise = drawn(seed + 1, latents=(1, 16, frames, size, size))
        return pipe(**given, **noise, num_inference_steps=STEPS, output="latents")

    def own(seed: int) -> Any:
        return call(diffusers.ClassifierFreeGuidance(guidance_scale=SCALE), seed)

    def ours(spec: str, way: Way, seed: int) -> Any:
        guider = StackGuidance(spec, executor=way if isinstance(way, str) else "serial")
        with guider.follow(pipe.scheduler, executor=None if isinstance(way, str) else way):
            return call(guider, seed)

    name = "diffusers Modular, Wan 2.1"
    return Subject(name, diffusers.__version__, STEPS, own, ours, saving(f"cfg:scale={SCALE:g}"), counted)


def _quiet(blocks: Any) -> None:
    """Turn off the progress bars of blocks, which have each their own."""
    if hasattr(blocks, "set_progress_bar_config"):
        blocks.set_progress_bar_config(disable=True)
    for each in getattr(blocks, "sub_blocks", {}).values():
        _quiet(each)
