"""Mistakes about parameters: accepted, compared, written and read back, resolved."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs

from guidance_core import Branch, ConfigurationError, PerOutput, hookimpl, number
from zoo.entry import broken
from zoo.sound import Linear, Looking


@broken("round-trip", "comes back as")
@attrs.frozen
class ConvertsItsScaleAgain(Linear):
    """Turns the scale into a strength when it is made, and once more when it is read back."""

    scale: float = attrs.field(default=3.3, converter=lambda given: float(given) - 1, metadata={"help": "scale"})


@broken("equality", "unhashable")
@attrs.frozen
class HoldsAList(Linear):
    """Has a list for a parameter, which cannot be hashed."""

    blocks: list = attrs.field(factory=lambda: [1, 2], metadata={"help": "blocks that are skipped"})

    @hookimpl
    def build_branches(self, step):
        return [Branch("weak", condition="negative", overrides={"blocks": self.blocks}, strength=self.strength(step))]


@broken("equality", "counts as equal")
@attrs.frozen
class LeavesAParameterOutOfEquality(Linear):
    """Excludes its scale from comparisons."""

    scale: Any = attrs.field(default=3.3, eq=False, metadata={"help": "guidance scale"})


@broken("bad-parameters", "scale=nan is accepted")
@attrs.frozen
class AcceptsNaN(Linear):
    """Uses its scale as it was given, without asking whether it is a number."""

    scale: float = attrs.field(default=3.3, metadata={"help": "guidance scale"})

    @scale.validator
    def _check(self, _, value):
        if not isinstance(value, float):
            raise ConfigurationError(f"scale must be a number; got {value!r}.")

    def strength(self, step):
        return min(self.scale, 100.0) - 1 if self.scale > 0 else -1.0


@broken("bad-parameters", "which is refused")
@attrs.frozen
class RefusesWhatItSaysItTakes(Linear):
    """Declares a value of a parameter that its own validator refuses."""

    values_to_try: ClassVar = {"scale": (2.0, "strong")}


@broken("bad-parameters", "form=object() is accepted")
@attrs.frozen
class AcceptsAnyWord(Linear):
    """Compares a word with one spelling, and takes every other for the second."""

    form: str = attrs.field(default="full", metadata={"help": "full or half", "options": ("full", "half")})

    def strength(self, step):
        return super().strength(step) * (1.0 if self.form == "full" else 0.5)


@broken("bad-parameters", "refused with TypeError")
@attrs.frozen
class RefusesWithATypeError(Linear):
    """Checks its parameter with attrs' own validator, whose error is not this library's."""

    scale: float = attrs.field(
        default=3.3, validator=[attrs.validators.instance_of(float)], metadata={"help": "guidance scale"}
    )


@broken("bad-parameters", "does not name 'scale'")
@attrs.frozen
class DoesNotSayWhichParameter(Linear):
    """Refuses a bad value without saying which parameter has it."""

    scale: Any = attrs.field(default=3.3, metadata={"help": "guidance factor"})

    @scale.validator
    def _check(self, _, value):
        if not isinstance(value, float | int) or not abs(value) < float("inf"):
            raise ConfigurationError("this value is not allowed.")


@broken("parameters-count", "stop makes no difference")
@attrs.frozen
class IgnoresWhereToStop(Linear):
    """Has a parameter for the last step to guide, and never looks at it."""

    stop: Any = number(1.0, ge=0, le=1, help="fraction of the steps after which it stops")


@broken("per-sample-parameters", "size of tensor", "gets another result", "broadcast")
@attrs.frozen
class MultipliesByWhatItPlannedWith(Looking):
    """Keeps the value it planned with, whose one number per sample then runs along the last dimension."""

    @hookimpl
    def build_branches(self, step):
        step.shared["scale"] = step.value(self.scale)
        return Looking.build_branches(self, step)

    def delta(self, step, c, u):
        scale = step.shared["scale"]
        return ((scale[step.output] if isinstance(scale, PerOutput) else scale) - 1) * (c - u)


@broken("per-sample-parameters", "gets another result")
@attrs.frozen
class AveragesItsScale(Looking):
    """Takes the mean of the scales of the samples."""

    def delta(self, step, c, u):
        scale = step.value(self.scale)
        return ((scale if isinstance(scale, float) else scale.mean()) - 1) * (c - u)


@broken("per-output-parameters", "gets another result")
@attrs.frozen
class TakesTheFirstOutputForAll(Linear):
    """Takes the value of the first output for all of them."""

    def strength(self, step):
        strength = super().strength(step)
        return strength[step.outputs[0]] if isinstance(strength, PerOutput) else strength


@broken("by-name", "in another order")
@attrs.frozen
class ReadsByPosition(Looking):
    """Takes the predictions in the order that it asked for them."""

    def branches(self, step):
        return [
            Branch("uncond", condition="negative", required=True),
            Branch("weak", condition="negative", overrides={"weak": True}, required=True),
        ]

    @hookimpl
    def combine(self, step, predictions):
        c, u, weak = predictions.values()
        return self.delta(step, c, 0.75 * u + 0.25 * weak)
