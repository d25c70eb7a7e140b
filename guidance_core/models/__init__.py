"""Small denoisers that run anywhere, for demonstrations, tests and measurements.

`GaussianMixture` is exact, and answers whether a formula is right. `DigitsTransformer` is learned,
and shows what a method does to pictures; `DigitsClassifier` counts how many of them are right.
"""

from guidance_core.models.digits import (
    NULL_LABEL,
    DigitsClassifier,
    DigitsTransformer,
    load_digits_classifier,
    load_digits_model,
)
from guidance_core.models.gaussians import UNCONDITIONAL, GaussianMixture, default_mixture

__all__ = [
    "NULL_LABEL",
    "UNCONDITIONAL",
    "DigitsClassifier",
    "DigitsTransformer",
    "GaussianMixture",
    "default_mixture",
    "load_digits_classifier",
    "load_digits_model",
]
