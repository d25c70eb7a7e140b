"""Between what a pipeline's model gets and returns, and the sample and the predictions of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from guidance_core.hosts.diffusers.patterns import Pattern

OF_PLACES = ("rotary", "rope")
"In the names of arguments for the places of tokens, which may happen to be as many as the batch has rows."


@attrs.frozen(eq=False)
class Translation:
    """Takes the part that is denoised out of a model's inputs and results, and puts a guided prediction back."""

    pattern: Pattern
    latents: torch.Size | None
    """The shape of what the pipeline denoises, if it is known.

    A model may get more: channels of a picture that is filled in, frames or tokens of one that is edited.
    """

    returns_variance: bool = False
    "Whether the model returns as many channels again for a variance."

    def sample(self, given: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Return what is denoised of a model's arguments, one for each output."""
        return tuple(self._part(_stacked(given[name], self.pattern)) for name in self.pattern.sample)

    def predictions(self, made: Sequence[Any]) -> tuple[Tensor, ...]:
        """Return what a model's results predict, one for each output, as the scheduler takes it."""
        kept = made[: len(self.pattern.sample)]
        return tuple(self._turned(self._part(_stacked(each, self.pattern))) for each in kept)

    def result(self, guided: Tensor, rows: int = 1) -> Any:
        """Return a guided prediction as the model would, `rows` times, for the pipeline."""
        made = self._turned(guided)
        if self.pattern.divides_by_norm:
            made = _without_zero_tokens(made)
        if self.returns_variance:  # its pipeline cuts it off
            made = torch.cat([made, torch.zeros_like(made)], dim=1)
        if rows > 1:
            made = torch.cat([made] * rows)
        return list(made.unbind()) if self.pattern.is_listed else made

    def halves(self, given: Mapping[str, Any], rows: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the arguments of both halves of a batch."""
        named = self.pattern.halved

        def half(place: int) -> dict[str, Any]:
            made = {}
            for name, value in given.items():
                if name in named and isinstance(value, Tensor):
                    made[name] = value.chunk(2, dim=named[name])[place]
                elif any(word in name for word in OF_PLACES):
                    made[name] = value
                else:
                    made[name] = _half(value, rows, place, listed=self.pattern.is_listed)
            return made

        return half(0), half(1)

    def _turned(self, prediction: Tensor) -> Tensor:
        return prediction if self.pattern.sign == 1 else -prediction

    def _part(self, value: Tensor) -> Tensor:
        """Return the first channels, frames or tokens, as many as are denoised."""
        if self.latents is None or value.ndim != len(self.latents) or len(self.pattern.sample) > 1:
            return value
        other = [dim for dim in range(1, value.ndim) if value.shape[dim] != self.latents[dim]]
        if len(other) != 1 or value.shape[other[0]] < self.latents[other[0]]:
            return value
        return value.narrow(other[0], 0, self.latents[other[0]])


def _stacked(value: Any, pattern: Pattern) -> Tensor:
    made: Tensor = torch.stack(list(value)) if pattern.is_listed else value
    return made


def _half(value: Any, rows: int, place: int, *, listed: bool) -> Any:
    """Return one half of everything that has as many rows as the batch, in dicts and lists too."""
    if isinstance(value, Tensor):
        return value.chunk(2)[place] if value.ndim and value.shape[0] == rows else value
    if isinstance(value, Mapping):
        return {name: _half(each, rows, place, listed=listed) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        if listed and len(value) == rows:
            return value[rows // 2 * place : rows // 2 * (place + 1)]
        return type(value)(_half(each, rows, place, listed=listed) for each in value)
    return value


def _without_zero_tokens(prediction: Tensor) -> Tensor:
    """Return a prediction whose tokens of zeros are next to zero instead, with a norm that is not zero."""
    tiny = max(torch.finfo(prediction.dtype).tiny, 1e-18)  # its square is not zero in float32
    is_zero = (prediction == 0).all(dim=-1, keepdim=True)
    return torch.where(is_zero, tiny, prediction)
