"""What `help()` shows of a plugin: its parameters with their types, their help texts and what they may be."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any, TypeVar

import attrs

from guidance_core.errors import ConfigurationError
from guidance_core.parameters.fields import ANY

T = TypeVar("T")

WIDTH = 112
"Of a line; `help()` adds eight columns."


def documented(cls: type[T]) -> type[T]:
    """Make `help()` show a plugin's parameters: types in the signature, and help texts below the docstring.

    Put it above `@attrs.frozen`. It takes everything from the fields.

        @documented
        @attrs.frozen
        class CFG:
            scale: Scale = number(7.5, help="guidance scale s; 1 is off and runs no extra pass")

    Args:
        cls: the attrs class. Its docstring and the annotations of its `__init__` change in place.

    Raises:
        ConfigurationError: it is not an attrs class yet.
    """
    plugin: Any = cls
    if not attrs.has(plugin):
        raise ConfigurationError(f"{cls.__name__}: @documented stands above @attrs.frozen, which makes the fields.")
    fields = parameters_of(plugin)
    init = vars(cls).get("__init__")
    if inspect.isfunction(init):
        types = {_name(field): field.type for field in fields if field.type is not None}
        init.__annotations__ = {**init.__annotations__, **types}
    if cls.__doc__ is not None and fields:  # under `python -OO` there are no docstrings
        lines = "\n".join(map(_line, fields))
        cls.__doc__ = f"{inspect.cleandoc(cls.__doc__)}\n\nArgs:\n{lines}"
    return cls


def parameters_of(plugin: Any) -> list[attrs.Attribute[Any]]:
    """Return the fields of a plugin's class that callers may give; those given by name alone are last."""
    return sorted((field for field in attrs.fields(plugin) if field.init), key=lambda field: field.kw_only)


def _name(field: attrs.Attribute[Any]) -> str:
    """Return the name of the argument that a field has."""
    return field.alias or field.name


def _line(field: attrs.Attribute[Any]) -> str:
    """Return what there is to say about a field."""
    bounds, options = field.metadata.get("bounds", ANY), field.metadata.get("options")
    said = [str(field.metadata.get("help", ""))]
    if isinstance(options, tuple | list):
        said.append(f"({', '.join('none' if each is None else str(each) for each in options)})")
    elif bounds != ANY:
        said.append(f"(in {bounds})")
    text = f"{_name(field)}: {' '.join(filter(None, said))}"
    return textwrap.fill(text, WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 8)
