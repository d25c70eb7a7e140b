"""Wrong use of several ranks: one clear error on all of them, and the ranks go on."""

from __future__ import annotations

import misuse_jobs
import pytest

from guidance_core import AutoExecutor, ConfigurationError, Guidance
from guidance_core.ranks import Ranks


def shared(found):
    """Return what every rank was told, which must be the same."""
    assert len({tuple(said) for said in found}) == 1, found
    return found[0]


@pytest.fixture(scope="module")
def pool():
    """Three ranks of their own: their groups are made by all of them."""
    with Ranks(3, outlives_failures=True, patience=120) as three:
        yield three


@pytest.mark.parametrize("name", ["all_gather", "all_reduce"])
def test_a_backend_without_the_collective_is_named(pool, name):
    ((error, message),) = shared(pool.run(misuse_jobs.lacks_a_collective, name))
    assert error == "ExecutorError"
    assert "the backend 'cpu:lonely' of this process group lacks a collective on cpu" in message
    assert f"executor '{name}' needs" in message
    assert "use Gloo on CPUs and NCCL on GPUs" in message


@pytest.mark.parametrize("name", ["all_gather", "all_reduce"])
def test_a_backend_is_asked_only_for_what_a_step_needs(pool, name):
    found = pool.run(misuse_jobs.lacks_what_the_first_step_does_not_need, name)
    assert all(same for same, _ in found)
    ((error, message),) = shared([said for _, said in found])
    assert (error, "step 1" in message, "'cpu:onlybroadcasts'" in message) == ("ExecutorError", True, True)


def test_an_executor_does_not_outlive_its_default_group(tmp_path):
    with Ranks(2, outlives_failures=True, patience=120) as two:
        for said, local, again in two.run(misuse_jobs.default_group_is_gone, (tmp_path / "store").as_uri()):
            errors, messages = zip(*said, strict=True)
            assert errors == (
                "ExecutorError",
                "ExecutorError",
                "ConfigurationError",
                "ConfigurationError",
                "ExecutorError",
            )
            assert "destroy_process_group was called); make a new executor" in messages[0]
            assert messages[0] == messages[1] == messages[4]
            assert "init_process_group() first, or use executor='serial'" in messages[2]
            assert "auto: no process group, so" in local
            assert again, "a new group in the same processes must work"


@pytest.mark.parametrize("odd", [0, 2])
@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("scale", "steps with cfg(scale=3.0) for flow predictions"),
        ("scale", "steps with cfg(scale=3.5) for flow predictions"),
        ("one of many scales", "... (#"),
        ("sigmas", "they differ in sigmas. Rank 0: a run of 8 steps with cfg(scale=3.0) "),
        ("prediction type", "they differ in settings of the run. "),
        ("prediction type", " for v predictions at "),
        ("executor", "they differ in executor. "),
        ("options", "they differ in executor. "),
        ("options", "What differs is split_rows: "),
        ("executor", "What differs is executor: "),
        ("scale", "What differs is parameter 'scale' of cfg: 3."),
        ("prediction type", "What differs is prediction type: "),
        ("sigma of a step", "noise levels: "),
        ("another evaluation", "What differs is step: step "),
        ("model", "What differs is model: "),
        ("sigma_map", "What differs is sigma_map of video: shape (1, 1, 1) (#"),
        ("sigmas beside a function", "What differs is sigmas: "),
        ("outputs", "sample: "),
        ("sigma of a step", "step 0 of 8 at sigma 0.95"),
        ("another evaluation", "step 0 of 8, evaluation 1 at sigma 1"),
        ("outputs", "sample"),
        ("model", "differ in step"),
    ],
)
def test_ranks_that_differ_are_told_in_what(ranks, what, says, odd):
    found = ranks.run(misuse_jobs.differs, what, odd, ranks=3)
    ((error, message),) = shared([said for said, _ in found])
    assert error == "PlanMismatchError"
    assert says in message
    first, _, other = message.partition("Rank 0: ")[2].partition(f". Rank {odd or 1}: ")
    if what in ("scale", "one of many scales", "sigmas", "prediction type"):
        assert other
        assert first != other.partition(". Every rank")[0], "the two texts must show the difference"
    assert all(again for _, again in found), "the group must go on"


@pytest.mark.parametrize("spec", ["apg:scale=4,momentum=-0.5", "rescale:phi=0.5,cfg-zero-star:scale=3"])
@pytest.mark.parametrize("count", [1, 2])
def test_all_reduce_refuses_methods_that_look_before_any_forward(ranks, spec, count):
    found = ranks.run(misuse_jobs.looks_at_predictions, spec, ranks=count)
    ((error, message),) = shared([said for said, _, _ in found])
    method = "apg" if "apg" in spec else "cfg-zero-star"
    assert error == "ConfigurationError"
    assert f"plugin '{method}' looks at the predictions" in message
    assert "use 'serial', 'batched' or 'all_gather'" in message
    assert all((calls, same) == (0, True) for _, calls, same in found)


def test_as_many_outputs_as_a_record_holds_and_one_more(ranks):
    for said, same in ranks.run(misuse_jobs.many_outputs, 32, ranks=2):
        assert (said, same) == ([("", "")], True)
    ((error, message),) = shared([said for said, _ in ranks.run(misuse_jobs.many_outputs, 33, ranks=2)])
    assert error == "ExecutorError"
    assert "at most 32 outputs; this one has 33" in message


def test_one_denoiser_that_cannot_take_rows_is_an_error_on_all(ranks):
    found = ranks.run(misuse_jobs.rows_where_one_rank_cannot, ranks=3)
    ((error, message),) = shared([said for said, _ in found])
    assert error == "ExecutorError"
    assert "rank 1, step 0" in message
    assert "takes_rows = True" in message
    assert all(again for _, again in found)


def test_without_torch_distributed_a_group_is_refused_and_auto_is_local():
    with pytest.raises(ConfigurationError, match=r"init_process_group\(\) first, or use executor='serial'"):
        AutoExecutor("world")
    run = Guidance([]).start(
        conditions={"positive": {}}, sigmas=[1.0, 0.0], prediction_type="flow", executor=AutoExecutor()
    )
    assert run.executor.placed(run.layouts[0].branches) is None
