"""Plugins from and to plain data, JSON and TOML.

Plain data is a list of tables, one per plugin, in order:

    {"guidance": [{"plugin": "cfg", "scale": 3.0}, {"plugin": "rescale", "phi": 0.7}]}

A value per output is a table by output; a schedule is `{"schedule": "linear", "start": 7, "stop": 1}`;
a tensor is `{"tensor": [1.0, 3.0]}`.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, get_type_hints

import attrs
import torch

from guidance_core.config.spec import MOST_DEPTH, MOST_TEXT
from guidance_core.discovery import PLUGINS, entry_name, plugin_class, plugin_names
from guidance_core.errors import (
    ConfigurationError,
    GuidanceError,
    SpecError,
    UnknownNameError,
    brief,
    did_you_mean,
    suggest,
    told,
)
from guidance_core.parameters.named import SCHEDULES
from guidance_core.parameters.schedules import Schedule
from guidance_core.parameters.settled import settle
from guidance_core.parameters.values import PerOutput, TensorValue, by_name

TABLE = "guidance"
MOST_PLUGINS = 256
MOST = 10**300


@functools.cache
def _converter() -> Any:
    """Return what converts by annotations; made when it is first needed, so that importing the library stays quick."""
    import cattrs

    return cattrs.Converter(detailed_validation=False)


def tables_of(data: Any) -> list[Mapping[str, Any]]:
    """Return the tables of plain data, one for each plugin or recipe.

    Raises:
        SpecError: the data has another form.
    """
    check_size(data)
    extra = sorted(map(str, set(data) - {TABLE})) if isinstance(data, Mapping) else []
    if extra:
        hint = did_you_mean(extra[0], [TABLE])
        raise SpecError(f'only "{TABLE}" is known at the top; got {", ".join(extra)}.{hint}')
    tables = data.get(TABLE) if isinstance(data, Mapping) else data
    if not isinstance(tables, Sequence) or isinstance(tables, str):
        hint = " In TOML a list's tables begin with [[guidance]]." if isinstance(tables, Mapping) else ""
        got = "nothing" if tables is None else f"a {type(tables).__name__}"
        raise SpecError(f'guidance is a list of tables under "{TABLE}", one per plugin; got {got}.{hint}')
    if len(tables) > MOST_PLUGINS:
        raise SpecError(f"a stack has at most {MOST_PLUGINS} plugins; got {len(tables):,}.")
    return list(tables)


def load_plugins(tables: Sequence[Any]) -> list[tuple[Any, frozenset[str]]]:
    """Return the plugins that tables stand for, each with the names of the parameters it gives.

    Raises:
        SpecError: a table has another form.
        UnknownNameError: no such plugin or parameter; the nearest is suggested.
        ConfigurationError: a value is not allowed.
    """
    loaded = []
    for table in tables:
        if not isinstance(table, Mapping) or not isinstance(table.get("plugin"), str):
            raise SpecError(f'each plugin is a table with "plugin": its name, and its parameters; got {brief(table)}.')
        parameters = {name: value for name, value in by_name(table).items() if name != "plugin"}
        loaded.append((build_plugin(table["plugin"], parameters), frozenset(parameters)))
    return loaded


def check_size(data: Any) -> None:
    """Raise `SpecError` for data that is nested too deeply, too much, or has numbers that no float can hold."""
    count, level = 0, [data]
    for _ in range(MOST_DEPTH + 4):  # the lists and tables around the values
        count += len(level)
        if count > MOST_TEXT:
            raise SpecError(f"a stack is written with at most {MOST_TEXT:,} values.")
        for value in level:
            if isinstance(value, int) and abs(value) > MOST:
                raise SpecError(f"the number {brief(value, 60)} is too large.")
        level = [
            inner
            for value in level
            if isinstance(value, (Mapping, list, tuple))
            for inner in (value.values() if isinstance(value, Mapping) else value)
        ]
        if not level:
            return
    raise SpecError(f"values nested more than {MOST_DEPTH} deep.")


def build_plugin(name: str, parameters: Mapping[str, Any]) -> Any:
    """Make the plugin of that name from plain parameter values."""
    cls = plugin_class(name)
    if not attrs.has(cls):
        raise ConfigurationError(f"plugin {name!r} ({cls.__name__}) is not an attrs class.")
    for parameter in parameters:
        if parameter in plugin_names() and parameter not in _fields_of(cls):
            raise UnknownNameError(
                f"plugin {name!r} has no parameter {brief(parameter)}. {brief(parameter)} is a plugin itself: its "
                "parameters follow a colon, as in 'rescale:phi=0.7'."
            )
    return build(f"plugin {name!r}", cls, parameters)


def build(what: str, cls: type, parameters: Mapping[str, Any]) -> Any:
    """Make an instance of an attrs class from plain values, or from values as its fields take them.

    Raises:
        UnknownNameError: it has no such parameter; the nearest is suggested.
        ConfigurationError: a value is not allowed.
    """
    fields, types = _fields_of(cls), _types_of(cls)
    for parameter in parameters:
        if parameter not in fields:
            raise UnknownNameError(f"{what} has no parameter {brief(parameter)}.{suggest(parameter, fields)}")
    try:
        return cls(**{parameter: _typed(fields[parameter], types, value) for parameter, value in parameters.items()})
    except GuidanceError as error:
        raise type(error)(f"{what}: {error}") from None
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"{what} cannot be made from {brief(dict(parameters))}: {told(error)}") from error


def _fields_of(cls: type) -> dict[str, attrs.Attribute[Any]]:
    return {field.alias or field.name: field for field in attrs.fields(cls) if field.init}


def _types_of(cls: type) -> Mapping[str, Any]:
    """Return the types of a class's fields; none where one is a name that is there for type checkers only."""
    try:
        return get_type_hints(cls)
    except Exception:
        return {}


def _typed(field: attrs.Attribute[Any], types: Mapping[str, Any], value: Any) -> Any:
    decoded = decode(value)
    wanted = types.get(field.name, field.type)
    takes_anything = field.converter is not None or wanted in (Any, object) or isinstance(wanted, str)
    if wanted is None or takes_anything or isinstance(decoded, PerOutput | TensorValue | Schedule):
        return decoded
    try:
        if wanted is float and isinstance(decoded, str):
            raise ValueError("not a number")
        return _converter().structure(value, wanted)
    except Exception:
        raise ConfigurationError(
            f"{field.name} must be {getattr(wanted, '__name__', wanted)}; got {brief(value)}."
        ) from None


def decode(value: Any) -> Any:
    """Turn plain data into schedules, tensors and values per output."""
    if isinstance(value, Mapping):
        if "schedule" in value:
            return _decode_schedule(value)
        if set(value) == {"tensor"}:
            try:
                _check_nested(value["tensor"])
                return TensorValue(torch.tensor(value["tensor"], dtype=torch.float32, device="cpu"))
            except (TypeError, ValueError, RuntimeError, OverflowError) as error:
                given = brief(value["tensor"])
                raise SpecError(f"a tensor must be a nested list of numbers; got {given} ({error}).") from None
        return PerOutput({output: decode(inner) for output, inner in by_name(value).items()})
    if isinstance(value, list | tuple):
        return tuple(decode(inner) for inner in value)
    return value


def _check_nested(value: Any) -> None:
    """Raise `TypeError` for what is not a list of numbers, perhaps nested: torch would make a tensor of more."""
    for inner in value if isinstance(value, list | tuple) else ():
        _check_nested(inner)
    if not isinstance(value, list | tuple | int | float):
        raise TypeError(f"it has {brief(value, 60)}")


def _decode_schedule(table: Mapping[str, Any]) -> Any:
    name = table["schedule"]
    cls = SCHEDULES.get(name) if isinstance(name, str) else None
    if cls is None:
        raise UnknownNameError(f"there is no schedule {brief(name)}.{suggest(brief(name), SCHEDULES)}")
    given = {key: decode(value) for key, value in by_name(table).items() if key != "schedule"}
    fields = {field.name: field for field in attrs.fields(cls) if field.init}
    for key in given:
        if key not in fields:
            raise UnknownNameError(f"schedule {name!r} has no parameter {brief(key)}.{suggest(key, fields)}")
    missing = [key for key, field in fields.items() if field.default is attrs.NOTHING and key not in given]
    if missing:
        raise SpecError(f"schedule {name!r} needs {', '.join(missing)}.")
    return cls(**given)


def dump_plugins(plugins: Sequence[Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the plain data that stands for the plugins: what differs from the defaults.

    Raises:
        SpecError: a plugin has no published name by which it could be found again, or a parameter's
            value cannot be written.
    """
    return {TABLE: [{"plugin": _published_name(type(plugin)), **parameters_of(plugin)} for plugin in plugins]}


def _published_name(cls: type) -> str:
    name = entry_name(cls)
    if name is None:
        raise SpecError(
            f"{cls.__name__} cannot be written by name, because it is not published: give it one in its package's "
            f'pyproject.toml, [project.entry-points."{PLUGINS}"], as in '
            f'my-method = "{cls.__module__}:{cls.__qualname__}", and install the package.'
        )
    return name


def parameters_of(plugin: Any) -> dict[str, Any]:
    """Return the parameters of a plugin that differ from the defaults, as plain data.

    Raises:
        SpecError: a value cannot be written.
    """
    return {
        name: encode(getattr(plugin, name), f"{type(plugin).__name__}: {name}")
        for name, settled in settle(plugin).items()
        if settled.origin == "given"
    }


def encode(value: Any, what: str) -> Any:
    """Turn a parameter's value into plain data."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, PerOutput):
        return {output: encode(inner, what) for output, inner in value.items()}
    if isinstance(value, TensorValue):
        return {"tensor": value.tensor.tolist()}
    for name, cls in SCHEDULES.items():
        if type(value) is cls:
            fields = [field for field in attrs.fields(cls) if field.init]
            held = {field.name: getattr(value, field.name) for field in fields}
            kept = {field.name: encode(held[field.name], what) for field in fields if held[field.name] != field.default}
            return {"schedule": name, **kept}
    if isinstance(value, list | tuple):
        return [encode(inner, what) for inner in value]
    if attrs.has(type(value)) and not isinstance(value, Schedule):
        return _converter().unstructure(value)
    raise SpecError(f"{what} holds {brief(value)}, which cannot be written as data.")


def from_json(text: str) -> Any:
    """Read JSON text into plain data, or raise `SpecError` with the line."""
    return _read(partial(json.loads, object_pairs_hook=_unique), text, "JSON")


def from_toml(text: str) -> Any:
    """Read TOML text into plain data, or raise `SpecError` with the line."""
    return _read(_toml, text, "TOML")


_LONG_KEY = re.compile(rf"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{MOST_DEPTH}}}""")
"The parser takes quadratic time for keys of many parts."


def _toml(text: str) -> Any:
    if _LONG_KEY.search(text):
        raise RecursionError
    import tomllib

    return tomllib.loads(text)


def _read(parse: Callable[[str], Any], text: str, language: str) -> Any:
    if not isinstance(text, str):
        raise SpecError(f"{language} is text; got {type(text).__name__}.")
    text = text.removeprefix("\ufeff")
    if len(text) > MOST_TEXT:
        raise SpecError(f"{language} of a stack has at most {MOST_TEXT:,} characters; got {len(text):,}.")
    try:
        return parse(text)
    except RecursionError:
        raise SpecError(f"invalid {language}: values nested more than {MOST_DEPTH} deep.") from None
    except ValueError as error:
        raise SpecError(f"invalid {language}: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make the dict of a JSON object, in which a name may stand once."""
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise SpecError(f"{brief(twice)} is given twice in one JSON object.")
    return made


def without_tuples(data: Any) -> Any:
    """Return plain data with lists in place of tuples, as it is read from text."""
    if isinstance(data, Mapping):
        return {key: without_tuples(value) for key, value in data.items()}
    return [without_tuples(value) for value in data] if isinstance(data, list | tuple) else data


def to_json(data: Any) -> str:
    """Write plain data as JSON text."""
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


def _without_null(data: Any) -> Any:
    """Write None as the word that specs have for it: TOML has no null."""
    if isinstance(data, Mapping):
        return {key: _without_null(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_without_null(value) for value in data]
    return "none" if data is None else data


def to_toml(data: Any) -> str:
    """Write plain data as TOML text."""
    import tomli_w

    try:
        return tomli_w.dumps(_without_null(data))
    except TypeError as error:
        raise SpecError(f"this cannot be represented in TOML ({error}); use JSON.") from None
