"""A small transformer that draws letters and digits in many typefaces, and a weaker sibling of it.

They were trained by `training/train_letters.py` on the typefaces that matplotlib ships; the weights ship with the
package.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidance_core.methods.perturbations import Perturbation
from guidance_core.models.transformer import FlowTransformer, loaded

SIDE = 28
"Pixels along a side of a picture."

CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"
"The characters, in the order of their numbers; letters whose two cases look alike count once."

TYPEFACES = {
    "DejaVu Sans": "DejaVuSans.ttf",
    "DejaVu Sans Bold": "DejaVuSans-Bold.ttf",
    "DejaVu Sans Oblique": "DejaVuSans-Oblique.ttf",
    "DejaVu Sans Bold Oblique": "DejaVuSans-BoldOblique.ttf",
    "DejaVu Sans Mono": "DejaVuSansMono.ttf",
    "DejaVu Sans Mono Bold": "DejaVuSansMono-Bold.ttf",
    "DejaVu Sans Mono Oblique": "DejaVuSansMono-Oblique.ttf",
    "DejaVu Sans Mono Bold Oblique": "DejaVuSansMono-BoldOblique.ttf",
    "DejaVu Serif": "DejaVuSerif.ttf",
    "DejaVu Serif Bold": "DejaVuSerif-Bold.ttf",
    "DejaVu Serif Italic": "DejaVuSerif-Italic.ttf",
    "DejaVu Serif Bold Italic": "DejaVuSerif-BoldItalic.ttf",
    "STIX": "STIXGeneral.ttf",
    "STIX Bold": "STIXGeneralBol.ttf",
    "STIX Italic": "STIXGeneralItalic.ttf",
    "STIX Bold Italic": "STIXGeneralBolIta.ttf",
    "Computer Modern": "cmr10.ttf",
    "Computer Modern Bold": "cmb10.ttf",
    "Computer Modern Italic": "cmti10.ttf",
    "Computer Modern Sans": "cmss10.ttf",
    "Computer Modern Typewriter": "cmtt10.ttf",
}
"The typefaces, in the order of their numbers, with the files of matplotlib that they were learned from."

ANY_CHARACTER = len(CHARACTERS)
"The number that leaves the character open."
ANY_TYPEFACE = len(TYPEFACES)
"The number that leaves the typeface open."


class LettersTransformer(FlowTransformer):
    """Predicts the flow `ε − x0` of noisy letters `x = (1 − σ)·x0 + σ·ε`, with `x0` in [-1, 1] and ink at 1.

    A diffusion transformer (arXiv:2212.09748) over 49 patches of 4×4 pixels, conditioned on sigma, on a character and
    on a typeface. Either may be left open: it was trained without the one, without the other, and without both. No
    operation crosses samples.
    """

    def __init__(self, width: int = 96, depth: int = 6, heads: int = 4) -> None:
        super().__init__(side=SIDE, patch=4, width=width, depth=depth, heads=heads)
        self.character = nn.Embedding(len(CHARACTERS) + 1, width)
        self.typeface = nn.Embedding(len(TYPEFACES) + 1, width)

    def forward(
        self,
        x: Tensor,
        sigma: float | Tensor,
        character: Tensor,
        typeface: Tensor,
        perturbations: Sequence[Perturbation] = (),
    ) -> Tensor:
        """Return the flow, `[B, 1, 28, 28]` in the dtype of `x`; computed in the dtype of the weights.

        Args:
            x: `[B, 1, 28, 28]`.
            sigma: a number in [0, 1], or a tensor `[B]` of them.
            character: a LongTensor `[B]` of places in `CHARACTERS`, or `ANY_CHARACTER`; or shares of each, `[B, 48]`.
            typeface: a LongTensor `[B]` of places in `TYPEFACES`, or `ANY_TYPEFACE`; or shares of each, `[B, 22]`.
            perturbations: what the pass changes, of the kinds in `guidance_core.models.changes.POSSIBLE`.

        Raises:
            ConfigurationError: a perturbation is of another kind, or names an output, a block or a head that this
                model does not have.
        """
        said = _vectors(self.character, character) + _vectors(self.typeface, typeface)
        return self.flow(x, sigma, said, perturbations)


class SmallLettersTransformer(LettersTransformer):
    """A narrower, shallower `LettersTransformer`, trained for a shorter time: the weak model of autoguidance."""

    def __init__(self, width: int = 48, depth: int = 4, heads: int = 4) -> None:
        super().__init__(width, depth, heads)


def load_letters_model() -> LettersTransformer:
    """Return the trained transformer: float32 on the CPU, in eval mode, without gradients."""
    with torch.device("meta"):
        model = LettersTransformer()
    return loaded(model, "letters.safetensors")


def load_small_letters_model() -> SmallLettersTransformer:
    """Return its weaker sibling: float32 on the CPU, in eval mode, without gradients."""
    with torch.device("meta"):
        model = SmallLettersTransformer()
    return loaded(model, "letters-small.safetensors")


def letters_condition(character: Tensor, typeface: Tensor) -> dict[str, Tensor]:
    """Return the inputs of a condition as shares, 1 of what is asked for and 0 of all others.

    Unlike numbers, shares can be edited by methods that change what a condition says. Unlike embeddings, they mean the
    same to both transformers.

    Args:
        character: a LongTensor `[B]` of places in `CHARACTERS`, or `ANY_CHARACTER`.
        typeface: a LongTensor `[B]` of places in `TYPEFACES`, or `ANY_TYPEFACE`.
    """
    return {
        "character": F.one_hot(character, len(CHARACTERS) + 1).float(),
        "typeface": F.one_hot(typeface, len(TYPEFACES) + 1).float(),
    }


def _vectors(table: nn.Embedding, given: Tensor) -> Tensor:
    """Return embeddings `[B, width]` of numbers, or of shares."""
    vectors: Tensor = given.to(table.weight.dtype) @ table.weight if given.is_floating_point() else table(given)
    return vectors
