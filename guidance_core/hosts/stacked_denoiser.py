"""Several branches in one forward of a plain model, by stacking their inputs along the batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from guidance_core.errors import DenoiserError
from guidance_core.steps.bound_branch import BoundBranch


class StackedDenoiser:
    """Makes a denoiser with `batch` out of a model that takes keyword arguments.

        denoise = StackedDenoiser(model, {"x": x, "sigma": sigma}, pad={"text": "text_mask"})
        velocity = run.step(i, x, denoise)

    Shared inputs are repeated and the branches' own inputs concatenated along the batch dimension;
    the output is split again. Branches with different perturbations or models never share a forward. It
    takes rows of the batch too, for executors that share them out.
    """

    takes_rows = True

    def __init__(
        self,
        model: Callable[..., Any],
        shared: Mapping[str, Any],
        *,
        pad: Mapping[str, str] | None = None,
        adapt: Callable[[BoundBranch], Mapping[str, Any]] | None = None,
    ) -> None:
        """Describe how the model is called.

        Args:
            model: called as `model(**inputs)`; returns a tensor, a tuple or a dict, batch first.
            shared: inputs that all branches share. Tensors with the batch's size in front are repeated;
                anything else is passed as it is.
            pad: inputs whose length (dimension 1) may differ between branches, each with the name of
                the mask input to build: `[B, L]`, True for real positions. An own mask of that name in a
                condition is kept and padded.
            adapt: gives the extra model inputs that a branch's perturbations stand for. Not needed where
                no method perturbs.
        """
        self._model = model
        self._shared = dict(shared)
        self._pad = dict(pad or {})
        self._adapt = adapt

    def __call__(self, branch: BoundBranch) -> Any:
        """Run one branch."""
        return self.batch([branch])[0]

    def batch(self, branches: Sequence[BoundBranch]) -> list[Any]:
        """Run several branches, as few forwards as their perturbations allow; one prediction each."""
        groups: dict[Hashable, list[int]] = {}
        for number, branch in enumerate(branches):
            groups.setdefault((branch.perturbations, branch.model), []).append(number)
        results: list[Any] = [None] * len(branches)
        for members in groups.values():
            predictions = self._forward([branches[number] for number in members])
            for number, prediction in zip(members, predictions, strict=True):
                results[number] = prediction
        return results

    def _forward(self, branches: list[BoundBranch]) -> list[Any]:
        first = branches[0]
        if first.perturbations and self._adapt is None:
            raise DenoiserError(
                f"branch {first.name!r} perturbs the model ({', '.join(map(str, first.perturbations))}); tell "
                "StackedDenoiser(adapt=...) which model inputs that stands for."
            )
        own = [self._padded(branch) for branch in branches]
        names = set(own[0])
        for branch, inputs in zip(branches, own, strict=True):
            if set(inputs) != names:
                raise DenoiserError(
                    f"branches {first.name!r} and {branch.name!r} cannot be stacked: their inputs are "
                    f"{', '.join(sorted(names))} and {', '.join(sorted(inputs))}."
                )
        size = self._batch_size(own[0])
        rows = [slice(0, size) if branch.rows is None else branch.rows for branch in branches]
        inputs = {name: _repeated(value, rows, size) for name, value in self._shared.items()}
        own = [_only(each, part, size) for each, part in zip(own, rows, strict=True)]
        longest = {name: max(each[name].shape[1] for each in own) for name in self._pad if name in names}
        for name in own[0]:
            inputs[name] = self._joined(name, [each[name] for each in own], longest)
        inputs |= self._adapt(first) if self._adapt is not None else {}
        return _split(self._model(**inputs), [part.stop - part.start for part in rows])

    def _padded(self, branch: BoundBranch) -> dict[str, Any]:
        inputs = dict(branch.inputs)
        for name, mask in self._pad.items():
            if name in inputs and mask not in inputs:
                value = inputs[name]
                inputs[mask] = torch.ones(value.shape[:2], dtype=torch.bool, device=value.device)
        return inputs

    def _joined(self, name: str, values: list[Any], longest: Mapping[str, int]) -> Any:
        if not isinstance(values[0], Tensor):
            if any(value is not values[0] and value != values[0] for value in values):
                raise DenoiserError(
                    f"input {name!r} differs between branches and is not a tensor, so it cannot be stacked."
                )
            return values[0]
        masks = {mask: padded for padded, mask in self._pad.items()}
        length = longest.get(name) or longest.get(masks.get(name, "")) or 0
        return torch.cat([_lengthened(value, length) for value in values]) if length else torch.cat(values)

    def _batch_size(self, own: Mapping[str, Any]) -> int:
        tensors = [value for value in (*own.values(), *self._shared.values()) if isinstance(value, Tensor)]
        return next((int(value.shape[0]) for value in tensors if value.ndim), 1)


def _lengthened(value: Tensor, length: int) -> Tensor:
    missing = length - value.shape[1]
    if missing == 0:
        return value
    return torch.cat([value, value.new_zeros(value.shape[0], missing, *value.shape[2:])], dim=1)


def _repeated(value: Any, rows: Sequence[slice], size: int) -> Any:
    """Return the wanted rows of a shared input, once for each branch."""
    if not isinstance(value, Tensor) or not value.ndim or value.shape[0] != size:
        return value
    return value if len(rows) == 1 and rows[0] == slice(0, size) else torch.cat([value[part] for part in rows])


def _only(inputs: dict[str, Any], rows: slice, size: int) -> dict[str, Any]:
    if rows == slice(0, size):
        return inputs
    return {
        name: value[rows] if isinstance(value, Tensor) and value.ndim and value.shape[0] == size else value
        for name, value in inputs.items()
    }


def _split(output: Any, sizes: list[int]) -> list[Any]:
    if isinstance(output, Tensor):
        if output.shape[0] != sum(sizes):
            raise DenoiserError(
                f"the model got {sum(sizes)} rows ({len(sizes)} branches) and returned {output.shape[0]}."
            )
        return list(torch.split(output, sizes))
    if isinstance(output, Mapping):
        parts = {name: _split(value, sizes) for name, value in output.items()}
        return [{name: part[number] for name, part in parts.items()} for number in range(len(sizes))]
    if isinstance(output, tuple | list):
        return [tuple(part) for part in zip(*(_split(value, sizes) for value in output), strict=True)]
    raise DenoiserError(f"the model must return a tensor, a tuple or a dict; got {type(output).__name__}.")
