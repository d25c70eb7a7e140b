"""What a step costs beside the model: `run.step` with a denoiser that returns at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from guidance_core.bench.timing import Report, compare, one_thread
from guidance_core.guidance import Guidance

SHAPE = (1, 16, 8)
SIGMA = 0.5
LTX2 = "ltx2:cfg_scale={video: 3, audio: 7},stg_scale=1,modality_scale=3,rescale_scale=0.7,stg_blocks=28"


def measure(rounds: int) -> Report:
    """Time two-branch CFG, and LTX-2's four branches with two outputs and rescale."""
    version = one_thread()
    torch.manual_seed(0)
    with torch.inference_mode():
        return Report("dispatch", version, (_cfg(rounds), *_ltx2(rounds)))


def _steps(guidance: Guidance, sample: Any, predictions: dict[str, Any], **settings: Any) -> Callable[[], object]:
    """Return a call that makes one step of a long run, each time the next one."""
    run = guidance.start(conditions={"positive": {}, "negative": {}}, sigmas=[SIGMA] * 65, **settings)
    index = -1

    def step() -> object:
        nonlocal index
        index = (index + 1) % 64
        return run.step(index, sample, lambda branch: predictions[branch.name])

    return step


def _cfg(rounds: int) -> Any:
    x, cond, uncond = (torch.randn(SHAPE) for _ in range(3))

    def by_hand() -> Tensor:
        predictions = [cond if number == 0 else uncond for number in range(2)]
        return predictions[1] + 3.0 * (predictions[0] - predictions[1])

    ours = _steps(Guidance.from_spec("cfg:scale=3"), x, {"cond": cond, "uncond": uncond}, prediction_type="flow")
    contenders = {"guidance-core cfg": ours, "hand-written": by_hand}
    guiders = _guiders()
    if guiders is not None:
        guider = guiders.ClassifierFreeGuidance(guidance_scale=3.0)

        def diffusers_step() -> object:
            guider.set_state(0, 64, None)
            batches = guider.prepare_inputs({"x": (cond, uncond)})
            for batch in batches:
                batch.noise_pred = batch.x
            return guider(batches).pred

        contenders["diffusers ClassifierFreeGuidance"] = diffusers_step
    return compare("two-branch CFG", contenders, ours="guidance-core cfg", rounds=rounds, unit="us", warmup=100)


def _ltx2(rounds: int) -> list[Any]:
    names = ("cond", "neg", "perturbed", "modality")
    video, audio = ({name: torch.randn(SHAPE) for name in names} for _ in range(2))
    x = torch.randn(SHAPE)
    predictions = {name: (video[name], audio[name]) for name in names}
    outputs = ("video", "audio")
    guidance = Guidance.from_spec(LTX2)
    comparisons = []
    for prediction_type in ("x0", "flow"):
        ours = _steps(guidance, (x, x), predictions, prediction_type=prediction_type, outputs=outputs)
        contenders = {"guidance-core ltx2": ours}
        guiders = _guiders()
        if guiders is not None:
            contenders["diffusers LTX2Guidance, twice"] = _diffusers_ltx2(
                guiders, x, (video, audio), converts=prediction_type == "flow"
            )
        job = f"LTX-2, four branches, two outputs, rescale, {prediction_type} predictions"
        comparisons.append(compare(job, contenders, ours="guidance-core ltx2", rounds=rounds, unit="us", warmup=100))
    return comparisons


def _diffusers_ltx2(
    guiders: Any, x: Tensor, predictions: tuple[dict[str, Tensor], dict[str, Tensor]], *, converts: bool
) -> Callable[[], object]:
    """Return diffusers' step; with `converts`, from velocities to velocity as its denoiser does it."""
    pairs = [
        (guiders.LTX2Guidance(cfg, 1.0, 3.0, 0.7, [28]), given)
        for cfg, given in zip((3.0, 7.0), predictions, strict=True)
    ]

    def step() -> object:
        results = []
        for guider, given in pairs:
            guider.set_state(0, 64, None)
            passes = tuple(x - SIGMA * each for each in given.values()) if converts else tuple(given.values())
            batches = guider.prepare_inputs({"x": passes})
            for batch in batches:
                batch.noise_pred = batch.x
            guided = guider(batches).pred
            results.append((x - guided) / SIGMA if converts else guided)
        return results

    return step


def _guiders() -> Any:
    """Return diffusers' guiders, or None where diffusers is not installed."""
    try:
        from diffusers import guiders
        from diffusers.utils import logging
    except ImportError:
        return None
    logging.set_verbosity_error()
    return guiders
