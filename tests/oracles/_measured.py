"""How far a method is from its formula, as bounds and as figures for the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from hypothesis import assume, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor

from oracles import Oracle, played, predicted, written_out

FLOAT32 = 2.0**-24
HALF = {"bf16": torch.bfloat16, "float16": torch.float16}
BOUND = 0.51
"Units in the last place, in half precision."


@attrs.define
class Largest:
    """The largest errors that were seen of one method."""

    float32: float = 0.0
    "Units of rounding of the largest number in the formula."
    bf16: float = 0.0
    "Units in the last place, beside what float32 cannot know."
    float16: float = 0.0


def units(oracle: Oracle, got: Tensor, right: Tensor, parameters: Mapping[str, Any]) -> float:
    """Return the largest error in units of float32 rounding, without the share that may lie beside."""
    return _largest((got.double() - right).abs() / (FLOAT32 * _size(right, parameters)), oracle.aside)


def last_places(oracle: Oracle, got: Tensor, right: Tensor, parameters: Mapping[str, Any]) -> float:
    """Return the largest error in units in the last place of a half-precision result.

    Where large terms cancel, the sum itself is known to float32 only: that much is left out.
    """
    info = torch.finfo(got.dtype)
    spacing = info.eps * 2.0 ** right.abs().clamp(min=info.tiny).log2().floor()
    lost = oracle.units * FLOAT32 * right.abs().max() * _strength(parameters)
    return _largest(((got.double() - right).abs() - lost).clamp(min=0) / spacing, oracle.aside)


def largest(oracle: Oracle, examples: int = 60) -> Largest:
    """Return the largest errors over seeded draws."""
    found = Largest()

    @seed(0)
    @settings(deadline=None, max_examples=examples, database=None, derandomize=True)
    @given(st.data(), st.sampled_from(["float32", *HALF]), st.sampled_from([1e-3, 0.1, 1.0]), st.integers(0, 2**16))
    def draw(data: Any, name: str, apart: float, number: int) -> None:
        dtype = HALF.get(name, torch.float32)
        steps = predicted(oracle, number, data.draw(st.sampled_from(oracle.shapes)), apart, dtype)
        assume(all(oracle.needs(predictions) for _, predictions in steps))
        parameters = data.draw(oracle.parameters)
        measure = units if name == "float32" else last_places
        for got, right in zip(played(oracle, steps, parameters), written_out(oracle, steps, parameters), strict=True):
            setattr(found, name, max(getattr(found, name), measure(oracle, got, right, parameters)))

    draw()
    return found


def _strength(parameters: Mapping[str, Any]) -> float:
    return 1 + abs(float(parameters.get("scale", 1.0)))


def _size(right: Tensor, parameters: Mapping[str, Any]) -> float:
    return max(1.0, float(right.abs().max())) * _strength(parameters)


def _largest(errors: Tensor, aside: float) -> float:
    """Return the largest of errors, without a share of them; infinite where one is not a number."""
    kept = max(1, errors.numel() - int(aside * errors.numel()))
    value = float(errors.flatten().kthvalue(kept).values)
    return float("inf") if value != value else value
