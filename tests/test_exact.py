"""Guidance of an exact denoiser has an exact result: the score of a product of powers of densities."""

from __future__ import annotations

import math

import attrs
import pytest
import torch

from guidance_core import Branch, Guidance, hookimpl
from guidance_core.models.gaussians import GaussianMixture, default_mixture
from guidance_plugins import CFG, Dual, MultiCondition

MIXTURE = default_mixture()
WIDENED = attrs.evolve(MIXTURE, stds=1.6 * MIXTURE.stds)
LEVELS = [(0.9, 0.1), (0.5, 0.5), (0.2, 0.8)]
"Noise and signal."


def log_density(mixture, x, sigma, alpha, label=None):
    """The logarithm of the density of noisy samples of a class, or of all."""
    inside = torch.ones_like(mixture.weights) if label is None else (mixture.labels == label).double()
    weights = mixture.weights * inside / (mixture.weights * inside).sum()
    variance = (alpha * mixture.stds) ** 2 + sigma**2
    square = (x[:, None] - alpha * mixture.means).square().sum(-1)
    return ((weights / (2 * math.pi * variance)).log() - square / (2 * variance)).logsumexp(1)


def epsilon(log_of, x, sigma):
    """−σ·∇ log p, the noise that an exact denoiser of p predicts."""
    x = x.clone().requires_grad_()
    return -sigma * torch.autograd.grad(log_of(x).sum(), x)[0]


def samples(count=64):
    return 1.5 * torch.randn(count, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def guided(stack, sigma, alpha, labels, mixtures=None):
    """What the library makes of the exact denoiser, which is asked by condition and by model."""
    x = samples()
    mixtures = mixtures or {None: MIXTURE}

    def denoise(branch):
        label = labels[branch.condition]
        return mixtures[branch.model].predict(x, sigma, label, prediction_type="epsilon", alpha=alpha)

    conditions = {name: {} for name in labels}
    run = Guidance(stack).start(
        conditions=conditions, sigmas=[sigma, 0.0], alphas=[alpha, 1.0], prediction_type="epsilon"
    )
    return x, run.step(0, x, denoise)


@pytest.mark.parametrize(("sigma", "alpha"), LEVELS)
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0, 7.5])
def test_cfg_is_the_score_of_a_product_of_powers(sigma, alpha, scale):
    x, result = guided([CFG(scale)], sigma, alpha, {"positive": 1, "negative": None})

    def log_of(x):
        c, u = (log_density(MIXTURE, x, sigma, alpha, label) for label in (1, None))
        return scale * c + (1 - scale) * u

    torch.testing.assert_close(result, epsilon(log_of, x, sigma), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("sigma", "alpha"), LEVELS)
def test_multi_condition_is_the_score_of_a_product_of_powers(sigma, alpha):
    stack = [CFG(3.0), MultiCondition("second", 2.0), MultiCondition("third", -0.5)]
    x, result = guided(stack, sigma, alpha, {"positive": 0, "negative": None, "second": 1, "third": 2})

    def log_of(x):
        first, second, third, u = (log_density(MIXTURE, x, sigma, alpha, label) for label in (0, 1, 2, None))
        return u + 3.0 * (first - u) + 2.0 * (second - u) - 0.5 * (third - u)

    torch.testing.assert_close(result, epsilon(log_of, x, sigma), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("sigma", "alpha"), LEVELS)
def test_dual_is_the_score_of_a_product_of_powers(sigma, alpha):
    x, result = guided([Dual(4.0, 1.5)], sigma, alpha, {"positive": 0, "negative": None, "image": 1})

    def log_of(x):
        c, r, u = (log_density(MIXTURE, x, sigma, alpha, label) for label in (0, 1, None))
        return u + 1.5 * (r - u) + 4.0 * (c - r)

    torch.testing.assert_close(result, epsilon(log_of, x, sigma), rtol=1e-10, atol=1e-10)


@attrs.frozen
class FromWeak:
    """Moves away from a weaker model."""

    scale: float

    @hookimpl
    def build_branches(self, step):
        return [Branch("weak", model="weak", strength=self.scale - 1)]


@pytest.mark.parametrize(("sigma", "alpha"), LEVELS)
def test_autoguidance_by_a_widened_mixture_is_the_score_of_a_product_of_powers(sigma, alpha):
    mixtures = {None: MIXTURE, "weak": WIDENED}
    x, result = guided([FromWeak(2.5)], sigma, alpha, {"positive": 1}, mixtures)

    def log_of(x):
        strong, weak = (log_density(mixture, x, sigma, alpha, 1) for mixture in (MIXTURE, WIDENED))
        return 2.5 * strong - 1.5 * weak

    torch.testing.assert_close(result, epsilon(log_of, x, sigma), rtol=1e-10, atol=1e-10)


def test_autoguidance_of_one_gaussian_narrows_it():
    one = GaussianMixture([[0.5, -1.0]], [0.4], [1.0], [0])
    wide = attrs.evolve(one, stds=2 * one.stds)
    sigma, alpha, scale = 0.6, 0.4, 2.0
    x, result = guided([FromWeak(scale)], sigma, alpha, {"positive": 0}, {None: one, "weak": wide})
    precision = scale / (alpha**2 * 0.16 + sigma**2) + (1 - scale) / (alpha**2 * 0.64 + sigma**2)
    assert 1 / precision < alpha**2 * 0.16 + sigma**2
    torch.testing.assert_close(result, sigma * precision * (x - alpha * one.means), rtol=1e-12, atol=1e-12)
