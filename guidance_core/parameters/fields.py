"""Fields for a plugin's parameters: converted, checked once, and named in every error."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from typing import Any, TypeAlias

import attrs
import torch

from guidance_core.errors import ConfigurationError, brief, did_you_mean
from guidance_core.parameters.schedules import Schedule, Table
from guidance_core.parameters.values import UNSET, PerOutput, TensorValue, Unset, by_name, plain_number

LARGEST = 2**31
"Of whole numbers that count something."

Scale: TypeAlias = float | TensorValue | PerOutput | Schedule
"What a numeric parameter may be: a number, a tensor, one per output, or a schedule of the step."


def as_value(given: Any) -> Any:
    """Convert tensors, dicts and whole numbers to the stored form; leave everything else for the check."""
    given = plain_number(given)
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
    elif isinstance(value, Table):
        for _, inner in value.rows:
            yield from leaves(inner)
    elif attrs.has(type(value)) and isinstance(value, Schedule):
        for name in ("value", "otherwise", "start", "stop"):
            if hasattr(value, name):
                yield from leaves(getattr(value, name))
    elif not isinstance(value, Schedule):
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
    default: Any = attrs.NOTHING,
    *,
    ge: float | None = None,
    le: float | None = None,
    gt: float | None = None,
    lt: float | None = None,
    help: str = "",
) -> Any:
    """An attrs field for a numeric parameter: number, tensor, value per output, or schedule.

    A schedule of somebody else's is held to the bounds too, at every step when a run starts.

    Args:
        default: its default; `UNSET` where a preset or the plugin decides.
        ge: smallest value allowed.
        le: largest value allowed.
        gt: what every value must be larger than.
        lt: what every value must be smaller than.
        help: one line for `guidance-core plugins` and `describe()`.

    Raises (when the plugin is made):
        ConfigurationError: naming plugin and parameter, for a value that is no number, not finite
            or out of bounds.
    """
    bounds = Bounds(ge, le, gt, lt)

    def check(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if value is not UNSET:
            check_number(f"{type(owner).__name__}: {field.name}", value, bounds)

    return attrs.field(default=default, converter=as_value, validator=check, metadata={"help": help, "bounds": bounds})


def numbers(
    default: Any = attrs.NOTHING,
    *,
    ge: float | None = None,
    le: float | None = None,
    gt: float | None = None,
    lt: float | None = None,
    least: int = 0,
    help: str = "",
) -> Any:
    """An attrs field for a list of plain numbers, kept as a tuple of floats; at least `least` of them."""
    bounds = Bounds(ge, le, gt, lt)

    def convert(given: Any) -> Any:
        if isinstance(given, torch.Tensor) and given.ndim == 1:
            given = given.tolist()
        if not isinstance(given, (list, tuple)):
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

    return attrs.field(default=default, converter=convert, validator=check, metadata={"help": help, "bounds": bounds})


def names(default: Any = (), *, help: str = "") -> Any:
    """An attrs field for a list of names, kept as a tuple; one name stands for a list of one."""

    def convert(given: Any) -> Any:
        return (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list) else given

    def check(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, tuple) or not all(isinstance(each, str) and each for each in value):
            raise ConfigurationError(
                f"{type(owner).__name__}: {field.name} must be names, such as ('cfg', 'stg'); got {brief(value)}."
            )

    return attrs.field(default=default, converter=convert, validator=check, metadata={"help": help})


def function(default: Any = attrs.NOTHING, *, optional: bool = False, help: str = "") -> Any:
    """An attrs field for a function, such as the loss of a classifier; `optional` also allows None.

    It cannot be written as a spec, JSON or TOML.
    """

    def check(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if not callable(value) and not (value is None and optional):
            raise ConfigurationError(f"{type(owner).__name__}: {field.name} must be a function; got {brief(value)}.")

    return attrs.field(default=default, validator=check, metadata={"help": help})


def choice(default: Any, options: tuple[str, ...], *, help: str = "", optional: bool = False) -> Any:
    """An attrs field for one of a few names; `optional` also allows `None`.

    A number stands for the name it is written like, so that `preset=2.3` means `"2.3"`; where it is
    `optional`, so does the word `none` for None, which TOML cannot hold.
    """

    def convert(given: Any, owner: Any, field: attrs.Attribute[Any]) -> Any:
        given = plain_number(given)
        if optional and (given is None or (isinstance(given, str) and given == "none")):
            return None
        value = brief(given) if isinstance(given, int | float) else given
        if not isinstance(value, str) or value not in options:
            hint = did_you_mean(value, options) if isinstance(value, str) else ""
            raise ConfigurationError(
                f"{type(owner).__name__}: {field.name} must be one of {', '.join(options)}; got {brief(given)}.{hint}"
            )
        return value

    # Checked where it is converted: defaults of other parameters may be made from it.
    converter = attrs.Converter(convert, takes_self=True, takes_field=True)
    metadata = {"help": help, "options": (*options, None) if optional else options}
    return attrs.field(default=default, converter=converter, metadata=metadata)


def flag(default: bool, *, help: str = "") -> Any:
    """An attrs field for a switch: true or false."""

    def check(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, bool):
            raise ConfigurationError(f"{type(owner).__name__}: {field.name} must be true or false; got {brief(value)}.")

    return attrs.field(default=default, validator=check, metadata={"help": help, "options": (True, False)})


def text(default: Any, *, help: str = "") -> Any:
    """An attrs field for a name of the author's or user's own choosing, which may not be empty."""

    def check(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, str) or not value:
            raise ConfigurationError(f"{type(owner).__name__}: {field.name} must be a name; got {brief(value)}.")

    return attrs.field(default=default, validator=check, metadata={"help": help})


def whole(default: Any = attrs.NOTHING, *, ge: int = 0, optional: bool = False, help: str = "") -> Any:
    """An attrs field for a whole number of at least `ge`; per output and by sigma where wanted.

    `optional` also allows None.
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

    metadata = {"help": help, "bounds": Bounds(ge=ge)}
    return attrs.field(default=default, converter=convert, validator=check, metadata=metadata)
