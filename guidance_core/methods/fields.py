"""Fields for parameters that say which part of a model or of a prediction a method looks at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from guidance_core.algebra.statistics import RANGES, as_over
from guidance_core.errors import ConfigurationError, brief
from guidance_core.methods.perturbations import as_blocks
from guidance_core.parameters.fields import LARGEST, REQUIRED, T
from guidance_core.parameters.schedules import Schedule, Table
from guidance_core.parameters.values import UNSET, PerOutput, plain_number


def blocks(default: T = REQUIRED, *, varies: bool = True, help: str = "") -> T:
    """An attrs field for indices of transformer blocks, from 0; None means all blocks.

    Annotate it with `Blocks | None`. The value is kept as a sorted tuple. If it `varies`, a dict gives blocks by
    output, and a `Table` gives blocks by sigma.
    """

    def convert(given: Any, owner: Any, field: attrs.Attribute[Any]) -> Any:
        if not varies and isinstance(given, Mapping | Schedule):
            raise ConfigurationError(
                f"{type(owner).__name__}: {field.name} must be the same for all outputs and steps, such as (28, 29); "
                f"got {brief(given)}."
            )
        if isinstance(given, Mapping):
            return PerOutput({str(output): convert(each, owner, field) for output, each in given.items()})
        if isinstance(given, Table):
            return Table({bound: convert(each, owner, field) for bound, each in given.rows})
        if given is UNSET or isinstance(given, Schedule):
            return given
        try:
            return as_blocks(given)
        except ConfigurationError as error:
            raise ConfigurationError(f"{type(owner).__name__}: {field.name}: {error}") from None

    converter: Any = attrs.Converter(convert, takes_self=True, takes_field=True)
    metadata = {"kind": "blocks", "help": help, "optional": True}
    return attrs.field(default=default, converter=converter, metadata=metadata)


SAMPLE: Any = "sample"
NOT_GIVEN: Any = None


def extent(default: T = SAMPLE, *, optional: bool = False, batch: bool = True, help: str = "") -> T:
    """An attrs field for the range of a statistic: `sample`, `channel`, `token`, ... or dimensions such as [-1, -2].

    Annotate it with `Over`.

    Args:
        default: its default.
        optional: whether None is allowed.
        batch: whether a statistic may cover the whole batch (`tensor`).
        help: one line for `guidance-core plugins` and `describe()`.
    """
    options = tuple(name for name in RANGES if batch or name != "tensor")

    def convert(given: Any, owner: Any, field: attrs.Attribute[Any]) -> Any:
        if optional and (given is None or given == "none"):
            return None
        if isinstance(given, (list, tuple)):
            given = tuple(int(each) if isinstance(each, float) and each.is_integer() else each for each in given)
        what = f"{type(owner).__name__}: {field.name}"
        try:
            over = as_over(given)
        except ConfigurationError as error:
            raise ConfigurationError(f"{what}: {error}") from None
        if not batch and (over == "tensor" or (not isinstance(over, str) and 0 in over)):
            raise ConfigurationError(f"{what} must leave the batch apart; got {brief(given)}.")
        return over

    converter: Any = attrs.Converter(convert, takes_self=True, takes_field=True)
    metadata = {"kind": "extent", "help": help, "options": (*options, None) if optional else options}
    return attrs.field(default=default, converter=converter, metadata=metadata)


def grid(default: T = NOT_GIVEN, *, help: str = "") -> T:
    """An attrs field for the rows and columns of a model's tokens, two whole numbers; None if it has no tokens.

    Annotate it with `Sequence[int] | None`. The value is kept as a tuple, for `planes(x, grid)`.
    """

    def convert(given: Any, owner: Any, field: attrs.Attribute[Any]) -> Any:
        if given is None or (isinstance(given, str) and given == "none"):
            return None
        sides: list[Any] = []
        if isinstance(given, Sequence) and not isinstance(given, str | bytes | bytearray):
            sides = [plain_number(each) for each in given]
            sides = [int(each) if isinstance(each, float) and each.is_integer() else each for each in sides]
        if len(sides) != 2 or not all(type(each) is int and 0 < each <= LARGEST for each in sides):
            raise ConfigurationError(
                f"{type(owner).__name__}: {field.name} must be the rows and columns of the tokens, such as [64, 96]; "
                f"got {brief(given)}."
            )
        return tuple(sides)

    converter: Any = attrs.Converter(convert, takes_self=True, takes_field=True)
    return attrs.field(default=default, converter=converter, metadata={"kind": "grid", "help": help, "optional": True})
