"""Fields for a plugin's parameters: converted, checked once, and named in every error."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import attrs
import torch

from guidance_core.errors import ConfigurationError, brief, did_you_mean
from guidance_core.parameters.schedules import Schedule, Table
from guidance_core.parameters.values import UNSET, PerOutput, TensorValue, Unset, plain_number

LARGEST = 2**31
"Of whole numbers that count something."

Scale: TypeAlias = float | TensorValue | PerOutput | Schedule
"What a numeric parameter may be: a number, a tensor, one per output, or a schedule of the step."


def as_value(given: Any) -> Any:
    """Convert tensors, dicts and whole numbers to the stored form; leave everything else for the check."""
    given = plain_number(given)
    if isinstance(given, torch.Tensor):
        return given.item() if given.ndim == 0 else TensorValue(given)
    if isinstance(given, Mapping) and not isinstance(given, PerOutput):
        return PerOutput({str(output): as_value(value) for output, value in given.items()})
    if isinstance(given, int) and not isinstance(given, bool) and is_finite(given):
        return float(given)
    return given


def is_finite(number: float) -> bool:
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


def check_number(what: str, value: Any, ge: float | None = None, le: float | None = None) -> None:
    """Raise `ConfigurationError` unless every number in `value` is finite and within bounds."""
    for leaf in leaves(value):
        if isinstance(leaf, TensorValue):
            tensor = leaf.tensor
            if not bool(torch.isfinite(tensor).all()):
                raise ConfigurationError(f"{what} has entries that are NaN or infinite: {leaf!r}.")
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
        if (ge is not None and low < ge) or (le is not None and high > le):
            bounds = f"[{'-inf' if ge is None else f'{ge:g}'}, {'inf' if le is None else f'{le:g}'}]"
            raise ConfigurationError(f"{what} must lie in {bounds}; got {leaf!r}.")


def number(default: Any = attrs.NOTHING, *, ge: float | None = None, le: float | None = None, help: str = "") -> Any:
    """An attrs field for a numeric parameter: number, tensor, value per output, or schedule.

    Args:
        default: its default; `UNSET` where a preset or the plugin decides.
        ge: smallest value allowed.
        le: largest value allowed.
        help: one line for `guidance-core plugins` and `describe()`.

    Raises (when the plugin is made):
        ConfigurationError: naming plugin and parameter, for a value that is no number, not finite
            or out of bounds.
    """

    def check(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if value is not UNSET:
            check_number(f"{type(owner).__name__}: {field.name}", value, ge, le)

    return attrs.field(default=default, converter=as_value, validator=check, metadata={"help": help})


def choice(default: Any, options: tuple[str, ...], *, help: str = "", optional: bool = False) -> Any:
    """An attrs field for one of a few names; `optional` also allows `None`.

    A number stands for the name it is written like, so that `preset=2.3` means `"2.3"`; where it is
    `optional`, so does the word `none` for None, which TOML cannot hold.
    """

    def convert(given: Any) -> Any:
        given = plain_number(given)
        if optional and given == "none":
            return None
        return str(given) if isinstance(given, int | float) else given

    def check(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if not (value is None and optional) and value not in options:
            hint = did_you_mean(value, options) if isinstance(value, str) else ""
            raise ConfigurationError(
                f"{type(owner).__name__}: {field.name} must be one of {', '.join(options)}; got {value!r}.{hint}"
            )

    metadata = {"help": help, "options": (*options, None) if optional else options}
    return attrs.field(default=default, converter=convert, validator=check, metadata=metadata)


def flag(default: bool, *, help: str = "") -> Any:
    """An attrs field for a switch: true or false."""

    def check(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, bool):
            raise ConfigurationError(f"{type(owner).__name__}: {field.name} must be true or false; got {value!r}.")

    return attrs.field(default=default, validator=check, metadata={"help": help, "options": (True, False)})


def text(default: Any, *, help: str = "") -> Any:
    """An attrs field for a name of the author's or user's own choosing, which may not be empty."""

    def check(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, str) or not value:
            raise ConfigurationError(f"{type(owner).__name__}: {field.name} must be a name; got {value!r}.")

    return attrs.field(default=default, validator=check, metadata={"help": help})


def whole(default: Any = attrs.NOTHING, *, ge: int = 0, help: str = "") -> Any:
    """An attrs field for a whole number of at least `ge`; per output and by sigma where wanted."""

    def convert(given: Any) -> Any:
        given = plain_number(given)
        if isinstance(given, Mapping) and not isinstance(given, PerOutput):
            return PerOutput({str(output): convert(value) for output, value in given.items()})
        return int(given) if isinstance(given, float) and given.is_integer() else given

    def check(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
        for leaf in () if isinstance(value, Unset) else leaves(value):
            if isinstance(leaf, bool) or not isinstance(leaf, int) or leaf < ge:
                raise ConfigurationError(
                    f"{type(owner).__name__}: {field.name} must be a whole number of at least {ge}; got {brief(leaf)}."
                )
            if leaf > LARGEST:
                raise ConfigurationError(
                    f"{type(owner).__name__}: {field.name} must be at most {LARGEST:,}; got {brief(leaf, 60)}."
                )

    return attrs.field(default=default, converter=convert, validator=check, metadata={"help": help})
