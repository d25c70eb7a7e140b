"""Independent condition guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import attrs
import torch

from guidance_core import (
    Branch,
    ConfigurationError,
    Scale,
    Step,
    WeakenedPass,
    choice,
    chosen_inputs,
    documented,
    names,
    number,
    text,
    whole,
)


@documented
@attrs.frozen
class ICG(WeakenedPass):
    """Independent condition guidance: classifier-free guidance whose u has a random condition.

        guided = c + (s − 1)·(c − u)

    `u` is the pass with a new random condition in each step. With `draw=noise` each floating-point input is Gaussian
    noise with the input's standard deviation, with `draw=class` labels are drawn from `classes`, and with `draw=given`
    it is the condition that the host provides under the name `random`, such as random text. The random numbers depend
    only on the sample's seed and the step. The model does not have to be trained without conditions. At s = 1 it is not
    run.

    Source: Sadat et al., arXiv:2407.02687, section 4 and appendix G. Here, the standard deviation is per sample; in the
    paper it is that of the whole batch.
    """

    form_of: ClassVar[str] = "cfg"
    neutral: ClassVar[Mapping[str, float]] = {"scale": 1.0}

    scale: Scale = number(3.0, help="guidance scale s; 1 is off and runs no extra pass")
    draw: Literal["noise", "class", "given"] = choice(
        "noise", ("noise", "class", "given"), help="kind of the random condition"
    )
    classes: int = whole(1000, ge=1, help="number of labels to draw from, with draw=class")
    inputs: Sequence[str] = names(help="names of the inputs to draw (none: all of the kind)")
    branch: str = text("random", help="name of the branch")

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.draw == "given" and self.inputs:
            raise ConfigurationError("ICG: with draw=given the host provides the condition; leave out inputs.")

    def weakened(self, step: Step) -> Branch:
        """Return the pass with a random condition."""
        strength = step.value(self.scale) - 1
        if self.draw == "given":
            return Branch(self.branch, condition="random", strength=strength)
        edit = Drawn(0 if self.draw == "noise" else self.classes, tuple(self.inputs))
        return Branch(self.branch, edit=edit, strength=strength)


@attrs.frozen
class Drawn:
    """The edit: the same for the same parameters."""

    classes: int
    "Number of labels; 0 draws noise."
    inputs: tuple[str, ...]

    def __call__(
        self, inputs: Mapping[str, Any], noise: Callable[[torch.Tensor, str], torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Return random inputs in place of those of the condition."""
        chosen = chosen_inputs(inputs, self.inputs, floating=self.classes == 0)
        return {name: self._drawn(y, name, noise) for name, y in chosen.items()}

    def _drawn(self, y: torch.Tensor, name: str, noise: Callable[[torch.Tensor, str], torch.Tensor]) -> torch.Tensor:
        if self.classes:
            share = torch.special.ndtr(noise(y.double(), name))  # uniform in [0, 1]
            label: torch.Tensor = (share * self.classes).floor().clamp(max=self.classes - 1)
            return label.to(y.dtype)
        dims = tuple(range(1, y.ndim)) or (0,)
        exact = y.to(torch.promote_types(y.dtype, torch.float32))
        drawn: torch.Tensor = noise(exact, name) * exact.std(dims, correction=0, keepdim=True)
        return drawn.to(y.dtype)
