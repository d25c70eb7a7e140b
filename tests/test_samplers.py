"""The exact mixture, and the samplers that the embedded models draw with."""

from __future__ import annotations

import pytest
import torch

from guidance_core import Guidance
from guidance_core.models.gaussians import default_mixture
from guidance_core.models.samplers import euler, heun


@pytest.mark.parametrize("sigma", [0.9, 0.4])
def test_the_mixture_is_tweedies_formula(sigma):
    mixture = default_mixture()
    x = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    alpha = 1 - sigma
    means, stds, weights = (torch.as_tensor(each).double() for each in (mixture.means, mixture.stds, mixture.weights))
    variance = (alpha * stds) ** 2 + sigma**2
    distance = (x[:, None] - alpha * means).square().sum(-1)
    log_density = torch.logsumexp(weights.log() - variance.log() - distance / (2 * variance), dim=1)
    (score,) = torch.autograd.grad(log_density.sum(), x)
    epsilon = mixture.predict(x.detach(), sigma, prediction_type="epsilon", alpha=alpha)
    torch.testing.assert_close(epsilon, -sigma * score)
    x0 = mixture.predict(x.detach(), sigma, prediction_type="x0", alpha=alpha)
    flow = mixture.predict(x.detach(), sigma, prediction_type="flow")
    torch.testing.assert_close(x.detach(), alpha * x0 + sigma * epsilon)
    torch.testing.assert_close(flow, epsilon - x0)


def test_heun_is_of_second_order_with_guidance():
    mixture, guidance = default_mixture(), Guidance.from_spec("cfg:scale=2")
    noise = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    label = torch.arange(64) % 3

    def draw(sampler, steps):
        sigmas = [1 - 0.95 * i / steps for i in range(steps + 1)]
        conditions = {"positive": {"label": label}, "negative": {"label": None}}
        run = guidance.start(conditions=conditions, sigmas=sigmas, prediction_type="flow")

        def denoiser(x, sigma):
            return lambda branch: mixture.predict(x, sigma, prediction_type="flow", **branch.inputs)

        return sampler(run, sigmas, noise, denoiser)

    exact = draw(heun, 800)
    errors = {
        (sampler, steps): (draw(sampler, steps) - exact).abs().mean() for sampler in (euler, heun) for steps in (20, 40)
    }
    assert errors[heun, 40] < errors[heun, 20] / 3
    assert errors[euler, 40] > errors[euler, 20] / 3
    assert errors[heun, 20] < errors[euler, 40] / 3, "at the same number of evaluations"


def test_a_second_evaluation_is_limited_by_its_own_sigma():
    seen = []
    run = Guidance.from_spec("cfg:scale=2,interval:lo=0,hi=0.5").start(
        conditions={"positive": {}, "negative": {}}, sigmas=[1.0, 0.5, 0.0], prediction_type="flow"
    )

    def denoiser(x, sigma):
        def denoise(branch):
            seen.append((branch.name, branch.step, branch.evaluation))
            return x.clone()

        return denoise

    heun(run, [1.0, 0.5, 0.0], torch.zeros(1, 2), denoiser)
    assert seen == [("cond", 0, 0), ("cond", 0, 1), ("uncond", 0, 1), ("cond", 1, 0), ("uncond", 1, 0)]
