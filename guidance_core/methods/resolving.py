"""The value of a parameter at a step: schedules resolved, values per output chosen, tensors placed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import attrs
import torch
from torch import Tensor

from guidance_core.errors import ConfigurationError
from guidance_core.parameters.fields import ANY, as_value, check_number
from guidance_core.parameters.named import SCHEDULES
from guidance_core.parameters.schedules import Position, Schedule
from guidance_core.parameters.values import UNSET, PerOutput, TensorValue

At: TypeAlias = Callable[[str], Position]
"Returns where the step stands for an output."


def resolved(
    plugin: object, parameter: Any, outputs: Sequence[str], output: str | None, at: At, whole: Any = UNSET
) -> Any:
    """Return a parameter's value at a step, for one output or (None) for those that stand at the same place.

    `whole` is the parameter that it is part of, where it is one.

    Raises:
        ConfigurationError: no value for an output, or a value that is not a finite number.
    """
    original = parameter if whole is UNSET else whole
    if isinstance(parameter, PerOutput):
        if output is None or output not in parameter:
            raise lacks(plugin, parameter, [output or "?"], outputs)
        parameter = parameter[output]
    if isinstance(parameter, Schedule):
        schedule = parameter
        parameter = parameter.at(at(output or outputs[0]))
        if type(schedule) not in SCHEDULES.values():  # of the others, all values are known beforehand
            field = _field_of(plugin, original)
            bounds = ANY if field is None else field.metadata.get("bounds", ANY)
            check_number(f"{named(plugin, original)}, from {type(schedule).__name__}", as_value(parameter), bounds)
        if isinstance(parameter, PerOutput):  # a table of values per output
            names = parameter if output is None else (output,)
            each = {name: resolved(plugin, parameter, outputs, name, at, original) for name in names}
            return PerOutput(each) if output is None else each[output]
    if isinstance(parameter, TensorValue):
        return parameter.tensor
    if isinstance(parameter, Tensor):
        return TensorValue(parameter).tensor
    if isinstance(parameter, tuple) or (parameter is None and _may_be_none(plugin, original)):
        return parameter
    check_number(named(plugin, original), parameter)
    return parameter


def _may_be_none(plugin: object, value: Any) -> bool:
    """Whether the parameter that holds `value` means something by None, as blocks do."""
    field = _field_of(plugin, value)
    return field is not None and bool(field.metadata.get("optional"))


def _field_of(plugin: object, value: Any) -> attrs.Attribute[Any] | None:
    """Return the parameter that holds `value`."""
    cls: Any = type(plugin)
    for field in attrs.fields(cls) if attrs.has(cls) else ():
        held = getattr(plugin, field.name, UNSET)
        if held is value or (isinstance(held, TensorValue) and held.tensor is value):
            found: attrs.Attribute[Any] = field
            return found
    return None


def named(plugin: object, value: Any) -> str:
    """Name the parameter that holds `value`, for errors."""
    field = _field_of(plugin, value)
    return f"{type(plugin).__name__}: {'a parameter' if field is None else field.name}"


def lacks(plugin: object, parameter: Any, missing: Sequence[str], outputs: Sequence[str]) -> ConfigurationError:
    """Return the error for a parameter that lacks values for some outputs."""
    return ConfigurationError(
        f"{named(plugin, parameter)} has values for {', '.join(parameter) or 'no output'}, but none for "
        f"{', '.join(missing)}; the run's outputs are {', '.join(outputs)}. Give each a value, and name "
        'the outputs of a model that returns several with start(outputs=("video", "audio")).'
    )


def placed(value: Tensor, sample: Tensor, what: str) -> Tensor:
    """Return a tensor parameter ready to be multiplied with a prediction shaped like `sample`.

    Dimensions are aligned from the batch on: `[B]` becomes `[B, 1, ...]`.

    Raises:
        ConfigurationError: it does not broadcast to the sample's shape.
    """
    fits = value.ndim <= sample.ndim and all(
        size in (1, full) for size, full in zip(value.shape, sample.shape, strict=False)
    )
    if not fits:
        raise ConfigurationError(
            f"{what} has shape {tuple(value.shape)}, which does not broadcast to the sample's "
            f"{tuple(sample.shape)}; dimensions are aligned from the batch on, so one value per sample is "
            f"[{sample.shape[0]}]."
        )
    dtype = torch.float64 if sample.dtype == torch.float64 else torch.float32
    return value.to(sample.device, dtype, non_blocking=True).view(*value.shape, *(1,) * (sample.ndim - value.ndim))
