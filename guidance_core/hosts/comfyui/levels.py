"""What ComfyUI's samplers and models say, in the library's words: noise levels and prediction types.

Its samplers ask for x0, and a model's `model_sampling` makes x0 of what the network predicts. A method works on what
the network predicts unless it says otherwise, here as in other hosts: so x0 is turned back into that.
"""

from __future__ import annotations

from typing import Any

import attrs
import comfy.model_sampling as known
import torch
from torch import Tensor

from guidance_core.algebra.spaces import PredictionType

SMALLEST = 1e-9
"Noise level below which a prediction of noise is not told from x0."


@attrs.frozen
class Levels:
    """The prediction type of a model, and whether its sample is x0 + σ·ε or a flow's (1 − σ)·x0 + σ·ε."""

    prediction_type: PredictionType
    alphas: float | None
    "As `Guidance.start` takes them."

    @classmethod
    def of(cls, sampling: Any, sigmas: Tensor) -> Levels:
        """Read a model's `model_sampling`; a kind that is not known is taken for one that predicts x0.

        Args:
            sampling: the model's.
            sigmas: those of the run, `[steps + 1]`.
        """
        if isinstance(sampling, known.CONST) and type(sampling).noise_scaling is known.CONST.noise_scaling:
            return cls("flow", None) if float(sigmas.max()) <= 1 else cls("x0", 1.0)
        if isinstance(sampling, known.X0 | known.EDM):
            return cls("x0", 1.0)
        if isinstance(sampling, known.V_PREDICTION):
            return cls("v" if sampling.sigma_data == 1 else "x0", 1.0)
        return cls("epsilon" if isinstance(sampling, known.EPS) else "x0", 1.0)

    def predicted(self, denoised: Tensor, sample: Tensor, sigma: Tensor) -> Tensor:
        """Return the prediction that x0 `denoised` was made of; all have the sample's shape, `sigma` is `[B]`."""
        if self.prediction_type == "x0":
            return denoised
        sigma = _beside(sample, sigma)
        if self.prediction_type == "v":  # ε − σ·x0, of a sample x0 + σ·ε
            denoised = denoised * (1 + sigma**2)
        return (sample - denoised) / sigma

    def denoised(self, predicted: Tensor, sample: Tensor, sigma: Tensor) -> Tensor:
        """Return x0."""
        if self.prediction_type == "x0":
            return predicted
        sigma = _beside(sample, sigma)
        found = torch.addcmul(sample, predicted, sigma, value=-1)
        return found / (1 + sigma**2) if self.prediction_type == "v" else found


def _beside(sample: Tensor, sigma: Tensor) -> Tensor:
    return sigma.clamp_min(SMALLEST).view(-1, *[1] * (sample.ndim - 1))
