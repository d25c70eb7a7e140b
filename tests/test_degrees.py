"""How ranks are shared out between guidance and what an engine splits itself."""

from __future__ import annotations

import mesh_jobs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guidance_core import ConfigurationError, Degrees
from guidance_core.executors.degrees import DIMS, choices, shown
from guidance_core.ranks import Ranks

sizes = st.integers(1, 4)


@given(sizes, sizes, sizes)
def test_every_rank_is_in_one_group_of_each_dimension(guidance, sequence, tensor):
    degrees = Degrees(guidance, sequence, tensor)
    for dim in DIMS:
        groups = degrees.groups(dim)
        assert sorted(rank for group in groups for rank in group) == list(range(degrees.world_size))
        assert {len(group) for group in groups} == {getattr(degrees, dim)}
        for group in groups:
            assert [degrees.coordinates(rank)[dim] for rank in group] == list(range(len(group)))


def test_neighbours_split_weights_and_the_farthest_share_out_branches():
    degrees = Degrees(guidance=2, sequence=2, tensor=2)
    assert degrees.groups("tensor") == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert degrees.groups("sequence") == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert degrees.groups("guidance") == [[0, 4], [1, 5], [2, 6], [3, 7]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"guidance": 2}, Degrees(2, 4, 1)),
        ({"sequence": 2}, Degrees(4, 2, 1)),
        ({"guidance": 2, "tensor": 2}, Degrees(2, 2, 2)),
        ({"guidance": 2, "sequence": 4}, Degrees(2, 4, 1)),
        ({}, Degrees(1, 8, 1)),
    ],
)
def test_what_is_not_given_takes_the_rest(given, expected):
    assert Degrees.of(8, **given) == expected


@pytest.mark.parametrize(
    ("world_size", "given", "says"),
    [
        (8, {"guidance": 3}, "8 ranks cannot be shared out with guidance=3, tensor=1.*divides it: 1, 2, 4, 8"),
        (8, {"guidance": 2, "sequence": 2}, "8 ranks cannot be shared out"),
        (0, {}, "world_size must be a whole number from 1"),
        (True, {}, "world_size must be"),
        (4, {"guidance": 0}, "the degree guidance must be a whole number from 1"),
        (4, {"guidance": 2.0}, "the degree guidance must be"),
    ],
)
def test_ranks_that_cannot_be_shared_out_are_refused(world_size, given, says):
    with pytest.raises(ConfigurationError, match=says):
        Degrees.of(world_size, **given)


def test_choices_are_sorted_by_what_they_bring():
    found = choices(8, 4, efficiency=0.5)  # where a doubling of a pass's ranks brings nothing, only branches count
    assert [(each.degrees.guidance, each.speedup) for each in found] == [(4, 4.0), (8, 4.0), (2, 2.0), (1, 1.0)]
    assert [(each.passes, each.idle) for each in found] == [(1, 0), (1, 4), (2, 0), (4, 0)]
    best = choices(8, 2, efficiency=1.0)[0]
    assert best.speedup == 8.0
    assert "guidance  sequence" in shown(found)
    assert [each.degrees.tensor for each in choices(8, 2, tensor=2)] == [2, 2, 2]
    for wrong in ({"efficiency": 0.0}, {"efficiency": 1.5}, {"tensor": 3}):
        with pytest.raises(ConfigurationError):
            choices(8, 2, **wrong)
    with pytest.raises(ConfigurationError, match="at least one branch"):
        choices(8, 0)


def test_a_mesh_needs_the_ranks_that_it_is_for():
    with pytest.raises(ConfigurationError, match="init_process_group"):
        Degrees(2, 2).mesh()


def test_the_mesh_of_degrees_carries_guidance_beside_a_split_model():
    with Ranks(4, patience=120) as four:
        for places, same, forwards, error in four.run(mesh_jobs.along_degrees):
            assert places == "as told"
            assert same, "bits differ from serial"
            assert forwards == [1, 1, 1], "each of two groups of ranks runs one of two branches"
            assert "is for 2 ranks; there are 4" in error
