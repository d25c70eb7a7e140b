"""Values to try for a parameter, from what its field and its own value say about it."""

from __future__ import annotations

from typing import Any

import attrs

from guidance_core.parameters.values import UNSET, PerOutput

_NUMBERS = (0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 7.5, -1.0)
_WHOLES = (0, 1, 2, 3)
_BLOCKS = ((0,), (1, 2))


def candidates(field: attrs.Attribute[Any], value: Any) -> list[Any]:
    """Return values to try for a parameter."""
    kind = str(field.type)
    options = field.metadata.get("options")
    found: list[Any]
    if options is not None:
        found = list(options)
    elif isinstance(value, bool):
        found = [not value]
    elif isinstance(value, str):
        found = ["other"]
    elif isinstance(value, int):
        found = list(_WHOLES)
    elif isinstance(value, PerOutput):
        found = [*_NUMBERS]
    elif isinstance(value, float) or (value is not UNSET and value is not None and "float" in kind):
        found = list(_NUMBERS)
    elif isinstance(value, tuple) or value is None:
        found = [*_BLOCKS, *(_NUMBERS if value is None else ())]
    else:
        found = [*_NUMBERS, *_WHOLES, *_BLOCKS]
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal and of one type: True is not 1."""
    return type(one) is type(other) and bool(one == other)
