"""Guidance as one dimension of a mesh, beside torch's own tensor parallelism and FSDP on the other."""

from __future__ import annotations

import mesh_jobs
import pytest

from guidance_core.ranks import Ranks


@pytest.fixture(scope="module")
def pool():
    """Four ranks of their own: meshes are made by all of them."""
    with Ranks(4, outlives_failures=True, patience=120) as four:
        yield four


@pytest.mark.parametrize("layout", mesh_jobs.LAYOUTS)
@pytest.mark.parametrize("split", ["tensor parallel", "sharded"])
def test_guidance_beside_a_split_model_equals_serial(pool, split, layout):
    for found, apart in pool.run(mesh_jobs.guided_beside, split, layout):
        assert apart < 1e-6, "the split model is another model"
        for way, (same, worst, forwards) in found.items():
            assert same or "all_reduce" in way, f"{way}: bits differ from serial"
            assert worst <= 1.0, f"{way}: {worst} times the bound"
            # both ranks that hold a part of the model run the same two of four branches
            assert forwards == [2] * 5, way


@pytest.mark.parametrize("layout", mesh_jobs.LAYOUTS)
@pytest.mark.parametrize("name", ["all_gather", "all_reduce"])
def test_rows_are_put_together_in_their_order_whatever_the_order_of_the_ranks(pool, name, layout):
    for found in pool.run(mesh_jobs.rows_along_a_mesh, name, layout):
        assert found.forwards == [2], "a branch and a half"
        assert all(found.equal) if name == "all_gather" else found.in_bounds <= 1.0


@pytest.mark.parametrize("name", ["all_gather", "all_reduce"])
@pytest.mark.parametrize(
    ("spec", "count", "forwards"),
    [
        ("cfg:scale=4,stg:scale=1.5,blocks=0,branch=weak", 2, [2, 2, 2, 2, 2]),
        ("cfg:scale=4,stg:scale=1.5,blocks=0,branch=weak,interval:lo=0.5,hi=0.9", 3, [1, 1, 1, 1, 1]),
        (mesh_jobs.SPEC + ",interval:lo=0.5,hi=0.9", 3, [1, 2, 2, 1, 1]),
    ],
    ids=["three branches on two", "one and three on three", "one and four on three"],
)
def test_lockstep_has_ranks_that_share_a_model_call_equally_often(pool, name, spec, count, forwards):
    found = pool.run(mesh_jobs.in_lockstep, name, spec, ranks=count)
    for same, worst, made in found:
        assert same or name == "all_reduce"
        assert worst <= 1.0
        assert made == forwards


@pytest.mark.parametrize("name", ["all_gather", "all_reduce"])
def test_a_spread_prediction_is_refused_before_anything_moves(pool, name):
    # Rank 2 has no branch and would wait for a payload that is never sent.
    found = pool.run(mesh_jobs.returns_dtensors, name, ranks=3)
    for error, message, next_is_right in found:
        assert error == "DenoiserError"
        assert "rank 0: branch 'cond' of step 0: output 'output' is spread over a device mesh" in message
        assert "full_tensor()" in message
        assert next_is_right


def test_a_process_outside_of_the_mesh_is_told(pool):
    found = pool.run(mesh_jobs.outside_of_a_mesh)
    assert found[:2] == [("", "2")] * 2
    assert found[2:] == [("ConfigurationError", "this process is not in the DeviceMesh given to the executor.")] * 2


def test_ranks_that_count_their_positions_differently_are_told(pool):
    first, second, *_ = pool.run(mesh_jobs.mesh_on_one_rank_and_its_group_on_the_other)
    assert first == second
    assert first[0] == "PlanMismatchError"
    assert "they differ in executor" in first[1]


# Sequence parallelism.


@pytest.fixture(scope="module")
def fresh():
    """Four ranks that have made the same groups so far: above, some made groups without the others."""
    with Ranks(4, outlives_failures=True, patience=120) as four:
        yield four


LOOKING = {"projection", "projection over dimensions", "zero-star"}


@pytest.mark.parametrize("padded", [False, True], ids=["even", "padded"])
@pytest.mark.parametrize("name", ["all_gather", "all_reduce"])
@pytest.mark.parametrize("what", mesh_jobs.SHARDED)
def test_statistics_over_pieces_equal_those_of_the_whole_sequence(fresh, what, name, padded):
    """On 2 x 2 ranks, within 2⁻¹⁹ of the largest value: a few units of float32 rounding, times the scale."""
    if name == "all_reduce" and what in LOOKING:
        pytest.skip("its combine looks at predictions, which are only added up")
    for found in fresh.run(mesh_jobs.sharded_beside, mesh_jobs.SHARDED[what], name, padded):
        assert len(found) >= 4
        for error, largest in found:
            assert error <= largest * 2**-19, f"{error:.2e} of {largest:.2e}"


@pytest.mark.parametrize("name", ["all_gather", "all_reduce"])
def test_the_mean_of_one_piece_is_another_one(fresh, name):
    """What the test before would see of a rescale that forms its statistics from its own piece."""
    for found in fresh.run(mesh_jobs.sharded_beside, "cfg:scale=5,rescale:phi=1,over=token", name, False):
        assert all(error <= largest * 2**-19 for error, largest in found)
    for found in fresh.run(mesh_jobs.own_statistics, name):
        assert any(error > largest * 2**-10 for error, largest in found)
