"""What a run costs beside the model: 40 steps with a denoiser that returns at once, every noise level new.

A run includes its start, which is also shown by itself. No two runs have a noise level in common but the first and the
last, so that what a library keeps from one run to the next cannot help it.
"""

from __future__ import annotations

import importlib.util
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from guidance_core.bench.engines import combined
from guidance_core.bench.timing import Comparison, Report, medians_of, one_thread
from guidance_core.guidance import Guidance

SHAPE = (1, 16, 8)
STEPS = 40
LTX2 = "ltx2:cfg_scale={video: 3, audio: 7},stg_scale=1,modality_scale=3,rescale_scale=0.7,stg_blocks=28"
STRENGTHS = {"video": (2.0, 1.0, 2.0), "audio": (6.0, 1.0, 2.0)}
PHI = 0.7
LTX2_JOB = "LTX-2, four branches, two outputs, rescale, {} predictions"
OURS = "guidance-core"

Contender = Callable[[Sequence[float]], dict[str, float]]
"Makes a run with these sigmas and returns the seconds of it, or of its parts, by name."


def measure(rounds: int) -> Report:
    """Time two-branch CFG, and LTX-2's four branches with two outputs and rescale; `rounds` runs of each."""
    version = one_thread()
    torch.manual_seed(0)
    with torch.inference_mode():
        cfg = _Job.drawn(("cond", "uncond"), outputs=1)
        ltx2 = _Job.drawn(("cond", "neg", "perturbed", "modality"), outputs=2)
        jobs: dict[str, dict[str, Contender]] = {
            "two-branch CFG": {
                OURS: cfg.ours(Guidance.from_spec("cfg:scale=3"), prediction_type="flow"),
                "hand-written": cfg.by_hand(lambda x, sigma, passes, _: passes[1] + 3.0 * (passes[0] - passes[1])),
            }
        }
        guidance, outputs = Guidance.from_spec(LTX2), ("video", "audio")
        for kind in ("x0", "flow"):
            jobs[LTX2_JOB.format(kind)] = {
                OURS: ltx2.ours(guidance, prediction_type=kind, outputs=outputs),
                "hand-written": ltx2.by_hand(_by_hand(converts=kind == "flow")),
            }
        if importlib.util.find_spec("diffusers"):
            guiders = _guiders()
            pair = [guiders.LTX2Guidance(scale, 1.0, 3.0, PHI, [28]) for scale in (3.0, 7.0)]
            jobs["two-branch CFG"]["diffusers"] = cfg.diffusers([guiders.ClassifierFreeGuidance(guidance_scale=3.0)])
            jobs[LTX2_JOB.format("x0")]["diffusers"] = ltx2.diffusers(pair)
            jobs[LTX2_JOB.format("flow")]["diffusers"] = ltx2.diffusers(pair, converts=True)
        found = [each for job, contenders in jobs.items() for each in _compared(job, contenders, rounds)]
    return Report("dispatch", version, tuple(found))


def schedule(source: random.Random) -> list[float]:
    """Return the sigmas of a run of flow matching with a shift of its own: 40 steps from 1, and 0."""
    shift = source.uniform(1.0, 6.0)
    times = (1 - step / STEPS for step in range(STEPS + 1))
    return [shift * t / (1 + (shift - 1) * t) for t in times]


def _compared(job: str, contenders: dict[str, Contender], rounds: int) -> list[Comparison]:
    """Have the contenders make `rounds` runs by turns, and compare a step of theirs with and without the start."""
    source = random.Random(0)
    times: dict[str, list[float]] = {}
    for number in range(rounds + WARM_UP):
        sigmas, turn = schedule(source), number % len(contenders)
        for name, contender in (*list(contenders.items())[turn:], *list(contenders.items())[:turn]):
            for part, seconds in contender(sigmas).items():
                times.setdefault(f"{name}{part}", []).append(seconds / STEPS)
            if number < WARM_UP:
                times = {}
    medians = medians_of(times, "us")
    start, steps = medians.pop(f"{OURS}, start"), medians.pop(f"{OURS}, steps")
    extra = {"the start of a run": f"{start * STEPS:.0f} us, as long as {start * STEPS / steps:.1f} steps"}
    return [
        Comparison(f"{job}: a step of a run, start included", rounds, "us", medians, OURS, extra),
        Comparison(f"{job}: a step", rounds, "us", {**medians, OURS: steps}, OURS),
    ]


WARM_UP = 5
"Runs of each contender that are not counted."


@attrs.frozen
class _Job:
    """What the denoiser returns in each step of a run, and what is done with it by whom."""

    names: tuple[str, ...]
    samples: list[Any]
    "By step: a tensor, or a tuple of one for each output."
    predictions: list[dict[str, Any]]
    "By step, then by branch; in the structure of the samples."

    @classmethod
    def drawn(cls, names: tuple[str, ...], *, outputs: int) -> _Job:
        def one() -> Any:
            made = tuple(torch.randn(SHAPE) for _ in range(outputs))
            return made[0] if outputs == 1 else made

        return cls(names, [one() for _ in range(STEPS)], [{name: one() for name in names} for _ in range(STEPS)])

    def ours(self, guidance: Guidance, **settings: Any) -> Contender:
        conditions: dict[str, dict[str, Any]] = {"positive": {}, "negative": {}}

        def run(sigmas: Sequence[float]) -> dict[str, float]:
            began = time.perf_counter()
            run = guidance.start(conditions=conditions, sigmas=sigmas, **settings)
            started = time.perf_counter()
            for index in range(STEPS):
                made = self.predictions[index]
                run.step(index, self.samples[index], lambda branch, made=made: made[branch.name])
            ended = time.perf_counter()
            return {"": ended - began, ", start": started - began, ", steps": ended - started}

        return run

    def diffusers(self, guiders: list[Any], *, converts: bool = False) -> Contender:
        """Run diffusers' guiders, one for each output; with `converts`, from velocities as its denoiser does it."""

        def run(sigmas: Sequence[float]) -> dict[str, float]:
            began = time.perf_counter()
            for index in range(STEPS):
                made, sigma = self.predictions[index], sigmas[index]
                for number, guider in enumerate(guiders):
                    x, passes = _of(self.samples[index], number), [_of(made[name], number) for name in self.names]
                    guider.set_state(index, STEPS, None)
                    if converts:
                        passes = [x - sigma * velocity for velocity in passes]
                    batches = guider.prepare_inputs({"x": tuple(passes)})
                    for batch in batches:
                        batch.noise_pred = batch.x
                    guided = guider(batches).pred
                    if converts:
                        guided = (x - guided) / sigma
            return {"": time.perf_counter() - began}

        return run

    def by_hand(self, formula: Callable[[Tensor, float, list[Tensor], int], Tensor]) -> Contender:
        """Run a formula written for this one job, in a loop."""
        outputs = 1 if isinstance(self.samples[0], Tensor) else len(self.samples[0])

        def run(sigmas: Sequence[float]) -> dict[str, float]:
            began = time.perf_counter()
            for index in range(STEPS):
                made = [self.predictions[index][name] for name in self.names]
                for number in range(outputs):
                    passes = [_of(each, number) for each in made]
                    formula(_of(self.samples[index], number), sigmas[index], passes, number)
            return {"": time.perf_counter() - began}

        return run


def _of(value: Any, number: int) -> Any:
    return value if isinstance(value, Tensor) else value[number]


def _by_hand(*, converts: bool) -> Callable[[Tensor, float, list[Tensor], int], Tensor]:
    strengths = list(STRENGTHS.values())

    def formula(x: Tensor, sigma: float, passes: list[Tensor], number: int) -> Tensor:
        return combined(x, sigma if converts else None, passes, strengths[number], PHI)

    return formula


def _guiders() -> Any:
    from diffusers import guiders
    from diffusers.utils import logging

    logging.set_verbosity_error()
    return guiders
