"""Drawing from the mixture in the plane: a model that blurs the data, and what guidance makes of it."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import attrs
import torch
from torch import Tensor

from guidance_core.executors.base import Executor
from guidance_core.guidance import Guidance
from guidance_core.hosts.stacked_denoiser import StackedDenoiser
from guidance_core.methods.capabilities import Capabilities
from guidance_core.models.drawing import OnStep, Settings
from guidance_core.models.gaussians import UNCONDITIONAL
from guidance_core.models.intervals import Score
from guidance_core.models.mixture_data import BLUR, CLASSES, WEAK_BLUR, blurred, branches, tree_mixture
from guidance_core.models.mixture_scores import mixture_scores
from guidance_core.trace import Trace

WEAK = "weak"
"The name under which a branch asks for the weaker model."
SHOWN = 0
"The class that pictures show."
PATHS = 24
"How many trajectories are kept."
ROUNDS = 256
"Samples of each class for which noise is drawn at a time."


@attrs.frozen(eq=False)
class Cloud:
    """What one stack made."""

    samples: Tensor
    "`[classes·n, 2]`: n of each class, class by class."
    label: Tensor
    "The class that each was asked to be, `[classes·n]`."
    paths: Tensor
    "The first samples of the first class after each step, the noise included: `[steps + 1, at most 24, 2]`."
    scores: dict[str, Score]
    passes_per_step: float = 0.0
    seconds: float = 0.0
    trace: Trace | None = None
    "What each step did, where that was asked for."


def draw_mixture(
    guidance: Guidance,
    *,
    steps: int = 25,
    per_class: int = 500,
    seed: int = 0,
    executor: str | Executor = "serial",
    on_step: OnStep = lambda: None,
    trace: Trace | None = None,
) -> Cloud:
    """Draw samples of both classes with Euler steps over evenly falling sigmas, and score them.

    The model is exact for the data blurred a little, and the model `weak`, which methods may ask for, for the data
    blurred more. A sample starts from noise that follows from the seed, its class and its number alone. Conditions
    beside `positive`, the class, are `negative` and `empty`, which leave it open, and `other`, the other class.

    Args:
        guidance: the stack to use.
        steps: number of steps.
        per_class: samples of each class.
        seed: of the starting noise, and of what methods draw.
        executor: what runs the branches.
        on_step: called after each step.
        trace: is given what each step did.

    Raises:
        ConfigurationError: steps or per_class is not positive, or the stack asks for what the model cannot do.
    """
    Settings(steps, per_class, seed, executor, on_step, trace).check(guidance)
    data = tree_mixture()
    models = {None: blurred(data, BLUR), WEAK: blurred(data, WEAK_BLUR)}
    label = torch.arange(CLASSES).repeat_interleave(per_class)
    any_class = torch.full_like(label, UNCONDITIONAL)
    labels = {"positive": label, "negative": any_class, "empty": any_class, "other": CLASSES - 1 - label}
    x, seeds = _noise(seed, per_class)
    sigmas = [1 - number / steps for number in range(steps + 1)]
    run = guidance.start(
        conditions={name: {"label": each} for name, each in labels.items()},
        sigmas=sigmas,
        prediction_type="flow",
        executor=executor,
        seeds=seeds,
        supports=Capabilities(models=(WEAK,)),
        trace=trace,
    )

    def flow(name: str | None, **inputs: Any) -> Tensor:
        return models[name].predict(**inputs, prediction_type="flow")

    paths, start = [x[:PATHS]], time.perf_counter()
    with torch.no_grad():  # which, unlike inference mode, lets a method differentiate
        for index, (sigma, following) in enumerate(pairwise(sigmas)):
            inputs = {"x": x, "sigma": sigma}
            denoise = StackedDenoiser(flow, inputs, adapt=lambda branch: {"name": branch.model})
            x = x + (following - sigma) * run.step(index, x, denoise)
            paths.append(x[:PATHS])
            on_step()
    seconds = time.perf_counter() - start
    scores = mixture_scores(data, branches(data), x, label)
    kept = torch.stack(paths)[:, : min(PATHS, per_class)]
    return Cloud(x, label, kept, scores, run.passes / steps, seconds, trace)


def real_samples(per_class: int, seed: int = 0) -> Cloud:
    """Return samples of the data itself, n of each class, and their scores: what a perfect model would reach."""
    data, generator = tree_mixture(), torch.Generator().manual_seed(seed)
    label = torch.arange(CLASSES).repeat_interleave(per_class)
    samples = data.sample(len(label), label, generator)
    return Cloud(samples, label, samples[None, :0], mixture_scores(data, branches(data), samples, label))


def _noise(seed: int, per_class: int) -> tuple[Tensor, list[int]]:
    """Return the noise of each class's samples, `[classes·n, 2]`, and the seed of each."""
    generator, noise, seeds = torch.Generator().manual_seed(seed), [], []
    for _ in range(0, per_class, ROUNDS):
        noise.append(torch.randn(ROUNDS, CLASSES, 2, generator=generator))
        seeds.append(torch.randint(2**62, (ROUNDS, CLASSES), generator=generator))
    drawn, numbers = (torch.cat(each)[:per_class].transpose(0, 1).flatten(0, 1) for each in (noise, seeds))
    return drawn, numbers.tolist()
