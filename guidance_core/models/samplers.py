"""Two samplers for flow predictions, enough to draw with and to show how a host calls a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

from guidance_core.executors.base import Denoiser
from guidance_core.run import Run

MakeDenoiser = Callable[[Tensor, float], Denoiser]
"Makes the denoiser for a noisy sample and its noise level."


def euler(
    run: Run,
    sigmas: Sequence[float],
    x: Tensor,
    denoiser: MakeDenoiser,
    on_step: Callable[[], object] = lambda: None,
    see: Callable[[int, float, Tensor, Tensor], object] = lambda step, sigma, x, velocity: None,
) -> Tensor:
    """Integrate `dx/dσ = velocity` from `sigmas[0]` to `sigmas[-1]`, one evaluation a step.

    Args:
        run: a run with `prediction_type="flow"`.
        sigmas: the run's noise levels.
        x: the noise, `[B, ...]`.
        denoiser: makes the denoiser of each evaluation.
        on_step: called after each step.
        see: called in each step with its number, noise level, sample and velocity.
    """
    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        velocity = run.step(i, x, denoiser(x, sigma))
        see(i, sigma, x, velocity)
        x = x + (following - sigma) * velocity
        on_step()
    return x


def heun(
    run: Run,
    sigmas: Sequence[float],
    x: Tensor,
    denoiser: MakeDenoiser,
    on_step: Callable[[], object] = lambda: None,
) -> Tensor:
    """Integrate with Heun's method: a second evaluation at the end of each step but the last.

    Arguments as of `euler`, without `see`. Source: Karras et al., arXiv:2206.00364, Alg. 1.
    """
    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        velocity = run.step(i, x, denoiser(x, sigma))
        ahead = x + (following - sigma) * velocity
        if following > 0:
            second = run.step(i, ahead, denoiser(ahead, following), sigma=following)
            ahead = x + (following - sigma) * (velocity + second) / 2
        x = ahead
        on_step()
    return x
