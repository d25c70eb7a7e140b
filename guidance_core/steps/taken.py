"""The predictions of a process's own branches, taken apart by output and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from guidance_core.algebra.outputs import is_dense, layout_of
from guidance_core.algebra.spaces import OTHER
from guidance_core.errors import DenoiserError, NonFiniteError
from guidance_core.methods.requests import BASE
from guidance_core.steps.apart import check_apart, check_unwritten
from guidance_core.steps.bound_branch import BoundBranch
from guidance_core.steps.plan import Plan, Predictions, kind_of


def taken_apart(plan: Plan, predictions: Mapping[str, Any]) -> Predictions:
    """Return the predictions of `own_branches` by output, then by branch.

    Raises:
        DenoiserError: one is missing, does not fit the sample, or has another dtype than the first.
        NonFiniteError: one holds NaN or infinity, and the run checks that.
    """
    by_output = _usual(plan, predictions)
    if by_output is None:
        by_output = _checked(plan, predictions)
    if plan.writes >= 0:
        check_unwritten(plan.samples.values(), plan.writes, f"before step {plan.index} was finished")
    for output, layout in plan.layout.outputs.items():
        given = by_output[output]
        for name in layout.seen:
            if name in given:
                # A sum over a tensor rounds by its layout in memory, which predictions lose when they travel.
                given[name] = given[name].contiguous()
    for output, plugin in plan.layout.differentiating:
        _check_tracked(plan, output, plugin, by_output[output].get(BASE))
    if plan.identity.settings.check_finite:
        for output, given in by_output.items():
            for name, tensor in given.items():
                _check_finite(plan, name, output, tensor)
    return by_output


def _check_tracked(plan: Plan, output: str, plugin: str, base: Tensor | None) -> None:
    """Raise `DenoiserError` unless the base prediction comes with the graph of its forward."""
    if base is None or (output in plan.tracked and plan.tracked[output].leads_to(base)):
        return
    what = f"plugin {plugin!r} differentiates by the sample, but output {output!r} of branch {BASE!r}"
    if output not in plan.tracked:
        raise DenoiserError(f"{what} was not made inside `with branch.differentiable():`.")
    raise DenoiserError(
        f"{what} carries no gradient of it: the forward must use the sample that the step was given, the same "
        "tensor, and turn gradients off nowhere."
    )


def _usual(plan: Plan, predictions: Mapping[str, Any]) -> Predictions | None:
    """Return predictions by output, then by branch, if nothing about them is unusual; None if `_checked` must look.

    Nearly all are whole, contiguous tensors that fit the sample, with addresses far enough from each other. To find
    that out takes 1.4 us for two branches, where `_checked` takes 2.
    """
    if type(predictions) is not dict:
        return None
    samples, own, kind = plan.samples, plan.own_branches, plan.structure.kind
    by_output: Predictions = {}
    addresses: list[int] = []
    largest = number = 0
    try:
        if kind != "tensor":
            expected = tuple if kind == "tuple" else dict
            for branch in own:
                if type(predictions[branch.name]) is not expected or len(predictions[branch.name]) != len(samples):
                    return None
        for output in samples:
            sample, dtype = samples[output], None
            whole, is_cpu = sample.shape, sample.is_cpu
            by_output[output] = given = {}
            for branch in own:
                name = branch.name
                tensor = predictions[name]
                if kind == "tuple":
                    tensor = tensor[number]
                elif kind == "dict":
                    tensor = tensor[output]
                if dtype is None:
                    dtype, size = tensor.dtype, tensor.nbytes
                    if size > largest:
                        largest = size
                    if not dtype.is_floating_point:
                        return None
                if (
                    type(tensor) is not Tensor
                    or tensor.shape != whole
                    or tensor.dtype is not dtype
                    or not (tensor.is_cpu if is_cpu else tensor.device == sample.device)
                    or not tensor.is_contiguous()
                ):
                    return None
                given[name] = tensor
                addresses.append(tensor.data_ptr())
            number += 1
    except Exception:  # something is missing, is not a tensor, or is one without memory of its own
        return None
    addresses.sort()
    last = 0
    for address in addresses:
        if address - last < largest:
            return None
        last = address
    return by_output


def _checked(plan: Plan, predictions: Mapping[str, Any]) -> Predictions:
    """Return predictions by output, then by branch, or raise what is wrong with them."""
    if not isinstance(predictions, Mapping):
        raise DenoiserError(
            f"predictions must be a dict by branch name; step {plan.index} got a {type(predictions).__name__}."
        )
    made: list[tuple[BoundBranch, Sequence[Tensor]]] = []
    for branch in plan.own_branches:
        try:
            prediction = predictions[branch.name]
        except KeyError:
            raise DenoiserError(
                f"the prediction of branch {branch.name!r} of step {plan.index} is missing; got "
                f"{', '.join(map(str, predictions)) or 'none'}."
            ) from None
        entries = plan.structure.entries(prediction)
        if entries is None:
            raise plan.misfit(prediction, branch.name)
        made.append((branch, entries))
    by_output: Predictions = {output: {} for output in plan.samples}
    if not made:
        return by_output
    is_other = plan.identity.settings.prediction_type == OTHER and plan.placed is None
    for number, (output, sample) in enumerate(plan.samples.items()):
        given, first, whole = by_output[output], made[0][1][number], plan.shape_of(output)
        if is_other and tuple(first.shape[:1]) == whole[:1]:
            whole = tuple(first.shape)  # such as logits, of which nobody but the host knows the shape
        for branch, entries in made:
            given[branch.name] = tensor = entries[number]
            shape = whole if branch.rows is None else plan.shape_of(output, branch.rows)
            if not is_dense(tensor):  # torch writes a sparse one beside the part of a buffer that it is added to
                raise DenoiserError(
                    f"branch {branch.name!r} of step {plan.index}: output {output!r} must be a dense tensor; got "
                    f"one with the layout {layout_of(tensor)}."
                )
            if tensor.shape != shape or tensor.dtype is not first.dtype or tensor.device != sample.device:
                raise _misshapen(plan, branch, output, tensor, first)
        if not first.dtype.is_floating_point:
            name = made[0][0].name
            raise DenoiserError(f"branch {name!r}: output {output!r} must be floating point; got {first.dtype}.")
    check_apart(by_output, f"step {plan.index}")
    return by_output


def _misshapen(plan: Plan, branch: BoundBranch, output: str, tensor: Tensor, first: Tensor) -> DenoiserError:
    what = f"branch {branch.name!r} of step {plan.index}: output {output!r} is {kind_of(tensor)}"
    if tensor is first or (branch.rows is not None and tensor.dtype is first.dtype):
        sample, rows = plan.samples[output], branch.rows
        part = "" if rows is None else f" in rows {rows.start} to {rows.stop - 1}"
        return DenoiserError(f"{what}, but its sample{part} is {plan.shape_of(output, rows)} on {sample.device}.")
    name = plan.own_branches[0].name
    whose = "the base branch" if name == BASE else f"branch {name!r}"
    return DenoiserError(f"{what}, but that of {whose} is {kind_of(first)}.")


def _check_finite(plan: Plan, branch: str, output: str, tensor: Tensor) -> None:
    """Raise `NonFiniteError` if a prediction holds NaN or infinity."""
    if not _is_finite(tensor):
        raise NonFiniteError(f"branch {branch!r} of step {plan.index}: output {output!r} holds NaN or infinity.")


def check_results(plan: Plan, results: Mapping[str, Tensor]) -> None:
    """Raise `NonFiniteError` if a guided prediction holds NaN or infinity, though every prediction is finite."""
    for output, result in results.items():
        if not _is_finite(result):
            dtype = str(result.dtype).removeprefix("torch.")
            raise NonFiniteError(
                f"the guided prediction of step {plan.index} holds NaN or infinity in output {output!r}, though "
                f"every prediction is finite: it may lie beyond what {dtype} can hold; lower the scale."
            )


def _is_finite(tensor: Tensor) -> bool:
    if tensor.dtype.itemsize == 1:  # torch does not look at those itself
        tensor = tensor.float()
    return bool(torch.isfinite(tensor).all())
