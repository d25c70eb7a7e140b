"""Rows of a batch, taken from everything that belongs to its samples: state, parameters, inputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from guidance_core.errors import ConfigurationError, brief
from guidance_core.parameters.schedules import Schedule, Table
from guidance_core.parameters.values import PerOutput, TensorValue

PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, type(None))


def checked_indices(given: Any, batch: int) -> tuple[int, ...]:
    """Return which samples of a batch to keep, in their new order.

    Raises:
        ConfigurationError: they are not indices of the batch, or there are none.
    """
    try:
        listed = given.tolist() if isinstance(given, Tensor) else list(given)
        indices = tuple(range(batch)[index] for index in listed if not isinstance(index, bool))
    except Exception:
        raise ConfigurationError(
            f"indices must be those of the samples to keep, from 0 to {batch - 1}; got {brief(given)}."
        ) from None
    if not indices or len(indices) != len(listed):
        hint = " Pass the indices of a mask, mask.nonzero()[:, 0]." if listed else ""
        raise ConfigurationError(
            f"indices must be those of the samples to keep, at least one; got {brief(given)}.{hint}"
        )
    return indices


@attrs.frozen
class Selection:
    """Some samples of a batch, in a new order."""

    indices: tuple[int, ...]
    batch: int

    def then(self, other: Selection) -> Selection:
        """Return the selection that makes this one, and the other one from its samples."""
        return Selection(tuple(self.indices[index] for index in other.indices), self.batch)

    def of(self, value: Any, what: str) -> Any:
        """Return a value with the rows of these samples; tensors of another first dimension stay as they are.

        Args:
            value: a tensor, or containers of tensors and plain values. An object of another kind has
                `select(indices)`, which returns it for these samples.
            what: whose it is, for the error.

        Raises:
            ConfigurationError: it holds an object whose samples cannot be told apart.
        """
        if isinstance(value, Tensor):
            if value.ndim == 0 or value.shape[0] != self.batch:
                return value
            return value.index_select(0, torch.tensor(self.indices, device=value.device))
        if isinstance(value, TensorValue):
            return TensorValue(self.of(value.tensor, what))
        if isinstance(value, PerOutput):
            return value.map(lambda inner: self.of(inner, what))
        if isinstance(value, Table):
            return Table(tuple((bound, self.of(inner, what)) for bound, inner in value.rows))
        if isinstance(value, Mapping):
            return {key: self.of(inner, what) for key, inner in value.items()}
        if type(value) in (list, tuple, deque):
            made = [self.of(inner, what) for inner in value]
            return deque(made, value.maxlen) if isinstance(value, deque) else type(value)(made)
        if isinstance(value, PLAIN):
            return value
        if callable(getattr(value, "select", None)):
            return value.select(self.indices)
        raise ConfigurationError(
            f"{what} holds a {type(value).__name__}, whose samples cannot be selected: give it select(indices), or "
            "keep tensors."
        )

    def of_plugin(self, plugin: Any) -> Any:
        """Return a plugin whose values for each sample are those of these samples."""
        changed = {}
        for field in attrs.fields(type(plugin)):
            value = getattr(plugin, field.name)
            if field.init and isinstance(value, Schedule) and not isinstance(value, Table) and self._is_met_in(value):
                raise ConfigurationError(
                    f"plugin {type(plugin).__name__}: {field.name} has values for each sample in a schedule, "
                    "which cannot be selected; start a run for these samples."
                )
            if field.init and isinstance(value, Tensor) and value.ndim and value.shape[0] == self.batch:
                changed[field.alias or field.name] = self.of(value, "")
            elif field.init and isinstance(value, (TensorValue, PerOutput, Table)):
                selected = self.of(value, f"plugin {type(plugin).__name__}")
                if selected != value:
                    changed[field.alias or field.name] = selected
        return attrs.evolve(plugin, **changed) if changed else plugin

    def _is_met_in(self, schedule: Any) -> bool:
        """Whether a schedule of somebody else holds a tensor with the batch as its first dimension."""
        held = (
            [getattr(schedule, field.name) for field in attrs.fields(type(schedule))]
            if attrs.has(type(schedule))
            else []
        )
        tensors = (each.tensor if isinstance(each, TensorValue) else each for each in held)
        return any(isinstance(each, Tensor) and each.ndim and each.shape[0] == self.batch for each in tensors)

    def of_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return a condition's model inputs for these samples; what is not a tensor stays as it is."""
        return {key: self._of_input(value) for key, value in inputs.items()}

    def _of_input(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.of(value, "")
        if isinstance(value, Mapping):
            return {key: self._of_input(inner) for key, inner in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self._of_input(inner) for inner in value)
        return value
