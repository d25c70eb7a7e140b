"""Runs with state and changing plans on several ranks, and what is wrong use there."""

from __future__ import annotations

import ability_jobs
import pytest
import run_jobs
import torch

from guidance_core import AllGatherExecutor, ConfigurationError, Guidance
from guidance_core.ranks import Ranks
from guidance_plugins import CFG

LINEAR = {
    "ltx2:preset=2.3,stg_blocks=3,skip_step={video: 1, audio: 3}": [4, 0, 4, 0, 4, 0, 4, 0],
    "ltx2:preset=2.3,stg_blocks=3,interval:lo=0.3,hi=0.9": [1, 4, 4, 4, 4, 4, 4, 1],
    "ltx2:preset=2.3,stg_blocks=3,skip_step=1,interval:lo=0.3,hi=0.7": [1, 1, 1, 0, 4, 0, 4, 1],
    "cfg:scale=4,rescale:phi=0.7,gate:lo=0.5": [2, 2, 2, 2, 1, 1, 1, 1],
    "cfg:scale=linear(3, 1)": [2, 2, 2, 2, 2, 2, 2, 1],
}
LOOKING = {
    "apg:scale=4,momentum=-0.5,threshold=3": [2] * 8,
    "cfg-zero-star:scale=3,zero_steps=2,normalize:limit=0.8": [1, 1, 2, 2, 2, 2, 2, 2],
    "apg:scale=3,momentum=0.3,gate:lo=0.6": [2, 2, 2, 2, 2, 1, 1, 1],
}


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("spec", [*LINEAR, *LOOKING])
def test_a_whole_run_gathered_equals_serial_bitwise(ranks, spec, count):
    found = ranks.run(run_jobs.whole_run, "all_gather", spec, False, ranks=count)
    assert all(all(rank["equal"]) for rank in found)
    assert found[0]["branches"] == (LINEAR | LOOKING)[spec]
    assert [sum(made) for made in zip(*(rank["forwards"] for rank in found), strict=True)] == found[0]["branches"]


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("spec", LINEAR)
def test_a_whole_run_added_up_is_the_same_on_every_rank(ranks, spec, count):
    found = ranks.run(run_jobs.whole_run, "all_reduce", spec, False, ranks=count)
    assert len({tuple(rank["bits"]) for rank in found}) == 1
    assert found[0]["worst"] < 2e-6


def test_both_evaluations_of_heun_equal_serial(ranks):
    for spec in ("ltx2:preset=2.3,stg_blocks=3,interval:lo=0.3,hi=0.9", "apg:scale=4,momentum=-0.5"):
        found = ranks.run(run_jobs.whole_run, "all_gather", spec, True, ranks=3)
        assert all(all(rank["equal"]) for rank in found)


@pytest.mark.parametrize("spec", LINEAR)
def test_both_evaluations_of_heun_added_up_are_the_same_on_every_rank(ranks, spec):
    found = ranks.run(run_jobs.whole_run, "all_reduce", spec, True, ranks=4)
    assert len({tuple(rank["bits"]) for rank in found}) == 1
    assert found[0]["worst"] < 2e-6


@pytest.mark.parametrize("name", ["all_gather", "all_reduce"])
@pytest.mark.parametrize("count", [2, 3])
def test_runs_that_share_an_executor_do_not_share_state(ranks, name, count):
    found = ranks.run(run_jobs.interleaved, name, ranks=count)
    assert all(rank == found[0] for rank in found)
    assert found[0] == (True, True)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_hook_that_sums_gets_the_same_bits_whatever_the_memory_format(ranks, count):
    assert ranks.run(run_jobs.in_another_memory_format, ranks=count) == [(True, True)] * count


@pytest.mark.parametrize("name", ["all_gather", "all_reduce"])
def test_control_may_be_left_out(ranks, name):
    assert all(ranks.run(run_jobs.without_control, name, ranks=3))


def test_lockstep_has_every_rank_call_equally_often(ranks):
    found = ranks.run(run_jobs.lockstep, ranks=2)
    assert found == [[1, 1, 2, 2, 2, 2, 2, 1]] * 2


@pytest.mark.parametrize(
    ("spec", "count", "name", "says"),
    [
        ("cfg:scale=3", 1, "auto", "the group has one rank, so batched where the denoiser has batch"),
        ("cfg:scale=3", 2, "all_gather", "chosen by auto: bit-identical to serial"),
        ("apg:scale=3", 2, "all_gather", "chosen by auto: a method looks at the predictions"),
        ("cfg:scale=3,stg:blocks=1,ltx2:preset=2.3,stg_blocks=2", 2, None, "chosen by auto"),
    ],
)
def test_auto_says_what_it_takes_and_why(ranks, spec, count, name, says):
    if "ltx2" in spec:
        spec = spec.replace("blocks=1", "blocks=1,branch=weak")
    for taken, description in ranks.run(run_jobs.auto, spec, ranks=count):
        assert name in (None, taken)
        assert says in description


def test_auto_adds_up_where_gathering_moves_much_more(ranks):
    many = "stg:blocks=1,branch=a" + "".join(f",stg:blocks={i},branch=b{i}" for i in range(2, 9))
    for taken, description in ranks.run(run_jobs.auto, many, ranks=2):
        assert taken == "all_reduce"
        assert "gathering would move" in description


@pytest.mark.parametrize(("looks_at_all", "taken"), [(False, "all_reduce"), (True, "all_gather")])
def test_auto_counts_a_base_prediction_that_has_to_be_sent_along(ranks, looks_at_all, taken):
    many = "stg:blocks=1,branch=a" + "".join(f",stg:blocks={i},branch=b{i}" for i in range(2, 9))
    assert ranks.run(run_jobs.auto_beside, many, looks_at_all, ranks=2) == [taken] * 2


@pytest.mark.parametrize(
    ("name", "spec", "batches", "forwards"),
    [
        ("all_gather", "", (3, 3), 4),  # both branches are cut
        ("all_gather", "", (3, 2), 2),  # outputs of different batches
        ("all_reduce", "", (3, 2), 2),
        ("all_gather", ",rescale:phi=0.7,over=tensor", (3, 3), 4),
        ("all_reduce", ",rescale:phi=0.7", (3, 3), 4),
        ("all_reduce", ",rescale:phi=0.7,over=tensor", (3, 3), 2),  # a statistic that has no parts
    ],
)
def test_rows_are_shared_out_only_where_their_parts_make_the_whole(ranks, name, spec, batches, forwards):
    found = ranks.run(run_jobs.rows_of, name, "cfg:scale=3" + spec, batches, ranks=3)
    assert all(same for same, _ in found)
    assert sum(made for _, made in found) == forwards


def test_without_a_group_auto_is_local_and_the_others_say_what_to_do():
    run = Guidance.from_spec("cfg").start(**run_jobs.SETTINGS, executor="auto")
    assert "no process group, so batched where" in str(run.describe())
    for name in ("all_gather", "all_reduce"):
        with pytest.raises(ConfigurationError, match=r"start the program with torchrun and call .*init_process_group"):
            Guidance.from_spec("cfg").start(**run_jobs.SETTINGS, executor=name)


def only(found):
    """Return the one error that every rank saw."""
    assert len({tuple(each) for each in found}) == 1
    return found[0]


@pytest.mark.parametrize(
    ("job", "arguments", "count", "error", "says"),
    [
        (
            run_jobs.other_number_of_steps,
            (),
            3,
            "PlanMismatchError",
            "Rank 0: a run of 6 steps with cfg(scale=3.0) for flow predictions at sigmas ",
        ),
        (run_jobs.one_rank_a_step_behind, (), 3, "PlanMismatchError", "differ in step"),
        (run_jobs.cannot_take_rows, (), 3, "ExecutorError", "takes_rows = True"),
        (run_jobs.cannot_batch, (), 2, "ExecutorError", "batch(branches)"),
        (run_jobs.too_many_outputs, (), 2, "ExecutorError", "at most 32 outputs"),
        (run_jobs.backend_without_collectives, ("all_gather",), 2, "ExecutorError", "lacks a collective"),
        (run_jobs.backend_without_collectives, ("all_reduce",), 2, "ExecutorError", "lacks a collective"),
        (run_jobs.group_is_gone, (), 6, "ExecutorError", "process group of this executor is gone"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_wrong_use_is_one_error_on_every_rank(ranks, job, arguments, count, error, says):
    ((seen, message),) = only(ranks.run(job, *arguments, ranks=count))
    assert seen == error
    assert says in message


def test_a_group_without_this_process_and_meshes_that_are_not_clear():
    with Ranks(4, outlives_failures=True, patience=120) as pool:
        outside = pool.run(run_jobs.not_in_the_group)
        assert outside[0] == [("", "")]
        assert {seen for each in outside[1:] for seen, _ in each} == {"ConfigurationError"}
        assert "this process is not in the process group" in outside[1][0][1]
        errors = only(pool.run(run_jobs.meshes))
        assert {seen for seen, _ in errors} == {"ConfigurationError"}
        expected = [
            "2 dimensions (guidance, model); say which",
            "2 dimensions (0 to 1)",
            "no dimension 'tensor'; it has guidance",
            "no dimension True; it has guidance",
            "no mesh was given",
            "group must be a process group",
        ]
        for (_, message), says in zip(errors, expected, strict=True):
            assert says in message


def test_describe_shows_placement_and_speedup(ranks):
    for _, description in ranks.run(run_jobs.auto, "ltx2:preset=2.3,stg_blocks=3", ranks=3):
        assert "rank 0: cond, modality; rank 1: neg; rank 2: perturbed (expected speedup 2.00)" in description


def test_control_messages_of_another_backend_go_over_gloo_with_its_timeout():
    with Ranks(3, outlives_failures=True, patience=120) as pool:
        assert pool.run(run_jobs.control_beside_another_backend) == [(7.0, "rank 0, rank 1, rank 2")] * 3


@pytest.mark.parametrize("name", ["all_gather", "all_reduce"])
def test_a_space_that_cannot_be_reached_at_an_own_sigma_is_one_error(ranks, name):
    (error, message), after = only(ranks.run(run_jobs.no_such_space, name, ranks=2))
    assert error == "ConfigurationError"
    assert "plugin 'rescale' works in epsilon" in message
    assert after == ("", "")


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("name", ["all_gather", "all_reduce"])
def test_predictions_that_ask_for_gradients_are_guided_without(ranks, name, count):
    assert all(ranks.run(run_jobs.with_gradients, name, ranks=count))


@pytest.mark.parametrize("name", ["all_gather", "all_reduce"])
def test_without_control_an_idle_rank_still_knows_the_dtype(ranks, name):
    seen = only(ranks.run(run_jobs.another_dtype_without_control, name, ranks=3))
    assert all(each.startswith("torch.bfloat16, torch.bfloat16") for each in seen)


def test_lockstep_compares_plans_before_any_forward(ranks):
    for (error, message), calls in ranks.run(run_jobs.lockstep_on_different_plans, ranks=2):
        assert error == "PlanMismatchError"
        assert "differ in step" in message
        assert calls == 0


def test_lockstep_and_batched_exclude_each_other(ranks):
    with pytest.raises(ConfigurationError, match="lockstep=True cannot be combined with batched=True"):
        AllGatherExecutor(lockstep=True, batched=True)


@pytest.mark.parametrize(
    ("kind", "error", "says"),
    [
        ("long message", "RankFailedError", "branch 'uncond' of step 0): ValueError: xxx"),
        ("own error", "PluginError", "my plugin's own"),
        ("interrupt", "RankFailedError", "KeyboardInterrupt"),
    ],
)
def test_whatever_is_raised_reaches_the_others(ranks, kind, error, says):
    found = [each for (each,) in ranks.run(run_jobs.raised_by_rank_one, kind, ranks=3)]
    if kind == "interrupt":
        assert found.pop(1) == ("KeyboardInterrupt", "")
    assert {seen for seen, _ in found} == {error}
    assert all("rank 1" in message and message.count("step 0") == 1 and says in message for _, message in found)


def test_fingerprints_tell_values_apart_and_only_values():
    from guidance_core.algebra.digest import digest

    different = [
        1,
        1.0,
        "1",
        b"1",
        1j,
        None,
        True,
        range(1),
        slice(1),
        torch.float32,
        torch.float16,
        (1,),
        [[1]],
        {"a": 1},
    ]
    different += [torch.ones(2), torch.ones(2, 1), torch.ones(2).double(), torch.zeros(2), CFG(1.0), CFG(2.0)]
    assert len({digest([value]) for value in different}) == len(different)
    assert digest([{"a": 1, "b": 2}]) == digest([{"b": 2, "a": 1}])
    assert digest([torch.ones(4)[::2]]) == digest([torch.ones(2)])


def test_describe_shows_how_rows_are_shared_out_once_the_batch_is_known(ranks):
    for before, after in ranks.run(run_jobs.described_rows, ranks=2):
        assert "rows of the batch are shared out" in before
        assert "rank 0: cond, uncond[0:1]; rank 1: uncond[1:2], perturbed (expected speedup 2.00)" in after


def test_a_wrong_prediction_in_lockstep_does_not_leave_the_others_in_the_model():
    with Ranks(2, timeout=8, outlives_failures=True, patience=120) as pool:
        (error, message), after = only(pool.run(run_jobs.wrong_shape_in_lockstep))
    assert error == "DenoiserError"
    assert "rank 1" in message
    assert after == ("", "")


@pytest.mark.parametrize("seeds", [None, 5, [7, 8]])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_noise_edits_forks_and_selections_on_ranks_equal_serial_bitwise(ranks, count, seeds):
    found = ranks.run(ability_jobs.equals_serial, seeds, ranks=count)
    assert all(all(same) for same, _, _ in found)
    assert all(is_other for _, _, is_other in found)
    assert len({str(own) for _, own, _ in found}) == 1, "ranks draw their seed together"


def test_other_samples_selected_on_one_rank_are_told_on_all(ranks):
    found = ranks.run(ability_jobs.another_selection_on_one_rank, ranks=2)
    assert all(told.startswith("PlanMismatchError") for told in found), found
