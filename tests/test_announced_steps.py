"""A step that all ranks announced needs one agreement; other steps are as right, and as safe."""

from __future__ import annotations

import announced_jobs
import pytest

from guidance_core.ranks import Ranks

NAMES = ("all_gather", "all_reduce")


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_what_all_ranks_do_is_right_whether_they_announced_it_or_not(ranks, name, count):
    found = ranks.run(announced_jobs.surprises, name, ranks=count)
    assert found == [found[0]] * count
    assert all(is_right for _, is_right, _ in found[0])
    exchanges = {what: spent for what, _, spent in found[0]}
    assert exchanges["first"] == exchanges["second"] == 2, "whether a run goes step by step shows in its second step"
    assert exchanges["announced"] == 1
    assert exchanges["again"] == exchanges["skipped"] == 3, "that it is another, which, and that all is well"
    assert exchanges["after it"] == 2, "a run that did not make what it announced announces nothing more"


def test_executors_that_share_a_group_keep_apart(ranks):
    assert all(ranks.run(announced_jobs.through_two_executors, ranks=3))


@pytest.mark.parametrize("odd", [0, 2])
@pytest.mark.parametrize(
    ("kind", "error", "says"),
    [
        ("other run", "PlanMismatchError", "turns to step 2 of 8"),
        ("new run", "PlanMismatchError", "turns to a new run"),
        ("other step", "PlanMismatchError", "turns to step 3 of 8"),
        ("fails to plan", "ConfigurationError", "planning a step: sigma must be finite and not negative"),
        ("looks", "", ""),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_a_rank_that_does_something_else_is_one_error_on_all(ranks, name, kind, error, says, odd):
    found = ranks.run(announced_jobs.torn, name, kind, odd, ranks=3)
    assert {seen for seen, _ in found} == {found[0][0]}
    assert found[0][0][0] == error
    assert says in found[0][0][1]
    if error:
        assert f"rank {odd}" in found[0][0][1]
    assert all(is_right for _, is_right in found)


@pytest.mark.parametrize(
    ("kind", "error", "says"),
    [
        ("fails to plan", "ConfigurationError", "sigma must be finite and not negative"),
        ("other run", "PlanMismatchError", "turns to step 2 of 8"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_a_run_in_lockstep_gives_up_what_another_announced(ranks, name, kind, error, says):
    found = ranks.run(announced_jobs.beside_lockstep, name, kind, 0, ranks=3)
    assert {seen for seen, _ in found} == {found[0][0]}
    assert found[0][0][0] == error
    assert says in found[0][0][1]
    assert all(is_right for _, is_right in found)


@pytest.mark.parametrize("name", NAMES)
def test_predictions_may_change_their_dtype_between_steps(ranks, name):
    assert all(ranks.run(announced_jobs.other_dtype, name, ranks=2))


@pytest.mark.parametrize("name", NAMES)
def test_a_step_in_which_nothing_runs_shows_no_dtype(ranks, name):
    assert all(ranks.run(announced_jobs.held_first, name, ranks=5)), "the fifth rank has no pass"


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupt_between_two_steps_reaches_all_ranks_and_leaves_the_group_usable(name):
    with Ranks(2, outlives_failures=True, patience=60) as pair:
        found = pair.run(announced_jobs.interrupted, name, 0)
    assert found == [["RankFailedError", "right"]] * 2


@pytest.mark.parametrize("name", NAMES)
def test_an_announced_step_holds_no_run_and_no_sample(ranks, name):
    assert all(ranks.run(announced_jobs.freed, name, ranks=2))


@pytest.mark.parametrize("odd", [0, 2])
@pytest.mark.parametrize("name", NAMES)
def test_a_run_given_up_for_one_of_another_executor_may_be_so_late_on_a_rank(name, odd):
    with Ranks(3, timeout=8, outlives_failures=True, patience=60) as three:
        assert all(three.run(announced_jobs.given_up_for_another_late, name, odd))


@pytest.mark.parametrize("name", NAMES)
def test_equal_runs_in_another_order_on_one_rank_are_an_error(ranks, name):
    found = ranks.run(announced_jobs.swapped, name, 1, ranks=3)
    assert set(found) == {found[0]}
    assert found[0][0] == "PlanMismatchError"
    assert "which run it is, counted from the group's first" in found[0][1]


def test_another_step_is_named_before_what_failed_because_of_it(ranks):
    found = ranks.run(announced_jobs.late_beside_another_step, 1, ranks=3)
    assert set(found) == {found[0]}
    assert found[0].startswith("PlanMismatchError: the ranks are not at the same point")
    assert "rank 1 turns to step 5 of 8" in found[0]
