"""Prediction types and the conversions between them.

With the noisy sample `x = α·x0 + σ·ε`, the four types are

    epsilon   ε
    v         α·ε − σ·x0
    x0        x0
    flow      ε − x0                (rectified flow, where α = 1 − σ; also called velocity)

Every conversion is affine in sample and prediction, `target = a·x + b·prediction`, so a weighted
sum of predictions whose weights add up to 1 may be taken in any of them.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import attrs
import torch
from torch import Tensor

from guidance_core.errors import ConfigurationError, brief, did_you_mean
from guidance_core.parameters.schedules import ROUNDING

Space: TypeAlias = Literal["epsilon", "v", "x0", "flow"]
"A prediction type in which methods can work."
SPACES: tuple[Space, ...] = get_args(Space)

PredictionType: TypeAlias = Literal["epsilon", "v", "x0", "flow", "other"]
"What a denoiser returns; `other` is what cannot be converted."


ELSEWHERE = {
    "v_prediction": "v",
    "velocity": "flow",
    "flow_prediction": "flow",
    "rectified_flow": "flow",
    "sample": "x0",
    "x_0": "x0",
    "x_start": "x0",
    "denoised": "x0",
    "data": "x0",
    "eps": "epsilon",
    "noise": "epsilon",
}
"Names that other libraries use for the prediction types."


OTHER: PredictionType = "other"
"The prediction type of what cannot be converted: logits, actions."


def check_space(what: str, given: object, allowed: tuple[str, ...] = SPACES) -> None:
    """Raise `ConfigurationError` unless `given` names a prediction type."""
    if not isinstance(given, str) or given not in allowed:
        hint = ""
        if isinstance(given, str):
            known = ELSEWHERE.get(given.lower().replace("-", "_"))
            hint = f" That is {known!r} here." if known else did_you_mean(given, allowed)
        raise ConfigurationError(f"{what} must be one of {', '.join(allowed)}; got {brief(given)}.{hint}")


def check_sigma(what: str, sigma: float, prediction_type: str) -> None:
    """Raise `ConfigurationError` unless `sigma` is a noise level that this prediction type has."""
    if prediction_type == "flow" and sigma > 1 + ROUNDING:
        hint = " That looks like a timestep; sigma is timestep / 1000." if sigma > 10 else ""
        raise ConfigurationError(f"{what} must lie in [0, 1] for flow predictions; got {sigma:.7g}.{hint}")


@attrs.frozen
class Noise:
    """The noise level of one evaluation: `x = alpha·x0 + sigma·ε`."""

    sigma: float
    alpha: float | None = None
    "`None` where the host did not say; flow implies `1 − sigma`, v implies `√(1 − sigma²)`."
    map: Tensor | None = attrs.field(default=None, eq=False)
    """Noise levels of single elements, float32 or float64, broadcasting to the sample: per frame, per token.

    They count in conversions only.
    """
    conversions: dict[tuple[str, str], Affine] = attrs.field(factory=dict, init=False, eq=False, repr=False)
    "Those asked for so far, by source and target: the same ones are wanted at every evaluation."

    remedy: ClassVar[str] = (
        "start the run with alphas=[...], one per step, or alphas=1.0 where the sample is x0 + sigma * noise"
    )
    "What to do where alpha is missing."

    def alpha_for(self, spaces: tuple[str, str]) -> float:
        """Return alpha for a conversion between `spaces`, or raise `ConfigurationError`."""
        rectified = 1.0 - self.sigma
        if "flow" in spaces:
            if self.alpha is not None and not math.isclose(self.alpha, rectified, rel_tol=1e-4, abs_tol=1e-6):
                raise ConfigurationError(
                    "flow predictions need alpha = 1 - sigma; "
                    f"at sigma {self.sigma:g} the run has alpha {self.alpha:g}."
                )
            return rectified
        if self.alpha is not None:
            return self.alpha
        if "v" in spaces and self.sigma <= 1:
            return self.signal("v")
        raise ConfigurationError(
            f"converting {spaces[0]} to {spaces[1]} at sigma {self.sigma:g} needs alpha: {self.remedy}."
        )

    def signal(self, prediction_type: str) -> float:
        """Return alpha of a run with this prediction type, or raise `ConfigurationError` where it is not known."""
        if self.alpha is not None:
            return self.alpha
        if prediction_type == "flow":
            return 1.0 - self.sigma
        if prediction_type == "v" and self.sigma <= 1:
            return math.sqrt(1.0 - self.sigma**2)
        raise ConfigurationError(
            f"alpha at sigma {self.sigma:g} is not known: start the run with alphas=[...], one per step and the final "
            "one (1.0 where the sample is x0 + sigma * noise)."
        )


@attrs.frozen
class GivenNoise(Noise):
    """The noise level of an evaluation at a level of its own, which the host gave to `step`."""

    remedy: ClassVar[str] = "give this step alpha=... beside sigma=..., or 1.0 where the sample is x0 + sigma * noise"


@attrs.frozen
class Affine:
    """The conversion `target = a·sample + b·source` between two spaces at one noise level."""

    a: Any
    b: Any
    "Numbers; tensors that broadcast to the sample where the noise levels of single elements count."

    by_element: ClassVar[bool] = False


@attrs.frozen
class AffineByElement(Affine):
    """A conversion whose factors are tensors."""

    by_element: ClassVar[bool] = True


IDENTITY = Affine(0.0, 1.0)


def affine(source: str, target: str, noise: Noise) -> Affine:
    """Return the conversion from `source` to `target` at this noise level.

    Raises:
        ConfigurationError: alpha is needed and not known, or the conversion does not exist at this
            noise level (from x0 at sigma 0, from epsilon at alpha 0).
    """
    if source == target:
        return IDENTITY
    found = noise.conversions.get((source, target))
    if found is None:
        make = _affine if noise.map is None else _affine_by_element
        found = noise.conversions[source, target] = make(source, target, noise)
    return found


def _affine(source: str, target: str, noise: Noise) -> Affine:
    if OTHER in (source, target):
        raise ConfigurationError(
            f"predictions of type 'other' cannot be converted ({source} to {target}); leave the space to the model "
            "(space=None)."
        )
    alpha = noise.alpha_for((source, target))
    a1, b1 = _to_x0(source, alpha, noise.sigma)
    a2, b2 = _from_x0(target, alpha, noise.sigma)
    return Affine(a2 + b2 * a1, b2 * b1)


def _affine_by_element(source: str, target: str, noise: Noise) -> Affine:
    """Return the conversion at noise levels of single elements.

    Where an element is clean (sigma 0), what is converted from x0 is 0: it is not to move.
    """
    assert noise.map is not None
    _affine(source, target, noise)  # raises where there is none
    sigma = noise.map
    if "flow" in (source, target):
        alpha: float | Tensor = 1.0 - sigma
    elif noise.alpha == 1.0:
        alpha = 1.0
    elif "v" in (source, target) and (noise.alpha is None or _is_implied(noise)):
        alpha = (1.0 - sigma * sigma).clamp(min=0.0).sqrt()
    elif noise.alpha is not None and math.isclose(noise.alpha, 1.0 - noise.sigma, abs_tol=1e-4):
        alpha = (1.0 - sigma).clamp(min=0.0)  # a rectified flow whose predictions are x0 or epsilon
    else:
        raise ConfigurationError(
            f"sigma_map needs the signal level of each element to convert {source} to {target}: only flow and v "
            "predictions imply it, and alphas of 1.0 or of 1 - sigma."
        )
    a1, b1 = _to_x0_by_element(source, alpha, sigma)
    a2, b2 = _from_x0_by_element(target, alpha, sigma)
    return AffineByElement(a2 + b2 * a1, b2 * b1)


def _is_implied(noise: Noise) -> bool:
    """Whether the signal level is the one that v predictions imply."""
    return noise.sigma <= 1 and math.isclose(noise.alpha or 0.0, math.sqrt(1.0 - noise.sigma**2), abs_tol=1e-4)


def _inverse(value: Tensor) -> Tensor:
    """Return `1/value`, and 0 where it is 0."""
    return torch.where(value > 0, 1.0 / value, 0.0)


def _to_x0_by_element(source: str, alpha: Any, sigma: Tensor) -> tuple[Any, Any]:
    if source == "epsilon":
        inverse = _inverse(alpha) if isinstance(alpha, Tensor) else 1.0
        return inverse, -sigma * inverse
    return _to_x0(source, alpha, sigma)


def _from_x0_by_element(target: str, alpha: Any, sigma: Tensor) -> tuple[Any, Any]:
    if target == "x0":
        return 0.0, 1.0
    inverse = _inverse(sigma)
    if target == "flow":
        return inverse, -inverse
    if target == "epsilon":
        return inverse, -alpha * inverse
    return alpha * inverse, -(alpha * alpha + sigma * sigma) * inverse


def _to_x0(source: str, alpha: Any, sigma: Any) -> tuple[Any, Any]:
    if source == "x0":
        return 0.0, 1.0
    if source == "flow":
        return 1.0, -sigma
    if source == "epsilon":
        if alpha == 0:
            raise ConfigurationError("an epsilon prediction says nothing about x0 where alpha is 0.")
        return 1.0 / alpha, -sigma / alpha
    power = alpha**2 + sigma**2
    return alpha / power, -sigma / power


def _from_x0(target: str, alpha: float, sigma: float) -> tuple[float, float]:
    if target == "x0":
        return 0.0, 1.0
    if sigma == 0:
        raise ConfigurationError(f"x0 cannot be converted to {target} at sigma 0.")
    if target == "flow":
        return 1.0 / sigma, -1.0 / sigma
    if target == "epsilon":
        return 1.0 / sigma, -alpha / sigma
    return alpha / sigma, -(alpha**2 + sigma**2) / sigma
