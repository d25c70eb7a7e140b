"""Your own loop over diffusers' LTX-2 transformer: the formula written out, beside a run with `LTX2Denoiser`."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from guidance_core.bench.engines import combined
from guidance_core.bench.hosts.classic import diffusers_package
from guidance_core.bench.hosts.subject import Counted, Subject, Way, saving
from guidance_core.guidance import Guidance
from guidance_core.hosts.ltx2 import OUTPUTS, Grid, LTX2Denoiser, Sizes, small_inputs, small_transformer

STEPS, PHI = 5, 0.7
STRENGTHS = {"video": (2.0, 1.0, 2.0), "audio": (6.0, 1.0, 2.0)}
SPEC = "ltx2:cfg_scale={video: 3, audio: 7},stg_scale=1,rescale_scale=0.7,stg_blocks=1,modality_scale=3"
TINY = Sizes(2, heads=2, head_dim=16, audio_head_dim=8, channels=8, caption_channels=16, grid=Grid(2, 2, 2, 4))
USUAL = Sizes(4, heads=6, head_dim=64, grid=Grid(2, 8, 12, 16))


def ltx2_loop(tiny: bool) -> Subject:
    """Return LTX-2's four passes, one after another as its reference code runs them."""
    version = diffusers_package().__version__
    sizes = TINY if tiny else USUAL
    model, counted = small_transformer(sizes), Counted()
    counted.watch(model, "hidden_states")
    sigmas = [1 - index / STEPS for index in range(STEPS + 1)]

    def own(seed: int) -> Any:
        given = small_inputs(sizes, seed=seed)
        text = {name: given.conditions[name] for name in ("positive", "negative")}
        x = given.sample
        with torch.no_grad():
            for sigma, lower in itertools.pairwise(sigmas):
                level = torch.full((1,), sigma * model.config.timestep_scale_multiplier)
                shared = {
                    "timestep": level,
                    "sigma": level,
                    "num_frames": sizes.grid.frames,
                    "height": sizes.grid.height,
                    "width": sizes.grid.width,
                    "audio_num_frames": sizes.grid.audio_frames,
                    "fps": 24.0,
                    "return_dict": False,
                }
                streams = {"hidden_states": x[0], "audio_hidden_states": x[1], **shared}
                passes = [
                    model(**streams, **text["positive"]),
                    model(**streams, **text["negative"]),
                    model(**streams, **text["positive"], spatio_temporal_guidance_blocks=[1]),
                    model(**streams, **text["positive"], isolate_modalities=True),
                ]
                parts = zip(x, zip(*passes, strict=True), STRENGTHS.values(), strict=True)
                made = [combined(sample, sigma, each, strengths, PHI) for sample, each, strengths in parts]
                x = x[0] + (lower - sigma) * made[0], x[1] + (lower - sigma) * made[1]
        return x

    def ours(spec: str, way: Way, seed: int) -> Any:
        given = small_inputs(sizes, seed=seed)
        x = given.sample
        run = Guidance.from_spec(spec).start(
            conditions=given.conditions,
            sigmas=sigmas,
            prediction_type="flow",
            outputs=OUTPUTS,
            executor=way or "serial",
        )
        with torch.no_grad():
            for index, (sigma, lower) in enumerate(itertools.pairwise(sigmas)):
                made = run.step(index, x, LTX2Denoiser(model, x, sigma, given.grid))
                x = x[0] + (lower - sigma) * made[0], x[1] + (lower - sigma) * made[1]
        return x

    specs = saving(SPEC, skip_step=f"{SPEC},skip_step=1")
    return Subject("a loop, LTX-2's transformer", version, STEPS, own, ours, specs, counted, other="batched")
