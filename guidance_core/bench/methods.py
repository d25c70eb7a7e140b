"""What the arithmetic of each method costs: two shapes in half precision, new tensors in every step.

A method that diffusers has is compared with its guider under the same settings, which `hosts.guiders` converts. Methods
that act on others stand above `cfg`, and some beside the least that their formula costs in float32 (`floors`). Every
time is also stated in copies of the bytes that the step reads, and the fastest step of each is given: on a shared
machine it says more than the median.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs
import torch
from torch import Tensor

from guidance_core.bench.floors import FLOORS
from guidance_core.bench.timing import Comparison, Report, medians_of, one_thread
from guidance_core.discovery.shipped import PLUGINS, SHIPPED
from guidance_core.errors import ConfigurationError, GuidanceError, told
from guidance_core.guidance import Guidance
from guidance_core.hosts.guiders import ROWS, guidance_of

SHAPES = (((1, 6144, 128), torch.bfloat16), ((1, 16, 128, 128), torch.float16))
FIRST, LAST = 0.9, 0.5
"Noise levels of the first step and the one after the last; every one is different."
CFG, COPY, FLOOR = "guidance-core cfg", "copy of the same bytes", "least in float32, by hand"
WARM_UP = 2

SPECS: Mapping[str, str] = {
    "gate": "cfg,gate",
    "interval": "cfg,interval",
    "ltx2": "ltx2:cfg_scale=3,stg_scale=1,modality_scale=3,rescale_scale=0.7,stg_blocks=28",
    "normalize": "cfg,normalize",
    "renorm": "cfg,renorm",
    "rescale": "cfg,rescale",
    "s2": "s2:count=28",
}
"Stacks of methods that are not tried alone with their defaults."

NOT_TIMED: Mapping[str, str] = {
    "classifier": "its cost is that of the host's loss and of a backward pass through the model",
    "universal": "its cost is that of the host's loss and of a backward pass through the model",
}
"Methods whose cost lies elsewhere."

CONDITIONS = ("positive", "negative", "empty", "extra", "image", "text")
"What runs are started with: whatever a method may ask for."

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "AdaptiveProjectedGuidance": {"adaptive_projected_guidance_momentum": -0.5, "eta": 0.0},
    "ClassifierFreeZeroStarGuidance": {"zero_init_steps": 0},
    "LTX2Guidance": {
        "guidance_scale": 3.0,
        "stg_scale": 1.0,
        "modality_scale": 3.0,
        "guidance_rescale": 0.7,
        "spatio_temporal_guidance_blocks": [28],
    },
    "AutoGuidance": {"auto_guidance_layers": [7], "dropout": 1.0},
    "PerturbedAttentionGuidance": {
        "perturbed_guidance_layers": [7],
        "perturbed_guidance_start": 0.0,
        "perturbed_guidance_stop": 1.0,
    },
    "SmoothedEnergyGuidance": {"seg_guidance_layers": [7]},
    "SkipLayerGuidance": {
        "skip_layer_guidance_layers": [7],
        "skip_layer_guidance_start": 0.0,
        "skip_layer_guidance_stop": 1.0,
    },
}
"What guiders are given so that all of their arithmetic is at work."

Passes: TypeAlias = Mapping[str, Tensor]
Contender: TypeAlias = Callable[[int, Tensor, Passes], object]
"Makes a step, given its index, the sample and the predictions by branch."


@attrs.frozen
class Job:
    """One method at work: the stack, and the guider with the same settings if there is one."""

    name: str
    guidance: Guidance
    guider: str | None = None
    settings: Mapping[str, Any] = attrs.field(factory=dict)


def measure(rounds: int, only: Sequence[str] = ()) -> Report:
    """Time every shipped method, or those in `only`, at both shapes; `rounds` steps of each.

    Raises:
        ConfigurationError: a name is not that of a shipped method.
    """
    shipped = sorted(SHIPPED[PLUGINS])
    for name in only:
        if name not in shipped:
            raise ConfigurationError(f"no method {name!r} ships; there is {', '.join(shipped)}.")
    version = one_thread()
    with torch.inference_mode():
        found = [
            compare(job, shape, dtype, rounds)
            for name in only or shipped
            if name not in NOT_TIMED
            for job in jobs(name)
            for shape, dtype in SHAPES
        ]
    return Report("methods", version, tuple(found))


def jobs(name: str) -> list[Job]:
    """Return how a shipped method is timed: beside each guider that it stands for, or alone."""
    guiders = [guider for guider, row in ROWS.items() if row.methods[0] == name]
    if not guiders:
        return [Job(name, Guidance.from_spec(SPECS.get(name, name)))]
    found = []
    for guider in guiders:
        settings = SETTINGS.get(guider, {})
        found.append(Job(name, guidance_of({"_class_name": guider, **settings}), guider, settings))
    return found


def compare(job: Job, shape: tuple[int, ...], dtype: torch.dtype, rounds: int) -> Comparison:
    """Time a method, its guider, plain cfg and a copy in turn, each round with tensors of its own."""
    ours = f"guidance-core {job.name}"
    title = f"{job.guidance.to_spec()} at {list(shape)} {str(dtype).removeprefix('torch.')}"
    steps = rounds + WARM_UP
    try:
        mine, names = _stack(job.guidance, steps)
        mine(0, *_drawn(names, shape, dtype))
    except GuidanceError as error:
        return Comparison(title, 0, "ms", {ours: 0.0}, ours, {"not timed": told(error)})
    contenders: dict[str, Contender] = {ours: mine, COPY: lambda _, x, passes: _copies(x, passes)}
    if job.name != "cfg":
        contenders[CFG] = _stack(Guidance.from_spec("cfg"), steps)[0]
    if job.name in FLOORS and len(names) > 1:
        floor = FLOORS[job.name]
        contenders[FLOOR] = lambda _, x, passes: floor(passes)
    extra: dict[str, Any] = {}
    if job.guider is not None and importlib.util.find_spec("diffusers"):
        try:
            theirs = _guider(job, steps)
            theirs(1, *_drawn(names, shape, dtype))
            contenders[f"diffusers {job.guider}"] = theirs
        except Exception as error:
            extra[f"diffusers {job.guider} fails"] = told(error)
    times = _timed(contenders, names, shape, dtype, steps)
    medians = medians_of(times, "ms")
    extra["fastest, ms"] = {name: round(1e3 * min(each), 3) for name, each in times.items()}
    extra["in copies of the same bytes"] = {
        name: round(median / medians[COPY], 2) for name, median in medians.items() if name != COPY
    }
    return Comparison(title, rounds, "ms", medians, ours, extra)


def _timed(
    contenders: Mapping[str, Contender], names: Sequence[str], shape: tuple[int, ...], dtype: torch.dtype, steps: int
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for index in range(steps):
        x, passes = _drawn((*names, "uncond"), shape, dtype)
        turn = index % len(contenders)
        for name, contender in (*list(contenders.items())[turn:], *list(contenders.items())[:turn]):
            read = x.clone(), {branch: each.clone() for branch, each in passes.items()}
            began = time.perf_counter()
            contender(index, *read)
            if index >= WARM_UP:
                times[name].append(time.perf_counter() - began)
    return times


def _drawn(names: Sequence[str], shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a sample, and a prediction for each branch that lies near that of `cond`."""
    x, c = (torch.randn(shape) for _ in range(2))
    made = {name: c if name == "cond" else c + 0.1 * torch.randn(shape) for name in dict.fromkeys(names)}
    return x.to(dtype), {name: each.to(dtype) for name, each in made.items()}


def _stack(guidance: Guidance, steps: int) -> tuple[Contender, tuple[str, ...]]:
    """Return what makes a step of a run, and the branches that its steps run at most."""
    sigmas = [FIRST + (LAST - FIRST) * index / steps for index in range(steps + 1)]
    run = guidance.start(
        conditions={name: {} for name in CONDITIONS},
        sigmas=sigmas,
        alphas=[1 - sigma for sigma in sigmas],
        prediction_type="x0",
        seeds=0,
    )
    names = dict.fromkeys(branch.name for layout in run.layouts for branch in layout.branches)

    def step(index: int, x: Tensor, passes: Passes) -> object:
        return run.step(index, x, lambda branch: passes[branch.name])

    return step, tuple(names)


def _copies(x: Tensor, passes: Passes) -> None:
    for each in (x, *passes.values()):
        each.clone()


NAMES = {
    "pred_cond": ("cond",),
    "pred_uncond": ("weak", "uncond", "neg"),
    "pred_cond_skip": ("perturbed", "skipped", "identity"),
    "pred_cond_seg": ("blurred",),
    "pred_cond_stg": ("perturbed",),
    "pred_cond_modality": ("modality",),
}
"The branches that stand for what a guider is given."


def _guider(job: Job, steps: int) -> Contender:
    """Return what makes a step with diffusers' guider."""
    from diffusers import guiders
    from diffusers.utils import logging

    logging.set_verbosity_error()
    guider = getattr(guiders, job.guider or "")(**job.settings)

    def step(index: int, x: Tensor, passes: Passes) -> object:
        guider.set_state(index, steps, None)
        batches = guider.prepare_inputs({"x": (x,) * 4})
        for batch in batches:
            known = NAMES[getattr(batch, guider._identifier_key)]
            batch.noise_pred = next(passes[name] for name in known if name in passes)
        return guider(batches).pred

    return step
