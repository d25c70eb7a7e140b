"""The plan of a step: its branches, and what those who run them need to know and may ask.

A plan is a layout bound to a sample. Executors work with plans alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from guidance_core import fingerprint
from guidance_core.arithmetic import Weight, evaluate
from guidance_core.branch import BASE, BoundBranch
from guidance_core.errors import DenoiserError, GuidanceError, NonFiniteError
from guidance_core.layout import Layout
from guidance_core.outputs import Structure
from guidance_core.reference import BasePrediction, Statistic
from guidance_core.spaces import Noise
from guidance_core.step import States

if TYPE_CHECKING:
    from guidance_core.run import Run


class Plan:
    """The branches of one step, for those who run the forwards, and what finishing it needs."""

    __slots__ = (
        "_structure",
        "branches",
        "is_finished",
        "layout",
        "noise",
        "owner",
        "samples",
        "state",
        "version",
    )

    def __init__(
        self,
        owner: Run,
        layout: Layout,
        branches: tuple[BoundBranch, ...],
        structure: Structure,
        samples: Mapping[str, Tensor],
        noise: Mapping[str, Noise],
        state: States,
        version: int,
    ) -> None:
        self._structure = structure
        self.owner = owner
        "The run it belongs to."
        self.samples = samples
        "The noisy sample by output."
        self.noise = noise
        "The noise level by output."
        self.state = state
        "What plugins keep in the run, as hooks left it when they named the branches."
        self.version = version
        "How many steps the run had finished when the plan was made."
        self.is_finished = False
        self.layout = layout
        self.branches = branches
        "The passes to run, `cond` first; empty where every output keeps its last x0."

    @property
    def index(self) -> int:
        """Index of the step."""
        return self.layout.moment.index

    @property
    def sigma(self) -> float:
        """Noise level of the step (of the first output)."""
        return self.noise[self._structure.names[0]].sigma

    @property
    def rows(self) -> int:
        """Batch size of the sample."""
        return int(next(iter(self.samples.values())).shape[0])

    @property
    def summary(self) -> str:
        """The step and its branches in a few words, for messages."""
        branches = ", ".join(branch.name for branch in self.branches) or "no branches"
        evaluation = self.layout.moment.evaluation
        again = f", evaluation {evaluation}" if evaluation else ""
        shapes = ", ".join(f"{name} {kind_of(sample)}" for name, sample in self.samples.items())
        return f"step {self.index} of {self.layout.moment.count}{again} at sigma {self.sigma:g}: {branches}; {shapes}"

    @property
    def fingerprint(self) -> tuple[int, ...]:
        """What ranks compare before they exchange predictions; see `guidance_core.fingerprint`."""
        shapes = [(tuple(sample.shape), sample.dtype, sample.device.type) for sample in self.samples.values()]
        sample = fingerprint.digest([self._structure.kind, *self.samples, shapes, list(self.noise.values())])
        return (*self.owner.fingerprint, *self.layout.fingerprint, sample)

    def named(self, prediction: Any, branch: str) -> dict[str, Tensor]:
        """Return one branch's prediction by output, or raise `DenoiserError` if its structure differs."""
        entries = self._structure.entries(prediction)
        if entries is None:
            raise self._misfit(prediction, branch)
        return dict(zip(self.samples, entries, strict=True))

    def _misfit(self, prediction: Any, branch: str) -> GuidanceError:
        return self._structure.misfit(prediction, f"the prediction of branch {branch!r}", DenoiserError)

    def restored(self, named: Mapping[str, Tensor]) -> Any:
        """Return the tensor, tuple or dict that predictions by output stand for."""
        return self._structure.restore(named)

    def shape_of(self, output: str, rows: tuple[int, int] | None = None) -> tuple[int, ...]:
        """Return the shape of an output's prediction, of some rows of the batch or all."""
        shape = tuple(self.samples[output].shape)
        return shape if rows is None else (rows[1] - rows[0], *shape[1:])

    def checked(self, predictions: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
        """Return the predictions by output, then by branch.

        Raises:
            DenoiserError: one is missing, or does not fit the sample or the base branch.
            NonFiniteError: one holds NaN or infinity, and the run checks that.
        """
        structure = self._structure
        made: dict[str, Sequence[Tensor]] = {}
        for branch in self.branches:
            name = branch.name
            try:
                prediction = predictions[name]
            except KeyError:
                raise DenoiserError(
                    f"the prediction of branch {name!r} of step {self.index} is missing; got "
                    f"{', '.join(map(str, predictions)) or 'none'}."
                ) from None
            except TypeError:
                raise DenoiserError(
                    f"predictions are given by branch name; step {self.index} got a {type(predictions).__name__}."
                ) from None
            entries = structure.entries(prediction)
            if entries is None:
                raise self._misfit(prediction, name)
            made[name] = entries
        if not made:
            return {output: {} for output in self.samples}
        by_output: dict[str, dict[str, Tensor]] = {}
        for number, (output, sample) in enumerate(self.samples.items()):
            base = made[BASE][number]
            shape, dtype, device = sample.shape, base.dtype, sample.device
            if not dtype.is_floating_point:
                raise DenoiserError(f"branch 'cond': output {output!r} must be floating point; got {dtype}.")
            by_output[output] = given = {}
            for name, entries in made.items():
                given[name] = tensor = entries[number]
                if tensor.shape != shape or tensor.dtype is not dtype or tensor.device != device:
                    whose, other = ("its sample", sample) if name == BASE else ("that of the base branch", base)
                    raise DenoiserError(
                        f"branch {name!r} of step {self.index}: output {output!r} is {kind_of(tensor)}, "
                        f"but {whose} is {kind_of(other)}."
                    )
            for name in self.layout.outputs[output].seen:
                # A sum over a tensor rounds by its layout in memory, which predictions lose when they travel.
                given[name] = given[name].contiguous()
        if self.owner.settings.check_finite:
            for output, given in by_output.items():
                for name, tensor in given.items():
                    self.check_finite(name, output, tensor)
        return by_output

    def accepted(self, branch: str, prediction: Any, rows: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """Return one branch's prediction by output, checked against the sample.

        Raises:
            DenoiserError: its structure, shape or device differs, or it is not floating point.
            NonFiniteError: it holds NaN or infinity, and the run checks that.
        """
        named = self.named(prediction, branch)
        for output, tensor in named.items():
            shape, sample = self.shape_of(output, rows), self.samples[output]
            if not tensor.is_floating_point():
                raise DenoiserError(f"branch {branch!r}: output {output!r} must be floating point; got {tensor.dtype}.")
            if tuple(tensor.shape) != shape or tensor.device != sample.device:
                part = "" if rows is None else f" in rows {rows[0]} to {rows[1] - 1}"
                raise DenoiserError(
                    f"branch {branch!r} of step {self.index}: output {output!r} is {kind_of(tensor)}, "
                    f"but its sample{part} is {shape} on {sample.device}."
                )
            if hasattr(tensor, "full_tensor"):  # a DTensor; importing the class to ask takes long
                raise DenoiserError(
                    f"branch {branch!r} of step {self.index}: output {output!r} is spread over a device mesh (a "
                    "DTensor); every rank that runs the branch must return all of it, as full_tensor() gives it."
                )
            if self.owner.settings.check_finite:
                self.check_finite(branch, output, tensor)
        return named

    def check_finite(self, branch: str, output: str, tensor: Tensor) -> None:
        """Raise `NonFiniteError` if a prediction holds NaN or infinity."""
        if not bool(torch.isfinite(tensor).all()):
            raise NonFiniteError(f"branch {branch!r} of step {self.index}: output {output!r} holds NaN or infinity.")

    def check_dtype(self, branch: str, output: str, tensor: Tensor, dtype: torch.dtype) -> None:
        """Raise `DenoiserError` unless a prediction has the dtype of the others."""
        if tensor.dtype is not dtype:
            raise DenoiserError(
                f"branch {branch!r} of step {self.index}: output {output!r} is {kind_of(tensor)}, "
                f"but another branch's is {str(dtype).removeprefix('torch.')}."
            )

    def can_split_rows(self, *, needs_tensor_statistics: bool) -> bool:
        """Whether the batch can be shared out by rows.

        It cannot where outputs differ in batch size, or a statistic over the whole batch has to be
        computed from the parts.
        """
        if len({sample.shape[0] for sample in self.samples.values()}) > 1:
            return False
        wanted = (key for output in self.samples for key in self.wanted_statistics(output))
        return not (needs_tensor_statistics and any(over == "tensor" for _, _, over in wanted))

    def partial_sum(
        self, output: str, predictions: Mapping[str, Tensor], rows: tuple[int, int] | None = None
    ) -> Tensor | None:
        """Return `Σ wᵢ·pᵢ` over those branches of the plan that `predictions` holds; None if none counts.

        With `rows`, predictions hold those rows of the batch only.
        """
        if not predictions:
            return None
        weights = self.layout.outputs[output].weights(self.samples[output])
        terms = [(predictions[name], _in_rows(weight, rows)) for name, weight in weights if name in predictions]
        return evaluate(terms) if terms else None

    def wanted_statistics(self, output: str) -> tuple[Statistic, ...]:
        """Return (space, `std` or `norm`, over) of each statistic of the base prediction that is wanted."""
        wanted = {
            (acting.space, kind, over): None
            for acting in self.layout.outputs[output].all_correcting
            for kind, overs in (("std", acting.needs.std), ("norm", acting.needs.norm))
            for over in overs
        }
        return tuple(wanted)

    def wants_reference(self, output: str) -> bool:
        """Whether a correction looks at the whole base prediction of `output`."""
        return any(acting.needs.reference for acting in self.layout.outputs[output].all_correcting)

    def statistic(self, output: str, base: Tensor, key: Statistic, rows: tuple[int, int] | None = None) -> Tensor:
        """Compute one wanted statistic from the base prediction of `output`; dimensions are kept."""
        own = self.owner.settings.prediction_type
        sample = self.samples[output]
        sample = sample if rows is None else sample[slice(*rows)]
        return BasePrediction(base, sample, own, self.noise[output]).statistic(key)


def _in_rows(weight: Weight, rows: tuple[int, int] | None) -> Weight:
    return weight[slice(*rows)] if isinstance(weight, Tensor) and rows is not None and weight.shape[0] > 1 else weight


def kind_of(tensor: Tensor) -> str:
    """Return shape, dtype and device in words."""
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"
