"""Serial, all-gather and all-reduce agree, on real ranks with real collectives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_jobs import BROKEN_GATHERS, BROKEN_REDUCES, Case, equivalence, letters_by_rows
from tallies import tally

numbers = st.floats(-30, 30).map(lambda value: round(value, 3)) | st.sampled_from([0.0, 1.0, -1.0, 1e4, -3e5])


@st.composite
def cases(draw, corrections=("", "rescale:phi=0.7", "normalize:limit=0.8", "rescale:phi=0.7,space=x0"), options=None):
    batch = draw(st.integers(1, 3))
    names = draw(st.sampled_from([("output",), ("video", "audio")]))
    shapes = {
        name: (batch, *draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)), draw(st.integers(2, 8)))
        for name in names
    }
    steps = draw(st.integers(1, 3))
    per_output = st.fixed_dictionaries(dict.fromkeys(names, numbers)) if len(names) > 1 else numbers
    strength = numbers | st.lists(numbers, min_size=batch, max_size=batch) | per_output
    strengths = tuple(draw(st.lists(strength, max_size=5)))
    window = st.none() | st.lists(st.integers(0, steps - 1), unique=True).map(tuple)
    return Case(
        seed=draw(st.integers(0, 2**16)),
        shapes=shapes,
        dtype=draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16])),
        strengths=strengths,
        corrections=draw(st.sampled_from(corrections)),
        steps=steps,
        windows=tuple(draw(window) for _ in strengths),
        costs=tuple(draw(st.sampled_from([1.0, 0.5, 2.0])) for _ in strengths),
        options=options or {},
        magnitude=0.01 if largest(strengths) > 1e3 else 1.0,
    )


def largest(strength) -> float:
    """The largest strength, so that float16 can hold the result."""
    if isinstance(strength, float):
        return abs(strength)
    return max(map(largest, strength.values() if isinstance(strength, dict) else strength), default=0.0)


ranks_of_one_to_six = st.integers(1, 6)


@settings(deadline=None, max_examples=120)
@given(cases(), ranks_of_one_to_six)
def test_all_gather_equals_serial_bitwise_on_every_rank(ranks, case, count):
    found = ranks.run(equivalence, "all_gather", case, ranks=count)
    assert all(all(rank.equal) for rank in found)
    assert_costs(found, case, count)
    tally("all_gather = serial", found)


@settings(deadline=None, max_examples=120)
@given(cases(corrections=("", "rescale:phi=0.7", "normalize:limit=0.8")), ranks_of_one_to_six)
def test_all_reduce_is_within_the_bound_and_the_same_on_every_rank(ranks, case, count):
    found = ranks.run(equivalence, "all_reduce", case, ranks=count)
    assert len({tuple(rank.bits) for rank in found}) == 1, "ranks differ"
    tally("all_reduce ~ serial", found)
    assert max(rank.in_bounds for rank in found) <= 1.0
    assert_costs(found, case, count)


def assert_costs(found, case, count):
    """Every branch on exactly one rank, none on an idle one, one collective a step."""
    for step in range(case.steps):
        assert sum(rank.forwards[step] for rank in found) == found[0].branches[step]
    assert all(rank.collectives == (case.steps if count > 1 else 0) for rank in found)


def whole_batches(**changed):
    given = {"seed": 3, "shapes": {"output": (2, 6, 4)}, "dtype": torch.float32, "strengths": (2.0, -0.5)} | changed
    return Case(**given)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("name", ["all_gather", "all_reduce"])
@pytest.mark.parametrize(("rows", "count"), [(2, 2), (5, 3), (1, 4), (3, 6)])
def test_rows_are_shared_out_evenly(ranks, name, rows, count, batched):
    case = whole_batches(
        shapes={"video": (rows, 6, 4), "audio": (rows, 3)},
        corrections="rescale:phi=0.7,space=x0",
        options={"split_rows": True, "batched": batched},
        strengths=(2.0, [float(i) + 0.5 for i in range(rows)]),
    )
    found = ranks.run(equivalence, name, case, ranks=count)
    # This denoiser gives a row the same bits in any batch, so nothing but the sum's order may differ.
    assert all(all(rank.equal) if name == "all_gather" else rank.in_bounds <= 1.0 for rank in found)
    assert len({tuple(rank.bits) for rank in found}) == 1


@pytest.mark.parametrize("broken", [*BROKEN_GATHERS, *BROKEN_REDUCES], ids=lambda cls: cls.__name__)
def test_what_is_broken_on_purpose_is_seen(ranks, broken):
    case = whole_batches(strengths=(2.0, -0.5, 1.5), corrections="rescale:phi=0.7")
    found = ranks.run(equivalence, broken.__name__, case, ranks=3)
    if broken in BROKEN_GATHERS:
        assert not all(all(rank.equal) for rank in found)
    else:
        assert max(rank.in_bounds for rank in found) > 1.0 or len({tuple(rank.bits) for rank in found}) > 1


def test_three_branches_of_two_rows_are_three_units_each():
    from guidance_core import Branch
    from guidance_core.executors.placement import place_branches, place_rows

    branches = [Branch("cond"), Branch("neg"), Branch("perturbed")]
    assert place_branches(branches, 2).shown([b.name for b in branches]) == ("cond, perturbed", "neg")
    placement = place_rows(branches, 2, 2)
    assert placement.shown([b.name for b in branches]) == ("cond, neg[0:1]", "neg[1:2], perturbed")
    assert placement.speedup == 2.0
    assert place_branches(branches, 2).speedup == 1.5


def test_branches_stay_whole_where_cutting_them_gains_nothing():
    from guidance_core import Branch
    from guidance_core.executors.placement import place_rows

    branches = [Branch("cond"), Branch("slow", cost=2.0), Branch("other")]
    assert place_rows(branches, 2, 2).shown([b.name for b in branches]) == ("slow", "cond, other")


def test_a_branch_that_costs_next_to_nothing_has_its_rows_placed():
    from guidance_core import Branch
    from guidance_core.executors.placement import place_rows

    branches = [Branch("cond"), Branch("free", cost=1e-6)]
    assert place_rows(branches, 4, 2).shown([b.name for b in branches]) == ("cond[0:2]", "cond[2:4], free")


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.5]), min_size=1, max_size=6), st.integers(1, 8), st.integers(1, 5))
def test_every_row_of_every_branch_is_placed_once(costs, count, rows):
    from guidance_core import Branch
    from guidance_core.executors.placement import place_branches, place_rows

    branches = [Branch(f"b{i}", cost=cost) for i, cost in enumerate(costs)]
    for placement in (place_branches(branches, count), place_rows(branches, rows, count)):
        seen = [
            (unit.branch, row)
            for units in placement.units
            for unit in units
            for row in (range(rows) if unit.rows is None else range(*unit.rows))
        ]
        assert sorted(seen) == [(branch, row) for branch in range(len(branches)) for row in range(rows)]
    whole, cut = place_branches(branches, count), place_rows(branches, rows, count)
    assert cut.speedup >= whole.speedup
    # the busiest rank has its share, and at most one row more
    assert sum(costs) / cut.speedup <= sum(costs) / count + max(costs) / rows + 1e-6


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.5]), min_size=1, max_size=6), st.integers(2, 8), st.integers(2, 9))
def test_the_shares_of_rows_end_at_the_rows_nearest_to_equal_shares(costs, count, rows):
    from guidance_core import Branch
    from guidance_core.executors.placement import place_rows

    placement = place_rows([Branch(f"b{i}", cost=cost) for i, cost in enumerate(costs)], rows, count)
    if all(unit.rows is None for units in placement.units for unit in units):
        return  # cutting branches gains nothing
    done = 0.0
    for number, units in enumerate(placement.units[:-1]):
        for unit in units:
            done += costs[unit.branch] * (rows if unit.rows is None else unit.rows[1] - unit.rows[0])
        equal = (number + 1) * sum(costs) * rows / count
        assert abs(done - equal) <= max(costs) / 2


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_rows_of_a_plain_model_are_shared_out(ranks, count, batched):
    found = ranks.run(letters_by_rows, batched, ranks=count)
    for images, expected, rows in found:
        torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-4)
        assert rows == found[0][2] or abs(rows - found[0][2]) <= 4  # four steps
    assert sum(rows for *_, rows in found) == 4 * 3 * 4  # steps, branches, rows: each row run once
