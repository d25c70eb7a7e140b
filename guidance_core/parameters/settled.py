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
    """Return the effective value and the origin of every parameter of a plugin.

    A plugin with presets has a field `preset` and a class attribute `presets` that maps each name
    to values; a field left `UNSET` takes its value from there.

    Args:
        plugin: the plugin.
        given: names of the parameters that were given, if they are known. Otherwise a value that equals the default
            counts as default.
    """
    fields = [field for field in attrs.fields(type(plugin)) if field.init]
    preset = getattr(plugin, "preset", None)
    from_preset: Mapping[str, Any] = getattr(plugin, "presets", {}).get(preset, {})
    settled = {}
    for field in fields:
        value = getattr(plugin, field.name)
        if value is UNSET:
            settled[field.name] = Settled(from_preset.get(field.name, UNSET), f"preset {preset}")
        elif field.name in given if given is not None else _differs(value, plugin, field):
            settled[field.name] = Settled(value, "given")
        else:
            settled[field.name] = Settled(value, "default")
    return settled


def _differs(value: Any, plugin: Any, field: attrs.Attribute[Any]) -> bool:
    """Whether a value is not the field's default, as far as the two can be compared."""
    try:
        default = _default(plugin, field)
        return value is not default and bool(value != default)
    except Exception:
        return True


def _default(plugin: Any, field: attrs.Attribute[Any]) -> Any:
    """Return the field's default in the form that an instance holds."""
    default: Any = field.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        default = default.factory(plugin) if default.takes_self else default.factory()
    converter: Any = field.converter
    if default is attrs.NOTHING or converter is None:
        return default
    takes_more = isinstance(converter, attrs.Converter)
    return converter(default, plugin, field) if takes_more else converter(default)
