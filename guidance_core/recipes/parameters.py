"""The parameters of a recipe: a field for each, from a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from guidance_core.errors import SpecError, brief, suggest
from guidance_core.methods.fields import blocks
from guidance_core.parameters.fields import choice, flag, names, number, numbers, text, whole
from guidance_core.parameters.values import UNSET


def _amount(default: Any, **about: Any) -> Any:
    """A field for a number that may be a switch as well: true is 1, and false 0."""
    field: Any = number(float(default), **about)
    convert = field.converter
    field.converter = lambda given: convert(float(given) if isinstance(given, bool) else given)
    return field


def _choice(default: Any, options: Any = (), **about: Any) -> Any:
    """A field for one of a few names, `none` among them if it is listed: TOML and specs read that word as None."""
    field = choice(default, tuple(options), **about)
    if "none" in options:
        convert: Any = field.converter
        field.converter = attrs.Converter(
            lambda given, owner, about: convert.converter("none" if given is None else given, owner, about),
            takes_self=True,
            takes_field=True,
        )
    return field


_KINDS: Mapping[str, Callable[..., Any]] = {
    "amount": _amount,
    "blocks": blocks,
    "choice": _choice,
    "flag": flag,
    "names": names,
    "number": number,
    "numbers": numbers,
    "text": text,
    "whole": whole,
}


def field_of(whose: str, name: str, about: Mapping[str, Any]) -> Any:
    """Return the attrs field of one parameter.

    Args:
        whose: the recipe, for errors.
        name: of the parameter.
        about: `default`, `help`, and what fields of its kind take: bounds (`ge`, `gt`, `le`, `lt`), `options`. The kind
            follows from the default, or is said: `kind = "blocks"`. A number whose default is `"none"` need not be
            given, and is `none` in expressions.

    Raises:
        SpecError: it is something else.
    """
    what = f"{whose}: its parameter {brief(name)}"
    if not isinstance(about, Mapping) or "default" not in about:
        raise SpecError(f"{what} is a table with a default, such as {{ default = 5.0, help = '...' }}.")
    rest = {key: value for key, value in about.items() if key not in ("kind", "default")}
    kind = about.get("kind", _kind_of(about["default"], rest))
    if not isinstance(kind, str) or kind not in _KINDS:
        raise SpecError(f"{what} is of the kind {brief(kind)}, which is not known.{suggest(str(kind), _KINDS)}")
    default = about["default"]
    if isinstance(default, list | tuple):
        default = tuple(default)
    if default == "none" and kind != "choice":
        default = UNSET if kind == "number" else None
    try:
        return _KINDS[kind](default, **rest)
    except (TypeError, ValueError, AttributeError) as error:
        raise SpecError(f"{what} cannot be made from {brief(dict(about))}: {error}.") from None


def _kind_of(default: Any, rest: Mapping[str, Any]) -> str:
    if isinstance(default, bool):
        return "flag"
    if isinstance(default, str):
        return "choice" if "options" in rest else "text"
    if isinstance(default, list | tuple):
        return "blocks"
    return "whole" if isinstance(default, int) else "number"
