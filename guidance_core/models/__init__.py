"""Small denoisers that run anywhere, for demonstrations, tests and measurements.

`GaussianMixture` is exact, and answers whether a formula is right. `LettersTransformer` is learned, and shows what a
method does to pictures; `LettersJudge` counts how many of them are right.
`KeypadTransformer` makes picture and sound together, with LTX-2's architecture in little.
"""

from guidance_core.models.gaussians import UNCONDITIONAL, GaussianMixture, default_mixture
from guidance_core.models.keypad import KeypadTransformer, load_keypad_model
from guidance_core.models.keypad_clips import KeypadDenoiser, make_clips
from guidance_core.models.letters import (
    ANY_CHARACTER,
    ANY_TYPEFACE,
    CHARACTERS,
    TYPEFACES,
    LettersTransformer,
    SmallLettersTransformer,
    letters_condition,
    load_letters_model,
    load_small_letters_model,
)
from guidance_core.models.letters_judge import LettersJudge, load_letters_judge

__all__ = [
    "ANY_CHARACTER",
    "ANY_TYPEFACE",
    "CHARACTERS",
    "TYPEFACES",
    "UNCONDITIONAL",
    "GaussianMixture",
    "KeypadDenoiser",
    "KeypadTransformer",
    "LettersJudge",
    "LettersTransformer",
    "SmallLettersTransformer",
    "default_mixture",
    "letters_condition",
    "load_keypad_model",
    "load_letters_judge",
    "load_letters_model",
    "load_small_letters_model",
    "make_clips",
]
