"""LTX-2's architecture on one to five ranks, and guidance beside other parallelism."""

from __future__ import annotations

import pytest
import torch
from tallies import tally

from guidance_core.ranks import Ranks

pytest.importorskip("diffusers")

import model_jobs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_ltx2_gathered_equals_serial_bitwise(ranks, count, dtype):
    found = ranks.run(model_jobs.ltx2_run, "all_gather", dtype, 1 + count % 2, ranks=count)
    assert all(all(rank.equal) for rank in found)
    assert_costs(found, count)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_ltx2_added_up_is_within_the_bound(ranks, count, dtype):
    found = ranks.run(model_jobs.ltx2_run, "all_reduce", dtype, 1 + count % 2, ranks=count)
    assert len({tuple(rank.bits) for rank in found}) == 1
    tally("all_reduce ~ serial, LTX-2's transformer", found)
    assert max(rank.in_bounds for rank in found) <= 1.0
    assert_costs(found, count)


def assert_costs(found, count):
    made = [rank.forwards for rank in found]
    assert [sum(step) for step in zip(*made, strict=True)] == [4, 4, 4]
    assert max(max(rank) for rank in made) == -(-4 // count)
    assert all(rank.collectives == (3 if count > 1 else 0) for rank in found)


def test_guidance_is_one_dimension_of_a_mesh():
    with Ranks(4, outlives_failures=True, patience=120) as pool:
        for results in pool.run(model_jobs.on_a_mesh):
            for name, same, made in results:
                assert same, f"{name} differs from serial"
                # outside the interval only the first half of the guidance dimension has a branch
                assert made[1] == 1, name


def test_a_model_sharded_over_the_guidance_ranks_runs_in_lockstep():
    with Ranks(2, outlives_failures=True, patience=120) as pool:
        assert pool.run(model_jobs.sharded_in_lockstep) == [(True, [2, 2, 2])] * 2
