"""Small denoisers that run anywhere, for demonstrations, tests and measurements.

`GaussianMixture` is exact, and answers whether a formula is right. `DigitsTransformer` is learned,
and shows what a method does to pictures; `DigitsClassifier` counts how many of them are right.
`KeypadTransformer` makes picture and sound together, with LTX-2's architecture in little.
"""

from guidance_core.models.digits import (
    NULL_LABEL,
    DigitsClassifier,
    DigitsTransformer,
    load_digits_classifier,
    load_digits_model,
)
from guidance_core.models.gaussians import UNCONDITIONAL, GaussianMixture, default_mixture
from guidance_core.models.keypad import KeypadTransformer, load_keypad_model
from guidance_core.models.keypad_clips import KeypadDenoiser, make_clips

__all__ = [
    "NULL_LABEL",
    "UNCONDITIONAL",
    "DigitsClassifier",
    "DigitsTransformer",
    "GaussianMixture",
    "KeypadDenoiser",
    "KeypadTransformer",
    "default_mixture",
    "load_digits_classifier",
    "load_digits_model",
    "load_keypad_model",
    "make_clips",
]
