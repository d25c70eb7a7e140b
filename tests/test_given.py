"""Ranks that were given different things are told so, by name, on all of them."""

from __future__ import annotations

import given_jobs
import pytest
import torch

from guidance_core import ConfigurationError, Guidance
from guidance_core.algebra.checksum import PIECE, WORDS, checksum
from guidance_plugins import CFG

NAMES = ("all_gather", "all_reduce")


def same(found):
    assert set(map(str, found)) == {str(found[0])}
    return found[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", given_jobs.ODD)
def test_another_condition_on_one_rank_is_named_on_all(ranks, name, kind):
    error, goes_on = same(ranks.run(given_jobs.other_condition, name, kind, 1, ranks=3))
    assert error.startswith("PlanMismatchError: the ranks were given different inputs for step 0 of 4: ")
    where = (
        "is given on ranks 0, 2 and not on rank 1" if kind == "missing" else "on rank 1 is not the one on ranks 0, 2"
    )
    assert f"'mask' of condition 'negative' {where}. " in error
    assert "'text'" not in error
    assert goes_on


@pytest.mark.parametrize("odd", [0, 2])
@pytest.mark.parametrize(
    ("options", "forwards"), [({}, [1, 1, 1]), ({"control": False}, [1, 1, 1]), ({"lockstep": True}, [0, 0, 0])]
)
@pytest.mark.parametrize("name", NAMES)
def test_another_sample_on_one_rank_is_one_error_on_all(ranks, name, options, forwards, odd):
    found = ranks.run(given_jobs.other_sample, name, odd, options, ranks=3)
    error = same([error for error, _, _ in found])
    usual = ", ".join(str(rank) for rank in range(3) if rank != odd)
    assert f"the sample on rank {odd} is not the one on ranks {usual}. " in error
    assert [calls for _, calls, _ in found] == forwards, "ranks that call together compare before their forwards"
    assert all(is_right for _, _, is_right in found)


@pytest.mark.parametrize("name", NAMES)
def test_equal_inputs_may_lie_in_memory_as_they_like_and_be_held_by_some_ranks_only(ranks, name):
    assert ranks.run(given_jobs.equal_in_other_layouts, name, ranks=3) == [""] * 3


@pytest.mark.parametrize("options", [{}, {"control": False}])
@pytest.mark.parametrize("name", NAMES)
def test_later_steps_are_compared_on_request_and_cost_no_exchange(ranks, name, options):
    usual, always, never = (
        ranks.run(given_jobs.later, name, when, 1, options, ranks=3) for when in ("first", "always", "never")
    )
    assert {error for seen in usual + never for error, _ in seen} == {""}
    for one, other in zip(usual, never, strict=True):
        assert one == other
    for seen in always:
        assert seen[:3] == usual[0][:3]
        assert seen[3][0].startswith("PlanMismatchError")
        if not options:
            assert "step 3 of 4: the sample on rank 1 is not the one on ranks 0, 2" in seen[3][0]
    exchanges = [spent for _, spent in usual[0]]
    assert exchanges == ([2, 0, 0, 0] if options else [2, 2, 1, 1])


def test_check_inputs_is_one_of_three_words():
    with pytest.raises(
        ConfigurationError, match=r"check_inputs must be one of first, always, never; got 'allways'.* 'a"
    ):
        Guidance([CFG(3.0)]).start(
            conditions={"positive": {}, "negative": {}},
            sigmas=[1.0, 0.0],
            prediction_type="flow",
            check_inputs="allways",
        )


def test_what_a_host_names_is_compared_whatever_check_inputs_says(ranks):
    differs, fails = same(ranks.run(given_jobs.named_by_the_host, 1, ranks=3))
    assert "'seed' on rank 1 is not the one on ranks 0, 2. " in differs
    assert "adapters" not in differs
    assert "OSError: no such checkpoint" in fails
    assert "rank 1" in fails


@pytest.mark.parametrize("kind", given_jobs.PARAMETERS)
def test_another_parameter_of_any_kind_is_told_and_equal_ones_are_taken(ranks, kind):
    other, equal = same(ranks.run(given_jobs.other_parameter, kind, 1, ranks=2))
    assert other.startswith("PlanMismatchError: the ranks are about to do different things; they differ in methods or")
    assert equal == ""


@pytest.mark.parametrize("kind", given_jobs.REFUSED)
def test_a_parameter_that_cannot_be_compared_is_refused_on_ranks_only(ranks, kind):
    alone, together = same(ranks.run(given_jobs.refused_parameter, kind, ranks=2))
    assert alone == ""
    assert together.startswith("ConfigurationError: rank 0, starting a run: plugin 'holds': parameter 'value' holds a ")
    assert "which cannot be compared between ranks" in together


def test_numbers_of_numpy_equal_their_values(ranks):
    assert ranks.run(given_jobs.numbers_of_numpy, ranks=3) == [""] * 3
    np = pytest.importorskip("numpy")
    assert CFG(np.float32(3)) == CFG(np.float64(3)) == CFG(np.array(3.0)) == CFG(3.0)


def test_other_settings_of_an_executor_are_told(ranks):
    control, other, equal, refused = same(ranks.run(given_jobs.other_executor, 1, ranks=2))
    assert "they differ in executor. " in control
    assert "they differ in executor. " in other
    assert equal == ""
    assert "executor 'all_gather': attribute 'chunk' holds a " in refused


def test_other_versions_are_told_on_all_ranks(ranks, tmp_path):
    for version in ("1.0", "2.0"):
        place = tmp_path / version
        info = place / f"strangers_method-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: strangers-method\nVersion: {version}\n")
        (info / "top_level.txt").write_text("strangers_method\n")
        (place / "strangers_method.py").write_text(
            "import attrs\nfrom guidance_core import Branch, hookimpl\n@attrs.frozen\nclass Method:\n    @hookimpl\n"
            "    def build_branches(self, step):\n        return [Branch('weak', condition='negative', strength=0.5)]\n"
        )
    library, method, after = same(ranks.run(given_jobs.other_version, str(tmp_path), 1, ranks=3))
    assert library.startswith("PlanMismatchError: the ranks have different versions of guidance-core (rank 0, 2: ")
    assert "says 9.9" in library
    assert "different versions of strangers-method (rank 0, 2: 1.0; rank 1: 2.0). " in method
    assert after == ""


@pytest.mark.parametrize("name", NAMES)
def test_two_threads_on_one_group_get_a_named_error(ranks, name):
    found = ranks.run(given_jobs.two_threads, name, ranks=2)
    for errors, is_right in found:
        assert is_right
        assert len(errors) == 2
        assert any("the thread 'intruder' uses a process group while another thread is in a step" in e for e in errors)
        assert any("two threads use one process group at once" in error for error in errors)


@pytest.mark.parametrize("name", NAMES)
def test_a_group_may_be_used_by_one_thread_after_another(ranks, name):
    assert all(ranks.run(given_jobs.threads_by_turns, name, ranks=2))


def test_models_are_compared_on_request(ranks):
    found = ranks.run(given_jobs.weights, 1, ranks=3)
    equal, other, lacking, offloaded, path, is_right = same(found)
    assert equal == (9, {})
    assert other == (
        "PlanMismatchError: the ranks hold different weights: '2.weight' differs on rank 1; '1.running_mean' differs "
        "on rank 1. Load the same checkpoint, with the same adapters and dtype, on every rank."
    )
    assert "'0.bias' is missing on rank 1" in lacking
    compared, left_out = offloaded
    assert compared == 7
    assert left_out == dict.fromkeys(("0.weight", "0.bias"), "on the meta device on rank 1")
    assert "rank 1, comparing weights: compare_weights takes a torch.nn.Module or a dict" in path
    assert is_right


@pytest.mark.parametrize(
    "shape", [(), (0, 3), (1,), (7,), (3, 5, 7), (WORDS + 3,), (2, PIECE // 8 + 5), (70, 3, 40_003)]
)
def test_a_checksum_follows_bits_alone_not_memory(shape):
    made = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = checksum(made).item()
    padded = torch.zeros(made.numel() * 2 + 1)[1::2].view(shape).copy_(made)
    assert checksum(padded).item() == expected
    if made.ndim > 1:
        assert checksum(made.transpose(0, -1).contiguous().transpose(0, -1)).item() == expected
    if made.numel():
        changed = made.clone()
        changed.view(-1)[-1] = -changed.view(-1)[-1]
        assert checksum(changed).item() != expected


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float8_e5m2, torch.bool, torch.uint8, torch.int64, torch.complex64]
)
def test_a_checksum_sees_every_change_of_one_element(dtype):
    zeros = torch.zeros(103, dtype=torch.uint8).repeat_interleave(dtype.itemsize).view(dtype)
    seen = {checksum(zeros).item()}
    for place in range(103):
        changed = zeros.clone()
        changed.view(torch.uint8)[place * dtype.itemsize] = 1
        seen.add(checksum(changed).item())
    assert len(seen) == 104
