"""The structure of a prediction: one tensor, a tuple, or a dict of named outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import attrs
import torch
from torch import Tensor

from guidance_core.errors import ConfigurationError, GuidanceError

Structured: TypeAlias = Tensor | tuple[Tensor, ...] | list[Tensor] | Mapping[str, Tensor]
"What a denoiser takes and returns."

SINGLE = "output"
"The name of the only output of a host whose denoiser returns one tensor."

_SEQUENCES = (tuple, list)


@attrs.frozen
class Structure:
    """How a run's predictions are laid out, so that results come back the same way."""

    kind: str
    "`tensor`, `tuple` or `dict`."
    names: tuple[str, ...]
    "The outputs in order."

    @classmethod
    def of(cls, sample: Any, declared: tuple[str, ...] | None) -> Structure:
        """Read the structure off a sample.

        Args:
            sample: a tensor; a dict of tensors; or a tuple (list) of tensors, whose entries
                `declared` must name.
            declared: the names given to `start(outputs=...)`, or `None`.

        Raises:
            ConfigurationError: the sample is none of these, or does not fit the declared names.
        """
        if isinstance(sample, Tensor):
            names: tuple[str, ...] = (SINGLE,)
            if declared is not None and len(declared) != 1:
                raise ConfigurationError(
                    f"the run was started with outputs {', '.join(declared)}, but the sample is one tensor; "
                    "pass it in the structure the model returns, such as (video, audio)."
                )
            return cls("tensor", declared or names)
        if isinstance(sample, Mapping):
            names = tuple(sample)
            if declared is not None and set(declared) != set(names):
                raise ConfigurationError(
                    f"the run was started with outputs {', '.join(declared)}, but the sample has {', '.join(names)}."
                )
            return cls("dict", declared or names)
        if isinstance(sample, (tuple, list)):
            if declared is None:
                raise ConfigurationError(
                    f"the sample is a {type(sample).__name__} of {len(sample)}; name its entries when the run is "
                    'started, for example outputs=("video", "audio").'
                )
            if len(declared) != len(sample):
                raise ConfigurationError(
                    f"the run was started with {len(declared)} outputs ({', '.join(declared)}), "
                    f"but the sample has {len(sample)} entries."
                )
            return cls("tuple", declared)
        raise ConfigurationError(
            f"a sample must be a tensor, a tuple of tensors or a dict of tensors; got {type(sample).__name__}."
        )

    def entries(self, value: Any) -> Sequence[Tensor] | None:
        """Return the tensors of `value` in the order of the names, or None if its structure is another."""
        if self.kind == "tuple":
            if not isinstance(value, _SEQUENCES) or len(value) != len(self.names):
                return None
            found: Sequence[Any] = value
        elif self.kind == "tensor":
            found = (value,)
        elif not isinstance(value, Mapping) or len(value) != len(self.names):
            return None
        else:
            found = [value.get(name) for name in self.names]
        for entry in found:
            if not isinstance(entry, Tensor):
                return None
        return found

    def misfit(self, value: Any, what: str, error: type[GuidanceError]) -> GuidanceError:
        """Return the `error` that says how `what` differs, for a value whose entries are None."""
        if self.kind == "tensor":
            hint = ""
            if isinstance(value, _SEQUENCES) and len(value) == 1 and isinstance(value[0], Tensor):
                hint = " A model called with return_dict=False returns a tuple of one; hand over its first entry."
            return error(f"{what} must be a tensor, as the sample is; got {_shown(value)}.{hint}")
        if self.kind == "dict" and (not isinstance(value, Mapping) or set(value) != set(self.names)):
            return error(f"{what} must be a dict with {', '.join(self.names)}; got {_shown(value)}.")
        if self.kind == "tuple" and (not isinstance(value, (tuple, list)) or len(value) != len(self.names)):
            return error(f"{what} must be a tuple of {len(self.names)} ({', '.join(self.names)}); got {_shown(value)}.")
        given = value if self.kind == "dict" else dict(zip(self.names, value, strict=True))
        name = next(name for name in self.names if not isinstance(given[name], Tensor))
        return error(f"{what}: output {name!r} must be a tensor; got {_shown(given[name])}.")

    def restore(self, named: Mapping[str, Tensor]) -> Any:
        """Return the tensor, tuple or dict that `named` stands for."""
        if self.kind == "tensor":
            return named[self.names[0]]
        if self.kind == "dict":
            return dict(named)
        return tuple(map(named.__getitem__, self.names))


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor has every element in memory: not a sparse or nested one, nor one in a library's own layout."""
    return tensor.layout is torch.strided and not tensor.is_nested


def layout_of(tensor: Tensor) -> str:
    """Return the layout of a tensor that is not dense, for messages."""
    return "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")


def read_sample(
    sample: Any, declared: tuple[str, ...] | None, known: Structure | None, *, any_dtype: bool = False
) -> tuple[Structure, dict[str, Tensor]]:
    """Return the structure of a noisy sample and its tensors by output.

    Args:
        sample: as `Structure.of` takes it.
        declared: the names given to `start(outputs=...)`, or `None`.
        known: the structure of the sample before it, which this one usually has too.
        any_dtype: whether whole numbers are a sample too.

    Raises:
        ConfigurationError: it has another form than declared, or an entry is not `[B, ...]` floating point.
    """
    entries = None if known is None else known.entries(sample)
    structure = known
    if structure is None or entries is None:
        structure = Structure.of(sample, declared)
        entries = structure.entries(sample)
        if entries is None:
            raise structure.misfit(sample, "the sample", ConfigurationError)
        for name, tensor in zip(structure.names, entries, strict=True):
            if not is_dense(tensor):
                raise ConfigurationError(
                    f"the sample ({name}) must be a dense tensor; got one with the layout {layout_of(tensor)}."
                )
    samples = {}
    for number, name in enumerate(structure.names):
        samples[name] = tensor = entries[number]
        if not tensor.dtype.is_floating_point and not any_dtype:
            raise ConfigurationError(
                f"the sample ({name}) must be floating point; got {tensor.dtype}. Whole numbers, such as tokens, are a "
                "sample of prediction_type='other'."
            )
        if tensor.ndim == 0 or tensor.numel() == 0:
            raise ConfigurationError(
                f"the sample ({name}) must be [B, ...] with at least one element; got shape {tuple(tensor.shape)}."
            )
    return structure, samples


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dict with {', '.join(map(str, value)) or 'nothing'}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"
