"""The values a parameter can hold beside a plain number: one per output, or a tensor."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from guidance_core.errors import ConfigurationError, brief


def by_name(given: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a table with its keys as text.

    Raises:
        ConfigurationError: two keys are the same text, such as 1 and "1".
    """
    named = {str(key): value for key, value in given.items()}
    if len(named) < len(given):
        raise ConfigurationError(f"a name is given twice; the names are {', '.join(sorted(map(str, given)))}.")
    return named


def plain_number(given: Any) -> Any:
    """Return the Python number, text or truth value that a NumPy scalar is; anything else as it is given."""
    return given.item() if type(given).__module__ == "numpy" and getattr(given, "ndim", None) == 0 else given


@attrs.frozen(eq=False, repr=False, init=False)
class PerOutput(Mapping[str, Any]):
    """A value for each named output, with element-wise arithmetic: `PerOutput(video=3) - 1`.

    A dict given as a parameter becomes a `PerOutput`. The other operand may be a number, a tensor, or another
    `PerOutput` with the same outputs.
    """

    _values: dict[str, Any]

    def __init__(self, values: Mapping[str, Any] | None = None, /, **named: Any) -> None:
        self.__attrs_init__({**(values or {}), **named})

    def __getitem__(self, output: str) -> Any:
        return self._values[output]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{output}: {value!r}" for output, value in self._values.items()) + "}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PerOutput) and self._values == other._values

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def map(self, function: Callable[[Any], Any]) -> PerOutput:
        """Apply `function` to each output's value."""
        return PerOutput({output: function(value) for output, value in self._values.items()})

    def _with(self, other: Any, function: Callable[[Any, Any], Any]) -> PerOutput:
        if not isinstance(other, PerOutput):
            return self.map(lambda value: function(value, other))
        if other.keys() != self.keys():
            raise ConfigurationError(
                f"values for outputs {', '.join(self)} cannot be combined with values for {', '.join(other)}."
            )
        return PerOutput({output: function(value, other[output]) for output, value in self.items()})

    def __add__(self, other: Any) -> PerOutput:
        return self._with(other, operator.add)

    def __sub__(self, other: Any) -> PerOutput:
        return self._with(other, operator.sub)

    def __mul__(self, other: Any) -> PerOutput:
        return self._with(other, operator.mul)

    def __truediv__(self, other: Any) -> PerOutput:
        return self._with(other, operator.truediv)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: Any) -> PerOutput:
        return self._with(other, lambda value, left: left - value)

    def __neg__(self) -> PerOutput:
        return self.map(operator.neg)


def _as_constant(given: Tensor) -> Tensor:
    try:
        if given.is_complex():
            raise TypeError("complex")
        return given.detach().to("cpu", torch.float32).clone().contiguous()
    except Exception as error:  # without values, sparse, of a dtype that cannot be converted
        raise ConfigurationError(
            f"a tensor as a value must be dense and real, and have values; got {brief(given)}."
        ) from error


@attrs.frozen(eq=False, repr=False)
class TensorValue:
    """An immutable tensor parameter, such as one scale per sample.

    Dimensions are aligned from the batch on: `[B]` is one value per sample, `[B, S]` one per
    sample and token, `[1, S]` one per token; missing trailing dimensions broadcast. It is held as
    float32 on the CPU and copied to the sample's device in each step that uses it.
    """

    tensor: Tensor = attrs.field(converter=_as_constant)

    def __repr__(self) -> str:
        return f"tensor({self.tensor.tolist()})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TensorValue) and torch.equal(self.tensor, other.tensor)

    def __hash__(self) -> int:
        return hash(tuple(self.tensor.flatten().tolist()))


def aligned(one: Any, other: Any) -> tuple[Any, Any]:
    """Return two values for arithmetic: tensors with dimensions aligned from the batch on.

    `[B]` and `[B, S]` become `[B, 1]` and `[B, S]`. Use it in the `build_branches` of a method with two parameters that
    may be tensors; in other hooks `step.value` aligns them with the prediction.

    Args:
        one: a number, a tensor, or a `PerOutput` of these.
        other: another.
    """
    if isinstance(one, PerOutput) or isinstance(other, PerOutput):
        names = one if isinstance(one, PerOutput) else other
        of_one, of_other = (
            each if isinstance(each, PerOutput) else PerOutput(dict.fromkeys(names, each)) for each in (one, other)
        )
        pairs = of_one._with(of_other, aligned)
        return pairs.map(operator.itemgetter(0)), pairs.map(operator.itemgetter(1))
    if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.ndim == other.ndim:
        return one, other
    ndim = max(one.ndim, other.ndim)
    return tuple(each.reshape(*each.shape, *(1,) * (ndim - each.ndim)) for each in (one, other))  # type: ignore[return-value]


NEUTRAL = 1e-9
"Numbers no further apart than this count as one: a scale of 1.0000000000000002 runs no extra pass."


def is_neutral(value: float | Tensor, neutral: float = 0.0) -> bool:
    """Whether a number, or every entry of a tensor, is the neutral one."""
    if isinstance(value, Tensor):
        return bool(((value - neutral).abs() <= NEUTRAL).all())
    return abs(value - neutral) <= NEUTRAL


@attrs.frozen
class Unset:
    """The value of a parameter that was not given, if every number would have a meaning."""

    def __repr__(self) -> str:
        return "unset"

    def __reduce__(self) -> str:
        return "UNSET"  # copied, or in another process, it is the same object

    def __bool__(self) -> bool:
        raise TypeError("an unset parameter has no truth value; compare with `is UNSET`")


UNSET = Unset()
