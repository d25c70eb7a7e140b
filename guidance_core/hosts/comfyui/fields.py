"""Inputs of nodes that are made out of the parameters of methods and recipes, and specs out of what they hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from comfy_api.latest import io

from guidance_core.catalog import ParameterInfo

LARGEST = 2**31
DEFAULT = "default"
"In a list of names: leave the parameter out."


def input_of(parameter: ParameterInfo) -> Any:
    """Return the input for a parameter: a number, a switch, a list of names, or text as in a spec.

    Empty text leaves a parameter out. Schedules, and values for each sample or output, are for specs.
    """
    name, default = parameter.name, parameter.default
    told = {"tooltip": parameter.help or None}
    if parameter.kind == "flag" and default is not None:
        return io.Boolean.Input(name, default=default, **told)
    if parameter.kind == "choice":
        return io.Combo.Input(name, options=list(_options(parameter)), default=_chosen(parameter), **told)
    is_number = isinstance(default, int | float)  # and not the word for one that need not be given
    if parameter.kind == "whole" and is_number:
        least = -LARGEST if parameter.low is None else int(parameter.low)
        return io.Int.Input(name, default=int(default), min=least, max=LARGEST, **told)
    if parameter.kind == "number" and is_number:
        low = -LARGEST if parameter.low is None else parameter.low
        high = LARGEST if parameter.high is None else parameter.high
        step = _step(default)
        return io.Float.Input(name, default=float(default), min=low, max=high, step=step, round=False, **told)
    return io.String.Input(name, default=_written(default), **told)


def spec_of(name: str, parameters: Iterable[ParameterInfo], given: Mapping[str, Any]) -> str:
    """Return the spec of a method or a recipe (`@name`), without what is at its default."""
    parts = []
    for parameter in parameters:
        value = given.get(parameter.name)
        if value is None or value == "" or value == parameter.default:
            continue
        if parameter.kind == "choice" and value == _chosen(parameter):
            continue
        parts.append(f"{parameter.name}={_written(value)}")
    return f"{name}:{','.join(parts)}" if parts else name


def _options(parameter: ParameterInfo) -> tuple[str, ...]:
    return parameter.options if _chosen(parameter) in parameter.options else (DEFAULT, *parameter.options)


def _chosen(parameter: ParameterInfo) -> str:
    if parameter.default is not None:
        return str(parameter.default)
    return "none" if "none" in parameter.options else DEFAULT


def _step(default: float) -> float:
    """Return how far a click goes: a hundredth, or less where the default is small."""
    return 0.01 if not 0 < abs(default) < 0.01 else 10 ** math.floor(math.log10(abs(default)))


def _written(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_written, value))}]" if value else ""
    return str(value)
