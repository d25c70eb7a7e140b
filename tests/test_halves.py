"""A host that runs the forwards itself gets the result of `run.step`, and its failures reach every rank."""

from __future__ import annotations

import halves_jobs
import pytest
import torch

from guidance_core import BatchedExecutor, ConfigurationError, DenoiserError, Guidance
from guidance_plugins import CFG

SPEC = "ltx2:preset=2.3,stg_blocks=3,skip_step={video: 1, audio: 3}"
EXPECTED = {
    "in the block": ("RankFailedError", "HostError: no memory"),
    "without with": ("RankFailedError", "HostError: no memory"),
    "no predictions": ("DenoiserError", "predictions must be a dict by branch name"),
    "never finished": ("ConfigurationError", "was planned but not finished"),
    "after the payload": ("PluginError", "broken on purpose"),
}


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("spec", [SPEC, "apg:scale=4,momentum=-0.5"])
def test_halves_gathered_equal_serial_bitwise_with_each_branch_run_once(ranks, count, spec):
    found = ranks.run(halves_jobs.whole_run, "all_gather", spec, {}, ranks=count)
    assert all(all(equal) for equal, _, _ in found)
    total = [sum(made) for made in zip(*(forwards for _, forwards, _ in found), strict=True)]
    assert total == ([4, 0] * 4 if spec == SPEC else [2] * 8)


def test_own_branches_hold_the_rows_that_a_rank_runs(ranks):
    found = ranks.run(halves_jobs.whole_run, "all_gather", "cfg:scale=3", {"split_rows": True}, ranks=4)
    assert all(all(equal) for equal, _, _ in found)
    assert all(forwards == [1] * 8 for _, forwards, _ in found)


def test_a_plan_tells_how_many_forwards_lockstep_adds(ranks):
    found = ranks.run(halves_jobs.whole_run, "all_gather", "cfg:scale=3", {"lockstep": True}, ranks=3)
    assert [padding[0] for _, _, padding in found] == [0, 0, 1]


@pytest.mark.parametrize("name", ["all_gather", "all_reduce"])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("kind", EXPECTED)
def test_a_failure_between_plan_and_finish_is_the_same_error_on_every_rank(ranks, name, count, kind):
    for victim in (0, count - 1):
        found = ranks.run(halves_jobs.fault, name, kind, victim, ranks=count)
        assert {(seen.error, seen.message) for seen in found} == {(found[0].error, found[0].message)}
        error, says = EXPECTED[kind]
        assert found[0].error == error
        assert says in found[0].message
        assert f"rank {victim}" in found[0].message
        assert max(seen.seconds for seen in found) < 2
        assert found[victim].cause != "NoneType", "the rank that failed shows its own error as the cause"
        assert all(seen.next_is_right for seen in found)


@pytest.mark.parametrize("name", ["all_gather", "all_reduce"])
def test_an_interrupt_in_the_block_stays_one_and_is_told(ranks, name):
    found = ranks.run(halves_jobs.fault, name, "interrupt", 1, ranks=3)
    assert [seen.error for seen in found] == ["RankFailedError", "KeyboardInterrupt", "RankFailedError"]
    assert all(seen.next_is_right for seen in found)


@pytest.mark.parametrize("name", ["all_gather", "all_reduce"])
def test_a_plan_that_failed_on_one_rank_can_be_finished_again_on_all(ranks, name):
    assert ranks.run(halves_jobs.finished_again, name, ranks=3) == [[True, True]] * 3


@pytest.mark.parametrize("name", ["all_gather", "all_reduce"])
def test_a_failure_in_a_second_attempt_is_told_too(ranks, name):
    found = ranks.run(halves_jobs.fails_in_the_second_attempt, name, ranks=2)
    assert {error for error, _ in found} == {found[0][0]}
    assert "HostError: no memory" in found[0][0]
    assert max(seconds for _, seconds in found) < 2


def test_an_error_with_any_text_is_told(ranks):
    found = ranks.run(halves_jobs.text_that_no_encoding_takes, ranks=2)
    assert found[0] == found[1]
    assert "FileNotFoundError: weights" in found[0]


# One process, where nobody has to be told.


def test_a_single_prediction_is_given_by_its_name_too():
    run = start()
    with pytest.raises(DenoiserError, match="a dict by branch name"):
        run.finish(run.plan(0, torch.zeros(1, 2)), torch.zeros(1, 2))


def start(executor="serial"):
    conditions = {"positive": {"text": 1.0}, "negative": {"text": 0.0}}
    return Guidance([CFG(3.0)]).start(
        conditions=conditions, sigmas=[1.0, 0.5, 0.0], prediction_type="flow", executor=executor
    )


@pytest.mark.parametrize("executor", ["serial", "auto", BatchedExecutor()], ids=["serial", "auto", "batched"])
def test_halves_in_one_process_equal_the_step(executor):
    x = torch.arange(6.0).view(2, 3)
    expected = start().step(0, x, lambda branch: x * branch.inputs["text"])
    with start(executor).plan(0, x) as plan:
        assert plan.own_branches == plan.branches
        result = plan.finish({branch.name: x * branch.inputs["text"] for branch in plan.own_branches})
    assert torch.equal(result, expected)


def test_an_error_in_the_block_is_the_hosts_own():
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught, start().plan(0, torch.zeros(1, 2)):
        raise error
    assert caught.value is error


def test_a_block_that_forgets_to_finish_is_an_error():
    with pytest.raises(ConfigurationError, match="step 0 was planned but not finished"):  # noqa: SIM117
        with start().plan(0, torch.zeros(1, 2)):
            pass


def test_an_error_of_finish_can_be_dealt_with_inside_the_block():
    x = torch.ones(1, 2)
    with start().plan(0, x) as plan:
        with pytest.raises(DenoiserError, match="'uncond' of step 0 is missing"):
            plan.finish({"cond": x})
        assert torch.equal(plan.finish({"cond": x, "uncond": 0 * x}), 3 * x)


def test_a_branch_says_condition_sigma_and_what_is_held():
    run = Guidance.from_spec("ltx2:cfg_scale={video: 3, audio: 7},stg_blocks=1,skip_step={video: 0, audio: 1}").start(
        conditions={"positive": {}, "negative": {}},
        sigmas={"video": [1.0, 0.5, 0.0], "audio": [0.9, 0.4, 0.0]},
        prediction_type="flow",
        outputs=("video", "audio"),
    )
    x = (torch.zeros(1, 2), torch.zeros(1, 3))
    seen = []

    def denoise(branch):
        seen.append((branch.step, branch.name, branch.condition, branch.sigma, dict(branch.sigmas), branch.held))
        return tuple(map(torch.clone, x))

    run.step(0, x, denoise)
    run.step(1, x, denoise)
    first = {name: (condition, sigma, held) for step, name, condition, sigma, _, held in seen if step == 0}
    assert first["cond"] == ("positive", 1.0, frozenset())
    assert first["neg"] == ("negative", 1.0, frozenset())
    _, _, _, sigma, sigmas, held = next(each for each in seen if each[0] == 1)
    assert (sigma, sigmas, held) == (0.5, {"video": 0.5, "audio": 0.4}, {"audio"})
    run.step(1, x, denoise, sigma={"video": 0.3, "audio": 0.2})
    assert (seen[-1][3], seen[-1][4]) == (0.3, {"video": 0.3, "audio": 0.2})
