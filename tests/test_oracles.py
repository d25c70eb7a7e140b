"""Every shipped method against its formula in float64, over several steps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles import oracles, played, predicted, written_out

FLOAT32 = 2.0**-24
ALL = oracles()


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from([1e-3, 0.1, 1.0]), st.integers(0, 2**16))
def test_in_float32_within_a_few_units_of_the_formula(name, data, apart, seed):
    oracle = ALL[name]
    steps = predicted(oracle, seed, data.draw(st.sampled_from(oracle.shapes)), apart, torch.float32)
    assume(all(oracle.needs(predictions) for _, predictions in steps))
    parameters = data.draw(oracle.parameters)
    for got, right in zip(played(oracle, steps, parameters), written_out(oracle, steps, parameters), strict=True):
        assert got.dtype == torch.float32
        size = max(1.0, right.abs().max()) * (1 + abs(parameters.get("scale", 1.0)))
        beside = (got.double() - right).abs() > oracle.units * FLOAT32 * size
        assert beside.double().mean() <= oracle.aside


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "float16"])
@pytest.mark.parametrize("name", ALL)
@settings(deadline=None, max_examples=40)
@given(st.data(), st.sampled_from([0.1, 1.0]), st.integers(0, 2**16))
def test_in_half_precision_within_051_units_in_the_last_place(name, dtype, data, apart, seed):
    oracle = ALL[name]
    steps = predicted(oracle, seed, data.draw(st.sampled_from(oracle.shapes)), apart, dtype)
    assume(all(oracle.needs(predictions) for _, predictions in steps))
    parameters = data.draw(oracle.parameters)
    for got, right in zip(played(oracle, steps, parameters), written_out(oracle, steps, parameters), strict=True):
        assert got.dtype == dtype
        smallest = torch.finfo(dtype).tiny
        spacing = torch.finfo(dtype).eps * 2.0 ** right.abs().clamp(min=smallest).log2().floor()
        # Where large terms cancel, the sum itself is known to float32 only.
        lost = oracle.units * FLOAT32 * right.abs().max() * (1 + abs(parameters.get("scale", 1.0)))
        beside = (got.double() - right).abs() > 0.51 * spacing + lost
        assert beside.double().mean() <= oracle.aside
