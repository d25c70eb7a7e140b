"""Points of the gallery, drawn from the mixture of Gaussians, whose denoiser is exact."""

from __future__ import annotations

import functools
import time
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from guidance_core.gallery.letters import Found
from guidance_core.gallery.measured import MeasuredRun
from guidance_core.guidance import Guidance
from guidance_core.models.gaussians import UNCONDITIONAL, GaussianMixture, default_mixture
from guidance_core.steps.bound_branch import BoundBranch

CLASSES = 3
STEPS = 25


@torch.no_grad()
def draw(guidance: Guidance, *, steps: int, points: int, seed: int) -> Found:
    """Draw points of each class with Euler steps over evenly falling sigmas.

    Returns tensors by name, for N points: `points` `[N, 2]`, `real` `[N, 2]` (true points of the same classes, the same
    for every stack), `followed` `[N]` (whether the class asked for is the likeliest), `group` `[N]`;
    and the numbers `effective_scale`, `passes` (a step) and `seconds`.
    """
    mixture = default_mixture()
    label = torch.arange(CLASSES).repeat_interleave(points)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(label), 2, generator=generator)
    real = mixture.sample(len(label), label, generator)
    seeds = torch.randint(2**62, (len(label),), generator=generator).tolist()
    sigmas = [1 - step / steps for step in range(steps + 1)]
    nothing = torch.full_like(label, UNCONDITIONAL)
    run = guidance.start(
        conditions={"positive": {"label": label}, "negative": {"label": nothing}, "empty": {"label": nothing}},
        sigmas=sigmas,
        prediction_type="flow",
        seeds=seeds,
    )
    measured = MeasuredRun(run)
    start = time.perf_counter()
    for index, (sigma, following) in enumerate(pairwise(sigmas)):
        predict = functools.partial(_predict, mixture, x, sigma)
        away = functools.partial(mixture.predict, x, sigma, nothing, prediction_type="flow")
        x = x + (following - sigma) * measured.step(index, x, predict, away)
    return {
        "points": x,
        "real": real,
        "followed": (likeliest(mixture, x) == label).double(),
        "group": label,
        "effective_scale": measured.effective_scale,
        "strengths": torch.stack(measured.strengths),
        "passes": torch.tensor(run.passes / steps, dtype=torch.float64),
        "seconds": torch.tensor(time.perf_counter() - start, dtype=torch.float64),
    }


def _predict(mixture: GaussianMixture, x: Tensor, sigma: float, branch: BoundBranch) -> Tensor:
    label: Any = branch.inputs["label"]
    return mixture.predict(x, sigma, label, prediction_type="flow")


def likeliest(mixture: GaussianMixture, x: Tensor) -> Tensor:
    """Return the class to which noiseless points `[N, 2]` belong with the highest probability, `[N]`."""
    apart = (x.double()[:, None] - mixture.means).square().sum(-1)
    joint = -apart / (2 * mixture.stds**2) - 2 * mixture.stds.log() + mixture.weights.log()
    classes = [joint[:, mixture.labels == each].logsumexp(1) for each in range(CLASSES)]
    return torch.stack(classes, 1).argmax(1)
