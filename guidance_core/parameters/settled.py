"""Parameters that were not given, and where their values come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from guidance_core.parameters.values import UNSET


@attrs.frozen
class Settled:
    """A parameter's value and where it came from."""

    value: Any
    origin: str
    "`given`, `preset 2.3` or `default`."


def settle(plugin: Any, given: frozenset[str] | None = None) -> dict[str, Settled]:
    """Return every parameter of a plugin with its effective value and origin.

    A plugin with presets has a field `preset` and a class attribute `presets` that maps each name
    to values; a field left `UNSET` takes its value from there.

    Args:
        plugin: the plugin.
        given: names of the parameters its maker gave, where that is known; otherwise a value that
            equals the default counts as default.
    """
    fields = [field for field in attrs.fields(type(plugin)) if field.init]
    preset = getattr(plugin, "preset", None)
    from_preset: Mapping[str, Any] = getattr(plugin, "presets", {}).get(preset, {})
    settled = {}
    for field in fields:
        value = getattr(plugin, field.name)
        if value is UNSET:
            settled[field.name] = Settled(from_preset.get(field.name, UNSET), f"preset {preset}")
        elif field.name in given if given is not None else _differs(value, _default(plugin, field)):
            settled[field.name] = Settled(value, "given")
        else:
            settled[field.name] = Settled(value, "default")
    return settled


def _differs(value: Any, default: Any) -> bool:
    try:
        return bool(value != default)
    except Exception:  # arrays compare element by element
        return value is not default


def _default(plugin: Any, field: attrs.Attribute[Any]) -> Any:
    """Return the field's default in the form that an instance holds."""
    default: Any = field.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        default = default.factory(plugin) if default.takes_self else default.factory()
    converter: Any = field.converter
    plain = default is attrs.NOTHING or converter is None or isinstance(converter, attrs.Converter)
    return default if plain else converter(default)
