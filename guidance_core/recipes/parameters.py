"""The parameters of a recipe: a field for each, from a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from guidance_core.errors import SpecError, brief, suggest
from guidance_core.methods.fields import blocks
from guidance_core.parameters.fields import choice, flag, names, number, numbers, text, whole
from guidance_core.parameters.values import UNSET

_KINDS: Mapping[str, Callable[..., Any]] = {
    "blocks": blocks,
    "choice": choice,
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
    if not name.isidentifier():
        raise SpecError(f"{what} has a name that is none.")
    if not isinstance(about, Mapping) or "default" not in about:
        raise SpecError(f"{what} is a table with a default, such as {{ default = 5.0, help = '...' }}.")
    rest = {key: value for key, value in about.items() if key not in ("kind", "default")}
    kind = about.get("kind", _kind_of(about["default"], rest))
    if kind not in _KINDS:
        raise SpecError(f"{what} is of the kind {brief(kind)}, which is not known.{suggest(str(kind), _KINDS)}")
    default = about["default"]
    if isinstance(default, list):
        default = tuple(default)
    if default == "none":
        default = UNSET if kind == "number" else None
    if kind == "choice":
        rest["options"] = tuple(rest.get("options", ()))
    try:
        return _KINDS[kind](default, **rest)
    except TypeError as error:
        raise SpecError(f"{what} cannot be made from {brief(dict(about))}: {error}.") from None


def _kind_of(default: Any, rest: Mapping[str, Any]) -> str:
    if isinstance(default, bool):
        return "flag"
    if isinstance(default, str):
        return "choice" if "options" in rest else "text"
    if isinstance(default, list):
        return "blocks"
    return "whole" if isinstance(default, int) else "number"
