"""The base prediction as corrections see it, and what they may return beside a tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import attrs
import torch
from torch import Tensor

from guidance_core.algebra.arithmetic import evaluate
from guidance_core.algebra.spaces import Noise, affine
from guidance_core.algebra.statistics import Norm, Over, Statistic, Std
from guidance_core.algebra.unheld import by_leaves
from guidance_core.errors import PluginError
from guidance_core.methods.requests import Needs
from guidance_core.methods.split import Piece

Measured: TypeAlias = tuple[str, Statistic]
"A statistic of the base prediction, in a space."


@attrs.frozen
class Multiply:
    """A correction that multiplies the guided prediction by `factor`.

    If a plugin returns this instead of the product, the core applies the factor in its last pass over memory.
    """

    factor: Tensor
    "A float32 tensor with as many dimensions as the prediction, such as a statistic."


class BasePrediction:
    """The base prediction of one output; conversions and statistics are computed once, on demand."""

    __slots__ = ("_given", "_known", "_noise", "_own", "_piece", "_sample", "_tensors")

    def __init__(
        self,
        prediction: Tensor | None,
        sample: Tensor,
        prediction_type: str,
        noise: Noise,
        known: Mapping[Measured, Tensor] | None = None,
        piece: Piece | None = None,
    ) -> None:
        """Take the prediction in the host's space, or None where only statistics travelled here."""
        self._given = prediction
        self._sample = sample
        self._own = prediction_type
        self._piece = piece
        self._noise = noise
        self._known = [(*of, value) for of, value in known.items()] if known else []
        is_ready = prediction is not None and prediction.dtype is torch.float32
        self._tensors = {prediction_type: prediction} if is_ready else {}

    @property
    def _prediction(self) -> Tensor:
        if self._given is None:
            raise PluginError("the base prediction is not on this device; a correction must ask for it beforehand.")
        return self._given

    def tensor(self, space: str) -> Tensor:
        """Return the prediction in a space, `[B, ...]`, float32."""
        found = self._tensors.get(space)
        if found is None:
            conversion = affine(self._own, space, self._noise)
            found = self._tensors[space] = evaluate([(self._prediction, 1.0)], self._sample, conversion)
        return found

    def measure(self, space: str, statistic: Statistic) -> Tensor:
        """Return a statistic of the prediction in a space, dimensions kept."""
        found = self._found(space, statistic)
        if found is None:
            tensor = self._tensors.get(space)
            piece = self._piece
            if tensor is None and piece is None:
                found = by_leaves(statistic, [self._prediction], self._sample, affine(self._own, space, self._noise))
            if found is None:
                tensor = self.tensor(space) if tensor is None else tensor
                found = statistic(tensor) if piece is None else piece.measure(statistic, [tensor], "a correction")
            self._known.append((space, statistic, found))
        return found

    def _found(self, space: str, statistic: Statistic) -> Tensor | None:
        """Return a statistic that is known already; there are hardly more than two."""
        for own, each, value in self._known:
            if own == space and (each is statistic or each == statistic):
                return value
        return None


_STD, _NORM = Std(), Norm()


class Reference:
    """The base prediction (`cond`) of one output, in the space the plugin asked for."""

    __slots__ = ("_base", "_needs", "_space")

    def __init__(self, base: BasePrediction, needs: Needs, space: str) -> None:
        self._base = base
        self._needs = needs
        self._space = space

    def measure(self, statistic: Statistic) -> Tensor:
        """Return a statistic of it, with the dimensions kept; ask for it with `Needs(statistics=statistic)`.

        Raises:
            PluginError: it was not asked for.
        """
        if statistic not in self._needs.measured:
            raise PluginError(
                f"reference.measure({statistic}) was not asked for; return Needs(statistics={statistic}) beforehand."
            )
        return self._base.measure(self._space, statistic)

    def std(self, over: Over = "sample") -> Tensor:
        """Return its standard deviation, `[B, 1, ...]`; ask for it with `Needs(std=over)`.

        Raises:
            PluginError: it was not asked for.
        """
        statistic = _STD if over == "sample" else Std(over)
        if statistic not in self._needs.measured:
            raise PluginError(f"reference.std({over!r}) was not asked for; return Needs(std={over!r}) beforehand.")
        return self._base.measure(self._space, statistic)

    def norm(self, over: Over = "sample") -> Tensor:
        """Return its Euclidean norm, `[B, 1, ...]`; ask for it with `Needs(norm=over)`.

        Raises:
            PluginError: it was not asked for.
        """
        statistic = _NORM if over == "sample" else Norm(over)
        if statistic not in self._needs.measured:
            raise PluginError(f"reference.norm({over!r}) was not asked for; return Needs(norm={over!r}) beforehand.")
        return self._base.measure(self._space, statistic)

    @property
    def tensor(self) -> Tensor:
        """The prediction itself, `[B, ...]`, float32; ask for it with `Needs(reference=True)`.

        Raises:
            PluginError: it was not asked for.
        """
        if not self._needs.reference:
            raise PluginError("reference.tensor was not asked for; return Needs(reference=True) beforehand.")
        return self._base.tensor(self._space)
