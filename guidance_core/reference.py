"""The base prediction as corrections see it, and what they may return beside a tensor."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor

from guidance_core import statistics
from guidance_core.arithmetic import BLOCK, accumulation_dtype, evaluate, is_blocked, to_space
from guidance_core.branch import Needs
from guidance_core.errors import PluginError
from guidance_core.spaces import IDENTITY, Affine


@attrs.frozen
class Multiply:
    """A correction that only scales: the guided prediction is multiplied by `factor`.

    Returning it instead of `guided * factor` lets the core fold the factor into its last pass over
    memory. The result is the same, bit for bit.
    """

    factor: Tensor
    "Float32, with as many dimensions as the prediction; statistics have that shape."


class BasePrediction:
    """The base prediction of one output in one space; statistics are computed once, on demand."""

    def __init__(
        self,
        prediction: Tensor | None,
        sample: Tensor,
        space: Affine,
        known: Mapping[tuple[str, str], Tensor] | None = None,
    ) -> None:
        """Take the prediction in the host's space, or None where only statistics travelled here."""
        self._given = prediction
        self._sample = sample
        self._space = space
        self._tensor: Tensor | None = None
        self._known = dict(known or {})

    @property
    def _prediction(self) -> Tensor:
        if self._given is None:
            raise PluginError("the base prediction is not on this device; a correction must ask for it beforehand.")
        return self._given

    @property
    def tensor(self) -> Tensor:
        """The prediction itself, `[B, ...]`, float32."""
        if self._tensor is None:
            self._tensor = evaluate([(self._prediction, 1.0)], self._sample, self._space)
        return self._tensor

    def statistic(self, kind: str, over: str) -> Tensor:
        """Return the `std` or `norm` of the prediction, dimensions kept."""
        if (kind, over) not in self._known:
            self._known[kind, over] = self._computed(kind, over)
        return self._known[kind, over]

    def _computed(self, kind: str, over: str) -> Tensor:
        prediction = self._prediction
        by_leaves = self._tensor is None and over == "sample" and is_blocked(prediction)
        if not by_leaves or not statistics.is_by_leaves(prediction) or prediction[0].numel() <= statistics.LEAF:
            return statistics.std(self.tensor, over) if kind == "std" else statistics.norm(self.tensor, over)
        of = statistics.std_of if kind == "std" else statistics.norm_of
        n = prediction[0].numel()
        each = [of(self._reader(number), n) for number in range(prediction.shape[0])]
        return torch.stack(each).view(-1, *(1,) * (prediction.ndim - 1))

    def _reader(self, number: int) -> statistics.Read:
        """Read one sample's prediction in this space a block at a time, without ever holding it whole."""
        row, noisy = self._prediction[number].reshape(-1), self._sample[number].reshape(-1)
        working = accumulation_dtype(row)
        buffer, loaded = torch.empty(BLOCK, dtype=working), torch.empty(BLOCK, dtype=working)

        def read(start: int, stop: int) -> Tensor:
            total = buffer[: stop - start].copy_(row[start:stop])
            sample = noisy[start:stop]
            if self._space is not IDENTITY and sample.dtype != working:
                sample = loaded[: stop - start].copy_(sample)
            return to_space(total, sample, self._space)

        return read


class Reference:
    """The base prediction (`cond`) of one output, in the space the plugin asked for."""

    __slots__ = ("_base", "_needs")

    def __init__(self, base: BasePrediction, needs: Needs) -> None:
        self._base = base
        self._needs = needs

    def std(self, over: str = "sample") -> Tensor:
        """Return its standard deviation, `[B, 1, ...]`; ask with `Needs(std=over)`."""
        if over not in self._needs.std:
            raise PluginError(f"reference.std({over!r}) was not asked for; return Needs(std={over!r}) beforehand.")
        return self._base.statistic("std", over)

    def norm(self, over: str = "sample") -> Tensor:
        """Return its Euclidean norm, `[B, 1, ...]`; ask with `Needs(norm=over)`."""
        if over not in self._needs.norm:
            raise PluginError(f"reference.norm({over!r}) was not asked for; return Needs(norm={over!r}) beforehand.")
        return self._base.statistic("norm", over)

    @property
    def tensor(self) -> Tensor:
        """The prediction itself, `[B, ...]`, float32; ask with `Needs(reference=True)`."""
        if not self._needs.reference:
            raise PluginError("reference.tensor was not asked for; return Needs(reference=True) beforehand.")
        return self._base.tensor
