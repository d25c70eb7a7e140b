"""What methods there are, with their parameters: for hosts that make a form, a node or a menu of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import attrs

from guidance_core.discovery import find_plugins
from guidance_core.methods.weakened import WeakenedPass
from guidance_core.parameters.documented import parameters_of
from guidance_core.parameters.fields import ANY
from guidance_core.parameters.values import UNSET

Family = Literal["cfg", "weakened", "correction", "other"]
"""`cfg`: CFG and what takes its place; `weakened`: away from a weakened pass; `correction`: of the result; `other`.

A plugin that declares none (`family: ClassVar[str]`) has that which its hooks suggest.
"""


@attrs.frozen
class ParameterInfo:
    """A parameter of a method, as a form shows it."""

    name: str
    kind: str
    """By the field that made it: `number`, `whole`, `flag`, `choice`, `text`, `names`, `numbers`, `blocks`, `extent`,
    `grid`, `function`; `value` for a field of the plugin's own making.
    """
    help: str = ""
    default: Any = None
    "A plain value; also None if the plugin decides, or if the parameter is required."
    is_required: bool = False
    low: float | None = None
    "The smallest number allowed, or the number that it must exceed; None if there is no bound."
    high: float | None = None
    "The largest number allowed, or the number that it must stay below; None if there is no bound."
    options: tuple[str, ...] = ()
    "The names to choose from; `none` means None."


@attrs.frozen
class MethodInfo:
    """A method that is installed."""

    name: str
    "The name in specs."
    summary: str
    "The first line of its docstring."
    family: Family
    distribution: str
    version: str
    parameters: tuple[ParameterInfo, ...]


def catalog() -> tuple[MethodInfo, ...]:
    """Return the installed methods, by name, without those that cannot be loaded or whose name is taken."""
    found = {}
    for each in find_plugins():
        if each.name and each.loaded is not None and each.failure is None and attrs.has(each.loaded):
            parameters = parameter_infos(each.loaded)
            summary = (each.loaded.__doc__ or "").strip().partition("\n")[0]
            family = _family(each.name, each.loaded)
            found[each.name] = MethodInfo(each.name, summary, family, each.distribution, each.version, parameters)
    return tuple(found[name] for name in sorted(found))


def parameter_infos(cls: type) -> tuple[ParameterInfo, ...]:
    """Return the parameters of a plugin's class, or of a recipe's (`recipe.cls`), in the order of its fields."""
    return tuple(map(_parameter, parameters_of(cls)))


def _family(name: str, plugin: type) -> Family:
    declared = getattr(plugin, "family", None)
    for family in get_args(Family):
        if declared == family:
            return family  # type: ignore[no-any-return]
    if "cfg" in (name, getattr(plugin, "form_of", None)):
        return "cfg"
    if issubclass(plugin, WeakenedPass):
        return "weakened"
    return "correction" if callable(getattr(plugin, "postprocess", None)) else "other"


def _parameter(field: attrs.Attribute[Any]) -> ParameterInfo:
    told, bounds = field.metadata, field.metadata.get("bounds", ANY)
    is_required = field.default is attrs.NOTHING
    options = told.get("options") or ()
    kind = str(told.get("kind", "value"))
    return ParameterInfo(
        field.alias or field.name,
        kind,
        str(told.get("help", "")),
        None if is_required else _default(field.default),
        is_required,
        bounds.ge if bounds.gt is None else bounds.gt,
        bounds.le if bounds.lt is None else bounds.lt,
        () if kind == "flag" else tuple("none" if each is None else str(each) for each in options),
    )


def _default(value: Any) -> Any:
    factory: Callable[[], Any] | None = getattr(value, "factory", None)
    if factory is not None:
        value = None if getattr(value, "takes_self", False) else factory()
    return value if value is not UNSET and isinstance(value, bool | int | float | str | tuple) else None
