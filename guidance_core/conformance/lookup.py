"""From what an author gives (a name, a spec, `module:Class`, a class, an instance) to what is checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs

from guidance_core.config.spec import parse_spec
from guidance_core.config.tables import decode
from guidance_core.conformance.case import PREDICTION_TYPES
from guidance_core.conformance.subject import Inputs, Subject
from guidance_core.discovery import executor_names, plugin_class
from guidance_core.discovery.places import imported
from guidance_core.errors import ConfigurationError, GuidanceError, UnknownNameError, brief, suggest, told
from guidance_core.guidance import Guidance

LARGEST = 2**22
"Elements of one sample."


def subject_of(
    given: Any,
    parameters: Mapping[str, Any] | None = None,
    conditions: Mapping[str, Inputs] | None = None,
    shapes: Sequence[Sequence[int]] | None = None,
    outputs: Sequence[str] = (),
    prediction_types: Sequence[str] = (),
) -> Subject:
    """Return the subject for a plugin given by name, as `module:Class`, as a class or as an instance.

    Args:
        given: which plugin; a name may come with parameters, as in a spec: `cfg:scale=4`.
        parameters: of the class, where it is not given as an instance.
        conditions: model inputs, or what makes them for a case, of conditions that it looks for but
            does not name in its branches.
        shapes: shapes of one sample to try, where it does not take any; by default those that its class
            names as `shapes_to_try`.
        outputs: names of the outputs it is made for, where it does not take any.
        prediction_types: what a model may predict for it (`flow`, `x0`, `epsilon`, `v`), where not any.

    Raises:
        UnknownNameError: no plugin of that name is installed.
        ConfigurationError: it cannot be imported or made, or is not a plugin.
    """
    plugin = given
    if isinstance(given, str):
        name, own = with_parameters(given)
        parameters = {**own, **(parameters or {})}
        plugin = imported(name) if ":" in name else _installed(name)
    if isinstance(plugin, type):
        plugin = _made(plugin, parameters or {})
    elif parameters:
        raise ConfigurationError("parameters are for a class; this is an instance: give it the values it should have.")
    if isinstance(plugin, str | ModuleType):
        raise ConfigurationError(f"{given!r} is a {type(plugin).__name__}, not a method: an attrs class with hooks.")
    Guidance([plugin])  # says what is wrong with it
    settings: dict[str, Any] = {}
    if shapes is None:
        shapes = getattr(type(plugin), "shapes_to_try", None)
    if shapes is not None:
        try:
            settings["shapes"] = tuple(tuple(map(int, shape)) for shape in shapes)
        except (TypeError, ValueError, OverflowError):
            settings["shapes"] = ((0,),)
        if not all(shape and min(shape) > 0 and math.prod(shape) <= LARGEST for shape in settings["shapes"]):
            raise ConfigurationError(
                "shapes is a list of shapes with sizes of at least 1, such as [(3, 8, 8)], or --shape 3,8,8, "
                f"with at most {LARGEST:,} elements each; got {brief(shapes)}."
            )
    if prediction_types:
        prediction_types = _several(prediction_types)
        unknown = [each for each in prediction_types if each not in PREDICTION_TYPES]
        if unknown:
            raise ConfigurationError(f"prediction types are {', '.join(PREDICTION_TYPES)}; got {', '.join(unknown)}.")
        settings["prediction_types"] = tuple(each for each in PREDICTION_TYPES if each in prediction_types)
    return Subject(plugin, dict(conditions or {}), named=_several(outputs), **settings)


def _installed(name: str) -> type:
    """Return the plugin class of that name, or say how else one is named."""
    try:
        return plugin_class(name)
    except UnknownNameError as error:
        if name in executor_names():
            raise UnknownNameError(f"{name!r} is an executor: check --executor {name}.") from None
        if Path(f"{name.removesuffix('.py')}.py").exists():
            module = ".".join(Path(name.removesuffix(".py")).parts)
            raise UnknownNameError(f"{name!r} is a module; name the class in it too: {module}:MyMethod.") from None
        raise UnknownNameError(f"{error} A class in a module is given as module:Class.") from None


def _several(names: Sequence[str] | str) -> tuple[str, ...]:
    several = (names,) if isinstance(names, str) else tuple(name.strip() for name in names)
    if len(set(several)) < len(several) or not all(several):
        raise ConfigurationError(f"{', '.join(several)}: names are given once each, and none is empty.")
    return several


def with_parameters(given: str) -> tuple[str, dict[str, Any]]:
    """Return the name, or `module:Class`, of something given with its parameters behind a colon, and these.

    Raises:
        SpecError: the parameters cannot be read.
        ConfigurationError: it is a stack of several.
    """
    if "=" not in given:
        return given, {}
    tables = parse_spec(given, places=True)["guidance"]
    if len(tables) != 1:
        raise ConfigurationError(f"one thing is checked at a time; {given!r} is a stack of {len(tables)}.")
    own = {name: decode(value) for name, value in tables[0].items() if name != "plugin"}
    return tables[0]["plugin"], own


def _made(cls: type, parameters: Mapping[str, Any]) -> Any:
    if not attrs.has(cls):
        raise ConfigurationError(
            f"{cls.__module__}:{cls.__qualname__} is not an attrs class; a plugin is one marked @attrs.frozen."
        )
    known = [field.alias or field.name for field in attrs.fields(cls) if field.init]
    for name in parameters:
        if name not in known:
            raise UnknownNameError(f"{cls.__name__} has no parameter {name!r}.{suggest(name, known)}")
    fields = (field for field in attrs.fields(cls) if field.init and field.default is attrs.NOTHING)
    tried: Mapping[str, Sequence[Any]] = getattr(cls, "values_to_try", {})
    missing = [name for name in (field.alias or field.name for field in fields) if name not in parameters]
    parameters = {**{name: tried[name][0] for name in missing if tried.get(name)}, **parameters}
    try:
        return cls(**parameters)
    except GuidanceError:
        raise
    except (Exception, SystemExit) as error:
        shown = f" with {brief(dict(parameters))}" if parameters else " without parameters; give them with --param"
        raise ConfigurationError(f"{cls.__name__} cannot be made{shown}: {told(error)}") from error
