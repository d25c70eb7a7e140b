"""Whole runs of LTX-2's architecture on several ranks, as engines make them."""

from __future__ import annotations

import pytest
import torch
from tallies import tally

pytest.importorskip("diffusers")

import ltx2_jobs

HELD = "ltx2:preset=2.3,stg_blocks=1,skip_step={video: 1, audio: 2},interval:lo=0.2,hi=0.95"
HQ = "ltx2:preset=2.3-hq"


@pytest.mark.parametrize("count", [1, 2, 4, 5])
@pytest.mark.parametrize(
    ("spec", "dtype", "heun", "expected"),
    [
        (HELD, torch.bfloat16, False, [1, 0, 4, 4, 4, 1]),
        (HQ, torch.float32, True, [3] * 11),
    ],
    ids=["one, four and no branches", "the HQ preset with Heun"],
)
def test_a_drawn_sample_equals_the_serial_one_bitwise(ranks, spec, dtype, heun, expected, count):
    found = ranks.run(ltx2_jobs.whole_run, spec, dtype, heun, ranks=count)
    assert all(same for same, _, _ in found)
    assert found[0][1] == expected
    made = [forwards for _, _, forwards in found]
    assert [sum(step) for step in zip(*made, strict=True)] == expected
    assert [max(step) for step in zip(*made, strict=True)] == [-(-passes // count) for passes in expected]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("count", [2, 4])
def test_added_up_without_rescale_it_is_within_the_promised_bound(ranks, count, dtype):
    found = ranks.run(ltx2_jobs.within_the_plain_bound, dtype, ranks=count)
    assert len({tuple(rank.bits) for rank in found}) == 1
    tally("all_reduce ~ serial, LTX-2's transformer without rescale", found)
    assert max(rank.in_bounds for rank in found) <= 1.0


@pytest.mark.parametrize("batched", [False, True], ids=["one by one", "batched"])
@pytest.mark.parametrize("count", [3, 6])
def test_rows_of_all_branches_are_shared_out(ranks, count, batched):
    found = ranks.run(ltx2_jobs.rows_shared_out, batched, ranks=count)
    assert max(error for error, _, _ in found) < 1e-4  # another batch shape: to the model's precision
    assert {rows for _, rows, _ in found} == {2 * 4 * 3 // count}  # steps, branches, rows: each once, equally many
    if batched:
        assert all(forwards == 2 for _, _, forwards in found)  # one a step
