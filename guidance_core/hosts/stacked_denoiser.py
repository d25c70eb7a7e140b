"""Several branches in one forward of a plain model, by stacking their inputs along the batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from guidance_core.algebra.memory import copy_of
from guidance_core.errors import DenoiserError
from guidance_core.steps.bound_branch import BoundBranch


class StackedDenoiser:
    """Turns a model that takes keyword arguments into a denoiser with `batch`.

        denoise = StackedDenoiser(model, {"x": x, "sigma": sigma}, pad={"text": "text_mask"})
        velocity = run.step(i, x, denoise)

    It repeats shared inputs and concatenates the branches' own inputs along the batch dimension, and splits the output
    again. An input with one row is used for the whole batch. Inputs may be nested in dicts, lists and tuples. Branches
    with different perturbations or models never share a forward pass. It also accepts rows of the batch, for executors
    that divide them between ranks.
    """

    takes_rows = True

    def __init__(
        self,
        model: Callable[..., Any],
        shared: Mapping[str, Any],
        *,
        pad: Mapping[str, str] | None = None,
        sample: str | None = None,
        adapt: Callable[[BoundBranch], Mapping[str, Any]] | None = None,
        reuses_memory: bool = False,
    ) -> None:
        """Describe how the model is called.

        Args:
            model: called as `model(**inputs)`; returns a tensor, a tuple or a dict, batch first.
            shared: inputs that all branches share. Tensors with the batch's size in front are repeated;
                anything else is passed as it is.
            pad: inputs whose length (dimension 1) may differ between branches, each with the name of
                the mask input to build: `[B, L]`, True for real positions. An own mask of that name in a
                condition is kept and padded; None stands for a mask that is True everywhere.
            sample: name of the shared input that is the sample, whose first dimension is the batch; if not
                given, the first shared tensor of two dimensions or more.
            adapt: gives the extra model inputs that a branch's perturbations stand for. Not needed where
                no method perturbs.
            reuses_memory: whether a forward overwrites what the one before returned, as with CUDA graphs. A model with
                `reuses_memory = True` says so itself.
        """
        self._model = model
        self._shared = dict(shared)
        self._pad = dict(pad or {})
        self._sample = sample
        self._adapt = adapt
        self.reuses_memory = reuses_memory or bool(getattr(model, "reuses_memory", False))
        "Whether predictions must be copied before the next forward."

    def __call__(self, branch: BoundBranch) -> Any:
        """Run one branch."""
        return self.batch([branch])[0]

    def batch(self, branches: Sequence[BoundBranch]) -> list[Any]:
        """Run several branches in as few forward passes as their perturbations allow; return a prediction for each."""
        groups: dict[Hashable, list[int]] = {}
        for number, branch in enumerate(branches):
            groups.setdefault((branch.perturbations, branch.model), []).append(number)
        results: list[Any] = [None] * len(branches)
        for members in groups.values():
            predictions = self._forward([branches[number] for number in members])
            if self.reuses_memory and len(groups) > 1:
                predictions = [copy_of(prediction) for prediction in predictions]
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
        size = self._batch_size(own)
        rows = [slice(0, size) if branch.rows is None else branch.rows for branch in branches]
        inputs = {name: _repeated(value, rows, size) for name, value in self._shared.items()}
        own = [
            {
                name: _rows_of(value, part, size, f"input {name!r} of branch {branch.name!r}")
                for name, value in each.items()
            }
            for branch, each, part in zip(branches, own, rows, strict=True)
        ]
        longest = {
            name: max(each[name].shape[1] for each in own)
            for name in self._pad
            if name in names and all(isinstance(each[name], Tensor) and each[name].ndim > 1 for each in own)
        }
        masks = {mask: longest[name] for name, mask in self._pad.items() if name in longest}
        for name in own[0]:
            length = longest.get(name) or masks.get(name) or 0
            inputs[name] = _joined(f"input {name!r}", [each[name] for each in own], length)
        inputs |= self._adapt(first) if self._adapt is not None else {}
        return _split(self._model(**inputs), [part.stop - part.start for part in rows])

    def _padded(self, branch: BoundBranch) -> dict[str, Any]:
        inputs = dict(branch.inputs)
        for name, mask in self._pad.items():
            value = inputs.get(name)
            if isinstance(value, Tensor) and inputs.get(mask) is None:
                inputs[mask] = torch.ones(value.shape[:2], dtype=torch.bool, device=value.device)
        return inputs

    def _batch_size(self, own: Sequence[Mapping[str, Any]]) -> int:
        if self._sample is not None:
            if self._sample not in self._shared:
                raise DenoiserError(
                    f"sample={self._sample!r} is not among the shared inputs, which are {', '.join(self._shared)}."
                )
            return int(next(_tensors(self._shared[self._sample])).shape[0])
        for value in _tensors(self._shared):
            if value.ndim > 1:
                return int(value.shape[0])
        sizes = [int(value.shape[0]) for value in _tensors([self._shared, own]) if value.ndim]
        return max(sizes, default=1)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in an input, those inside dicts, lists and tuples included."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(inner)


def _joined(what: str, values: list[Any], length: int) -> Any:
    """Concatenate one input of several branches, tensors padded to `length` if that is not 0."""
    first = values[0]
    if all(isinstance(value, Tensor) and value.ndim for value in values):
        if len({value.shape[2 if length else 1 :] for value in values}) > 1:
            shapes = ", ".join(str(tuple(value.shape)) for value in values)
            raise DenoiserError(
                f"{what} has the shapes {shapes} in the branches of one forward, which cannot be stacked; where "
                "lengths differ, name its mask with StackedDenoiser(pad=...)."
            )
        return torch.cat([_lengthened(value, length) for value in values] if length else values)
    if isinstance(first, Mapping) and all(isinstance(each, Mapping) and each.keys() == first.keys() for each in values):
        return {name: _joined(f"{what}[{name!r}]", [each[name] for each in values], 0) for name in first}
    if type(first) in (list, tuple) and all(type(each) is type(first) and len(each) == len(first) for each in values):
        places = enumerate(zip(*values, strict=True))
        return type(first)(_joined(f"{what}[{place}]", list(each), 0) for place, each in places)
    if not all(_is_same(value, first) for value in values):
        raise DenoiserError(f"{what} differs between branches and is not a tensor of rows, so it cannot be stacked.")
    return first


def _is_same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    try:
        return bool(one == other)
    except (ValueError, RuntimeError):  # an array, whose comparison has many answers
        return False


def _lengthened(value: Tensor, length: int) -> Tensor:
    missing = length - value.shape[1]
    if missing == 0:
        return value
    return torch.cat([value, value.new_zeros(value.shape[0], missing, *value.shape[2:])], dim=1)


def _repeated(value: Any, rows: Sequence[slice], size: int) -> Any:
    """Return the wanted rows of a shared input, once for each branch."""
    if isinstance(value, Mapping):
        return {name: _repeated(inner, rows, size) for name, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_repeated(inner, rows, size) for inner in value)
    if not isinstance(value, Tensor) or not value.ndim or value.shape[0] != size:
        return value
    return value if len(rows) == 1 and rows[0] == slice(0, size) else torch.cat([value[part] for part in rows])


def _rows_of(value: Any, rows: slice, size: int, what: str) -> Any:
    """Return the wanted rows of a branch's own input; one row stands for all."""
    if isinstance(value, Mapping):
        return {name: _rows_of(inner, rows, size, f"{what}, {name!r}") for name, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_rows_of(inner, rows, size, what) for inner in value)
    if not isinstance(value, Tensor) or not value.ndim:
        return value
    if value.shape[0] == 1 != size:
        value = value.expand(size, *value.shape[1:])
    if value.shape[0] != size:
        raise DenoiserError(f"{what} has {value.shape[0]} rows; the sample has {size}. Give it as many, or one.")
    return value if rows == slice(0, size) else value[rows]


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
