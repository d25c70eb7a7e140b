"""Fields for a plugin's parameters: converted, checked once, and named in every error."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, SupportsFloat, TypeAlias, TypeVar

import attrs
import torch

from guidance_core.errors import ConfigurationError, brief, did_you_mean
from guidance_core.parameters.phases import Counted, is_counted
from guidance_core.parameters.schedules import Schedule
from guidance_core.parameters.values import UNSET, PerOutput, TensorValue, Unset, by_name, plain_number

LARGEST = 2**31
"Of whole numbers that count something."

Value: TypeAlias = float | SupportsFloat | torch.Tensor | TensorValue | Schedule
"A number (one of NumPy too), a tensor, or a schedule of the step."

Scale: TypeAlias = Value | Mapping[str, Value]
"What a numeric parameter may be given as: a number, a tensor, a schedule of the step, or one of these per output."

Whole: TypeAlias = int | Schedule | Mapping[str, int | Schedule]
"What a whole number may be given as: one, a schedule such as a table by sigma, or one of these per output."

T = TypeVar("T")
"What callers may give for a field, as its annotation says; `number(7.5)` is checked against it."

REQUIRED: Any = attrs.NOTHING
NONE: Any = ()


def as_value(given: Any) -> Any:
    """Convert tensors, dicts, whole numbers and text such as `3x3+7x45` to the stored form; the check does the rest."""
    given = plain_number(given)
    if isinstance(given, str) and is_counted(given):
        return Counted(given)
    if isinstance(given, torch.Tensor):
        return _plain(given) if given.ndim == 0 else TensorValue(given)
    if isinstance(given, Mapping) and not isinstance(given, PerOutput):
        return PerOutput({output: as_value(value) for output, value in by_name(given).items()})
    if isinstance(given, bool | float):
        return given
    return float(given) if isinstance(given, Real) and is_finite(given) else given


def _plain(given: torch.Tensor) -> Any:
    """Return the number in a tensor without dimensions."""
    return given.item() if given.dtype == torch.bool or given.is_complex() else float(TensorValue(given).tensor)


def is_finite(number: Any) -> bool:
    """Whether a number is finite, as a float too."""
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number that no float can hold
        return False


def leaves(value: Any) -> Iterator[Any]:
    """Yield the numbers (or tensors, or other leaves) inside a value, its outputs and schedules."""
    if isinstance(value, PerOutput):
        for inner in value.values():
            yield from leaves(inner)
    elif isinstance(value, Schedule):
        for inner in value.limits() or ():
            yield from leaves(inner)
    else:
        yield value


@attrs.frozen
class Bounds:
    """What a number may be: at least `ge` or more than `gt`, and at most `le` or less than `lt`."""

    ge: float | None = None
    le: float | None = None
    gt: float | None = None
    lt: float | None = None

    def hold(self, low: float, high: float) -> bool:
        """Whether all numbers from `low` to `high` are allowed."""
        return (
            (self.ge is None or low >= self.ge)
            and (self.gt is None or low > self.gt)
            and (self.le is None or high <= self.le)
            and (self.lt is None or high < self.lt)
        )

    def __str__(self) -> str:
        low = f"({self.gt:g}" if self.gt is not None else "(-inf" if self.ge is None else f"[{self.ge:g}"
        high = f"{self.lt:g})" if self.lt is not None else "inf)" if self.le is None else f"{self.le:g}]"
        return f"{low}, {high}"


ANY = Bounds()


def check_number(what: str, value: Any, bounds: Bounds = ANY) -> None:
    """Raise `ConfigurationError` unless every number in `value` is finite and within bounds."""
    for leaf in leaves(value):
        if isinstance(leaf, TensorValue):
            tensor = leaf.tensor
            if not bool(torch.isfinite(tensor).all()):
                raise ConfigurationError(f"{what} has entries that are NaN or infinite: {brief(leaf)}.")
            low, high = (float(tensor.min()), float(tensor.max())) if tensor.numel() else (0.0, 0.0)
            if tensor.numel() == 0:
                raise ConfigurationError(f"{what} is an empty tensor.")
        elif isinstance(leaf, bool) or not isinstance(leaf, (int, float)):
            hint = ""
            if isinstance(leaf, (list, tuple)):
                hint = " Values per sample are a tensor: torch.tensor([1.0, 3.0]), in a spec tensor([1, 3])."
            elif callable(getattr(leaf, "at", None)):
                hint = " A schedule of your own inherits guidance_core.Schedule."
            raise ConfigurationError(
                f"{what} must be a number, a tensor, a value per output such as "
                f"{{'video': 3, 'audio': 7}}, or a schedule; got {brief(leaf)} ({type(leaf).__name__})." + hint
            )
        elif not is_finite(leaf):
            raise ConfigurationError(f"{what} must be finite; got {brief(leaf)}.")
        else:
            low = high = leaf
        if not bounds.hold(low, high):
            raise ConfigurationError(f"{what} must lie in {bounds}; got {brief(leaf)}.")


def number(
    default: T = REQUIRED,
    *,
    ge: float | None = None,
    le: float | None = None,
    gt: float | None = None,
    lt: float | None = None,
    varies: bool = True,
    help: str = "",
) -> T:
    """An attrs field for a numeric parameter: number, tensor, value per output, or schedule.

    Annotate it with `Scale`, or with `float` if the plugin works with a single number only. The values of a schedule
    are also checked against the bounds, at every step when a run starts.

    Args:
        default: the default value; `UNSET` if a preset or the plugin decides.
        ge: smallest value allowed.
        le: largest value allowed.
        gt: number that every value must exceed.
        lt: number that every value must stay below.
        varies: whether the value may differ by output, sample or step; if not, it is one number.
        help: one line for `guidance-core plugins` and `describe()`.

    Raises (when the plugin is made):
        ConfigurationError: a value is not a number, not finite or out of bounds. The error names plugin and parameter.
    """
    bounds = Bounds(ge, le, gt, lt)

    def check(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
        what = f"{type(owner).__name__}: {field.name}"
        if not varies and isinstance(value, Mapping | TensorValue | Schedule):
            raise ConfigurationError(
                f"{what} must be one number, the same for all outputs, samples and steps; got {brief(value)}."
            )
        if value is not UNSET:
            check_number(what, value, bounds)

    metadata = {"kind": "number", "help": help, "bounds": bounds}
    return attrs.field(default=default, converter=as_value, validator=check, metadata=metadata)


def numbers(
    default: T = REQUIRED,
    *,
    ge: float | None = None,
    le: float | None = None,
    gt: float | None = None,
    lt: float | None = None,
    least: int = 0,
    help: str = "",
) -> T:
    """An attrs field for a list of plain numbers, kept as a tuple of floats; at least `least` of them.

    Annotate it with `Sequence[float]`. A tensor of one dimension is accepted too.
    """
    bounds = Bounds(ge, le, gt, lt)

    def convert(given: Any) -> Any:
        if isinstance(given, torch.Tensor) and given.ndim == 1:
            given = given.tolist()
        if not isinstance(given, Sequence) or isinstance(given, (str, bytes, bytearray)):
            return given
        return tuple(float(each) if isinstance(each, int) and is_finite(each) else each for each in given)

    def check(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
        what = f"{type(owner).__name__}: {field.name}"
        if not isinstance(value, tuple) or not all(isinstance(each, float) for each in value):
            raise ConfigurationError(f"{what} must be a list of numbers, such as [1, 0.5]; got {brief(value)}.")
        if len(value) < least:
            raise ConfigurationError(f"{what} must have at least {least} numbers; got {brief(list(value))}.")
        for each in value:
            check_number(what, each, bounds)

    metadata = {"kind": "numbers", "help": help, "bounds": bounds}
    return attrs.field(default=default, converter=convert, validator=check, metadata=metadata)


def names(default: T = NONE, *, help: str = "") -> T:
    """An attrs field for a list of names, kept as a tuple; a single name is a list of one.

    Annotate it with `Sequence[str]`.
    """

    def convert(given: Any) -> Any:
        return (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Sequence) else given

    def check(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, tuple) or not all(isinstance(each, str) and each for each in value):
            raise ConfigurationError(
                f"{type(owner).__name__}: {field.name} must be names, such as ('cfg', 'stg'); got {brief(value)}."
            )

    return attrs.field(default=default, converter=convert, validator=check, metadata={"kind": "names", "help": help})


def function(default: T = REQUIRED, *, optional: bool = False, help: str = "") -> T:
    """An attrs field for a function, such as the loss of a classifier; `optional` also allows None.

    Annotate it with its type, such as `Callable[[torch.Tensor], torch.Tensor]`. It cannot be written as a spec, JSON
    or TOML.
    """

    def check(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if not callable(value) and not (value is None and optional):
            raise ConfigurationError(f"{type(owner).__name__}: {field.name} must be a function; got {brief(value)}.")

    return attrs.field(default=default, validator=check, metadata={"kind": "function", "help": help})


def choice(default: T, options: tuple[T, ...], *, help: str = "", optional: bool = False) -> T:
    """An attrs field for one of a few names; `optional` also allows `None`.

    Annotate it with a `Literal` of the names, so that type checkers find wrong ones. A number means the name that is
    written in the same way, so `preset=2.3` in a spec means `"2.3"`. If it is `optional`, the word `none` means None,
    which TOML cannot represent.
    """
    allowed = tuple(map(str, options))

    def convert(given: Any, owner: Any, field: attrs.Attribute[Any]) -> Any:
        given = plain_number(given)
        if optional and (given is None or (isinstance(given, str) and given == "none")):
            return None
        value = brief(given) if isinstance(given, int | float) else given
        if not isinstance(value, str) or value not in allowed:
            hint = did_you_mean(value, allowed) if isinstance(value, str) else ""
            raise ConfigurationError(
                f"{type(owner).__name__}: {field.name} must be one of {', '.join(allowed)}; got {brief(given)}.{hint}"
            )
        return value

    # Checked where it is converted: defaults of other parameters may be made from it.
    converter = attrs.Converter(convert, takes_self=True, takes_field=True)
    metadata = {"kind": "choice", "help": help, "options": (*options, None) if optional else options}
    return attrs.field(default=default, converter=converter, metadata=metadata)


def flag(default: T, *, help: str = "") -> T:
    """An attrs field for a switch: true or false."""

    def check(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, bool):
            raise ConfigurationError(f"{type(owner).__name__}: {field.name} must be true or false; got {brief(value)}.")

    metadata = {"kind": "flag", "help": help, "options": (True, False)}
    return attrs.field(default=default, validator=check, metadata=metadata)


def text(default: T, *, optional: bool = False, help: str = "") -> T:
    """An attrs field for any name that is not empty.

    If it is `optional`, None is also allowed, and so is the word `none`.
    """

    def convert(given: Any) -> Any:
        return None if optional and isinstance(given, str) and given == "none" else given

    def check(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if value is None and optional:
            return
        if not isinstance(value, str) or not value:
            raise ConfigurationError(f"{type(owner).__name__}: {field.name} must be a name; got {brief(value)}.")

    metadata = {"kind": "text", "help": help, "optional": optional}
    return attrs.field(default=default, converter=convert, validator=check, metadata=metadata)


def whole(default: T = REQUIRED, *, ge: int = 0, optional: bool = False, help: str = "") -> T:
    """An attrs field for a whole number of at least `ge`, perhaps by output and by sigma.

    Annotate it with `int`, or with `Whole` where it may differ by output or step. `optional` also allows None.
    """

    def convert(given: Any) -> Any:
        given = plain_number(given)
        if optional and isinstance(given, str) and given == "none":
            return None
        if isinstance(given, Mapping) and not isinstance(given, PerOutput):
            return PerOutput({output: convert(value) for output, value in by_name(given).items()})
        is_whole = isinstance(given, Integral) or (isinstance(given, float) and given.is_integer())
        return int(given) if is_whole and not isinstance(given, bool) else given

    def check(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
        for leaf in () if isinstance(value, Unset) or (optional and value is None) else leaves(value):
            if isinstance(leaf, bool) or not isinstance(leaf, int) or leaf < ge:
                raise ConfigurationError(
                    f"{type(owner).__name__}: {field.name} must be a whole number of at least {ge}; got {brief(leaf)}."
                )
            if leaf > LARGEST:
                raise ConfigurationError(
                    f"{type(owner).__name__}: {field.name} must be at most {LARGEST:,}; got {brief(leaf, 60)}."
                )

    metadata = {"kind": "whole", "help": help, "bounds": Bounds(ge=ge)}
    return attrs.field(default=default, converter=convert, validator=check, metadata=metadata)
