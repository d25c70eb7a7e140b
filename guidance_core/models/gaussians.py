"""A mixture of Gaussians in the plane, whose ideal denoiser has a closed form.

With the noisy sample `x = α·x0 + σ·ε` and component k of mean `μ` and standard deviation `s`,

    x | k         ~  N(α·μ, α²s² + σ²)
    E[x0 | x, k]  =  μ + α s² (x − α·μ) / (α²s² + σ²)
    E[ε  | x, k]  =  σ (x − α·μ) / (α²s² + σ²)

and the denoiser averages these over the posterior of k. Neither divides by α or σ, so every
prediction type is finite at both ends of the noise schedule.
"""

from __future__ import annotations

import math
from typing import Any

import attrs
import torch
from torch import Tensor

from guidance_core.algebra.spaces import Space, check_space
from guidance_core.errors import ConfigurationError

UNCONDITIONAL = -1
"The label of a sample that may come from any component."


def _floats(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def _integers(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.int64)


@attrs.frozen(eq=False)
class GaussianMixture:
    """A labelled mixture of `K` isotropic Gaussians in the plane, and its exact denoiser.

    Raises `ConfigurationError` at construction for shapes that differ, a standard deviation or a
    weight that is not positive, or a negative label.
    """

    means: Tensor = attrs.field(converter=_floats)
    "Means of the components, `[K, 2]`, held in float64."
    stds: Tensor = attrs.field(converter=_floats)
    "Their standard deviations, `[K]`, positive."
    weights: Tensor = attrs.field(converter=_floats)
    "Their weights, `[K]`, positive; scaled to sum to 1."
    labels: Tensor = attrs.field(converter=_integers)
    "The class each belongs to, `[K]`, counted from 0."

    def __attrs_post_init__(self) -> None:
        count = len(self.stds)
        shapes = [tuple(t.shape) for t in (self.means, self.stds, self.weights, self.labels)]
        if count == 0 or shapes != [(count, 2), (count,), (count,), (count,)]:
            raise ConfigurationError(
                f"means, stds, weights and labels must have shapes [K, 2], [K], [K] and [K], K > 0; got {shapes}."
            )
        if not bool((self.stds > 0).all() and (self.weights > 0).all() and (self.labels >= 0).all()):
            raise ConfigurationError("stds and weights must be positive, and labels at least 0.")
        object.__setattr__(self, "weights", self.weights / self.weights.sum())

    def predict(
        self,
        x: Tensor,
        sigma: float | Tensor,
        label: int | Tensor | None = None,
        *,
        prediction_type: Space,
        alpha: float | Tensor | None = None,
    ) -> Tensor:
        """Return the posterior mean of the chosen prediction type, `[B, 2]` in the dtype of `x`.

        `x` is `[B, 2]`; `sigma` and `alpha` are numbers or tensors `[B]`. `label` is an int or a
        LongTensor `[B]` and restricts each sample to the components of its class; `None`, or -1
        for single samples, allows all. Without `alpha`, flow takes `1 − sigma` and v takes
        `√(1 − sigma²)`. Computed in the dtype of `x`, half precisions in float32.

        Raises:
            ConfigurationError: the prediction type or a label does not exist, or epsilon or x0 is
                asked for without `alpha`.
        """
        check_space("prediction_type", prediction_type)
        dtype = torch.promote_types(x.dtype, torch.float32)
        sigma = torch.as_tensor(sigma, dtype=dtype, device=x.device)
        alpha = _alpha_for(prediction_type, sigma) if alpha is None else alpha
        # One column per noise level, so that a [B] tensor broadcasts against the components.
        a = torch.as_tensor(alpha, dtype=dtype, device=x.device).reshape(-1, 1)
        s = sigma.reshape(-1, 1)
        means, stds = self.means.to(x.device, dtype), self.stds.to(x.device, dtype)

        offset = x.to(dtype)[:, None] - a[..., None] * means  # [B, K, 2]
        variance = a**2 * stds**2 + s**2  # [B or 1, K]
        weight = self._posterior(offset, variance, label)[..., None]
        score = offset / variance[..., None]
        x0 = (weight * (means + (a * stds**2)[..., None] * score)).sum(1)
        epsilon = (weight * s[..., None] * score).sum(1)

        match prediction_type:
            case "epsilon":
                prediction = epsilon
            case "v":
                prediction = a * epsilon - s * x0
            case "x0":
                prediction = x0
            case "flow":
                prediction = epsilon - x0
        return prediction.to(x.dtype)

    def log_density(self, x: Tensor, label: int | Tensor | None = None) -> Tensor:
        """Return the log density of noiseless samples `[B, 2]` within their classes, or of all, `[B]` in float64.

        Raises:
            ConfigurationError: a label does not exist.
        """
        offset = x.double()[:, None] - self.means.to(x.device)
        return self._log_joint(offset, self.stds.to(x.device).square()[None], label).logsumexp(1)

    def sample(
        self,
        n: int,
        label: int | Tensor | None = None,
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draw `n` noiseless samples, `[n, 2]` on the CPU, of the given classes or of all."""
        weights = self._log_weights(label, torch.device("cpu")).exp().expand(n, -1)
        component = torch.multinomial(weights, 1, generator=generator).squeeze(1)
        noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
        return (self.means[component] + self.stds[component, None] * noise).to(dtype)

    def _posterior(self, offset: Tensor, variance: Tensor, label: int | Tensor | None) -> Tensor:
        """Return the probability of each component given the noisy sample, `[B, K]`."""
        return self._log_joint(offset, variance, label).softmax(1)

    def _log_joint(self, offset: Tensor, variance: Tensor, label: int | Tensor | None) -> Tensor:
        log_density = -offset.square().sum(-1) / (2 * variance) - (2 * math.pi * variance).log()
        return log_density + self._log_weights(label, offset.device).to(offset.dtype)

    def _log_weights(self, label: int | Tensor | None, device: torch.device) -> Tensor:
        """Return the log weights within each sample's class, `[B or 1, K]`; -inf outside of it."""
        log_weights = self.weights.log().to(device)[None]
        if label is None:
            return log_weights
        wanted = torch.as_tensor(label, device=device).reshape(-1, 1)
        allowed = (wanted == self.labels.to(device)) | (wanted == UNCONDITIONAL)
        if not bool(allowed.any(1).all()):
            raise ConfigurationError(
                f"the mixture has the labels {sorted(set(self.labels.tolist()))}, and -1 for all of them; "
                f"got {sorted(set(wanted.flatten().tolist()))}."
            )
        return log_weights.masked_fill(~allowed, -math.inf).log_softmax(1)


def default_mixture() -> GaussianMixture:
    """Return three classes of four components each: arms that start close together and curve apart.

    The inner components of the classes overlap and hold most of the weight, so many samples of one
    class could be of another; guidance away from the unconditional prediction moves them outwards.
    """
    means, stds, weights, labels = [], [], [], []
    for label in range(3):
        for step in range(4):
            radius, angle = 0.5 + 0.5 * step, 2 * math.pi * label / 3 + 0.25 * step
            means.append((radius * math.cos(angle), radius * math.sin(angle)))
            stds.append(0.35 - 0.05 * step)
            weights.append(4.0 - step)
            labels.append(label)
    return GaussianMixture(means, stds, weights, labels)


def _alpha_for(prediction_type: Space, sigma: Tensor) -> Tensor:
    if prediction_type == "flow":
        return 1.0 - sigma
    if prediction_type == "v" and bool((sigma <= 1).all()):
        return (1.0 - sigma**2).sqrt()
    raise ConfigurationError(f"predicting {prediction_type} needs alpha: 1.0 where the sample is x0 + sigma * noise.")
