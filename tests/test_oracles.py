"""Every shipped method against its formula in float64, over several steps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles import oracles, played, predicted, written_out
from oracles._measured import BOUND, HALF, last_places, units
from oracles._page import PAGE, WITHOUT, listed, module_of, source_of

from guidance_core.discovery.shipped import PLUGINS, SHIPPED

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
        assert units(oracle, got, right, parameters) <= oracle.units


@pytest.mark.parametrize("dtype", HALF.values(), ids=list(HALF))
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
        assert last_places(oracle, got, right, parameters) <= BOUND


@pytest.mark.parametrize("name", sorted(SHIPPED[PLUGINS]))
def test_every_shipped_method_has_a_formula_or_a_reason(name):
    has = module_of(name) in ALL
    assert has or name in WITHOUT, f"write tests/oracles/{module_of(name)}.py, or the reason in oracles/_page.py"
    assert not (has and name in WITHOUT)
    assert source_of(name) != "–", f"the docstring of {name!r} names no source"


def test_the_page_lists_every_method_with_errors_within_the_bounds():
    rows = listed(PAGE.read_text())
    assert list(rows) == sorted(SHIPPED[PLUGINS]), "write it anew: cd tests && python -m oracles --write"
    for name, (source, _, *figures) in rows.items():
        assert source == source_of(name), "write it anew: cd tests && python -m oracles --write"
        if name not in WITHOUT:
            bounds = (ALL[module_of(name)].units, BOUND, BOUND)
            assert all(float(figure) <= bound for figure, bound in zip(figures, bounds, strict=True)), name
