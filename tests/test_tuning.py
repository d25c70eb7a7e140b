"""`tune` measures once, is written like a configuration, and `AutoExecutor` chooses by it and says so."""

from __future__ import annotations

import json

import attrs
import pytest
import torch
import tuning_jobs
from hypothesis import given
from hypothesis import strategies as st
from tuning_jobs import SAMPLE, SETTINGS, STEPS, Batching, Sleeping

from guidance_core import (
    AutoExecutor,
    Branch,
    ConfigurationError,
    Guidance,
    GuidanceError,
    SpecError,
    Tuning,
    tune,
)
from guidance_core.executors.placement import place_branches, place_rows
from guidance_core.executors.tuning import SampleForm, StepTimes, Timed

CFG = Guidance.from_spec("cfg:scale=3")
LIMITED = Guidance.from_spec("cfg:scale=3,interval:lo=0.3,hi=0.7")


@pytest.fixture(scope="module")
def measured():
    """Forwards that are twice as fast together."""
    return tune(LIMITED, Batching(0.004), SAMPLE, **SETTINGS)


def labels(tuning):
    return [[each.label for each in step.times] for step in tuning.steps]


def seconds(tuning, label, step=0):
    return next(each.seconds for each in tuning.steps[step].times if each.label == label)


def test_every_kind_of_step_is_timed_with_every_executor_of_one_process(measured):
    assert [step.passes for step in measured.steps] == [("cond",), ("cond", "uncond")]
    assert labels(measured) == [["serial", "batched"]] * 2
    assert seconds(measured, "serial", 1) >= 0.008
    assert 0.004 <= seconds(measured, "batched", 1) < seconds(measured, "serial", 1)
    assert all(each.spread >= 0 for step in measured.steps for each in step.times)


def test_the_record_says_what_was_measured(measured):
    assert measured.samples == (SampleForm("output", (2, 3, 4), "float32"),)
    assert (measured.devices, measured.torch, measured.ranks) == (("cpu",), str(torch.__version__), 1)
    assert "with cond, uncond" in str(measured)
    assert "batched" in str(measured)


def test_the_forwards_are_the_hosts_and_their_number_follows_from_repeats():
    for repeats in (2, 5):
        denoise = Sleeping()
        tune(CFG, denoise, SAMPLE, **SETTINGS, repeats=repeats)
        # two untimed steps in the run that warms up and in those of both rounds, and one that is timed to warm up
        assert denoise.calls == 2 * (repeats + 1 + 3 * 2)


def test_the_first_steps_of_a_run_are_not_timed():
    class SlowAtFirst(Sleeping):
        def __call__(self, branch):
            self.seconds = 0.05 if branch.step < 2 else 0.0
            return super().__call__(branch)

    (step,) = tune(CFG, SlowAtFirst(), SAMPLE, **SETTINGS).steps
    assert step.times[0].seconds + step.times[0].spread < 0.05


def test_a_tuning_is_read_back_equal_from_all_it_is_written_as(measured):
    assert Tuning.from_dict(measured.to_dict()) == measured
    assert Tuning.from_dict(json.loads(json.dumps(measured.to_dict()))) == measured
    assert Tuning.from_json(measured.to_json()) == measured
    assert Tuning.from_toml(measured.to_toml()) == measured
    assert hash(Tuning.from_json(measured.to_json())) == hash(measured)


_seconds = st.floats(0, 1e6)
_timed = st.builds(Timed, st.just("serial"), _seconds, _seconds)


@given(
    st.builds(
        Tuning,
        samples=st.lists(
            st.builds(SampleForm, st.text(), st.lists(st.integers(0, 2**40)).map(tuple), st.text()), min_size=1
        ).map(tuple),
        devices=st.just(("cpu",)),
        torch=st.text(),
        stack=st.text(),
        steps=st.lists(
            st.builds(StepTimes, st.lists(st.text()).map(tuple), st.text(), _timed.map(lambda each: (each,))),
            min_size=1,
            unique_by=lambda step: step.fingerprint,
        ).map(tuple),
        speeds=st.sampled_from([(), (0.25,)]),
    )
)
def test_any_tuning_is_read_back_equal(tuning):
    assert Tuning.from_json(tuning.to_json()) == tuning
    assert Tuning.from_toml(tuning.to_toml()) == tuning


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=8))
def test_only_errors_of_the_library_escape_from_reading(value):
    for data in (value, {"tuning": value}, {"tuning": {"samples": value}}):
        with pytest.raises(GuidanceError):
            Tuning.from_dict(data)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data["tuning"].update(steps=[]), "this tuning is empty"),
        (lambda data: data["tuning"]["steps"][0].update(times=[]), "at least one; got none"),
        (lambda data: data["tuning"]["steps"].append(data["tuning"]["steps"][0]), "the same passes twice"),
        (lambda data: data["tuning"].update(devices=[]), "a device for each rank"),
        (lambda data: data["tuning"].update(samples=[]), "names none"),
        (lambda data: data["tuning"].update(speeds=[1.0, 0.5]), "one speed for each of 1 ranks"),
        (lambda data: data["tuning"].update(speeds=[0.0]), "larger than 0"),
        (lambda data: data["tuning"].update(sped=1), "sped"),
        (lambda data: data["tuning"].pop("stack"), "stack"),
        (lambda data: data["tuning"].update(torch=2.6), "2.6 is not text"),
        (lambda data: data["tuning"]["steps"][0]["times"][0].update(executor="seril"), "Did you mean 'serial'"),
        (lambda data: data["tuning"]["steps"][0]["times"][0].update(executor="all_gather"), "one rank runs serial"),
        (lambda data: data["tuning"]["steps"][0]["times"][0].update(seconds=-1.0), "seconds must be a number"),
        (lambda data: data["tuning"]["steps"][0]["times"][0].update(seconds="nan"), "'nan' is not a number"),
        (lambda data: data.update(guidance=[]), 'a table under "tuning"'),
    ],
)
def test_a_tuning_that_cannot_be_read_says_why(measured, change, says):
    data = measured.to_dict()
    change(data)
    with pytest.raises(ConfigurationError) as caught:
        Tuning.from_dict(data)
    assert says in str(caught.value)


def test_text_that_is_no_tuning_is_refused():
    for text in ("", "[", "{}", '{"tuning": 1}'):
        with pytest.raises(SpecError):
            Tuning.from_json(text)


def first_line(guidance, denoise=None, sample=SAMPLE, steps=1, **given):
    run = guidance.start(**SETTINGS, executor=AutoExecutor(**given))
    for index in range(steps):
        run.step(index, sample, denoise or (lambda branch: torch.zeros_like(sample)))
    return str(run.describe()).splitlines()[0]


def test_the_fastest_is_chosen_and_equality_limits_the_choice(measured):
    for equality, batches in (("bits", 0), ("close", STEPS)):
        denoise = Batching()
        line = first_line(LIMITED, denoise, tuning=measured, equality=equality, steps=STEPS)
        assert denoise.batches == batches
        assert "the fastest by its tuning, on average a step: " in line
        assert f"serial {measured_mean(measured, 'serial'):.4g} ms" in line
        assert f"batched {measured_mean(measured, 'batched'):.4g} ms" in line
        assert ("only close to serial, so not chosen from: batched" in line) == (equality == "bits")


def measured_mean(tuning, label):
    return 1e3 * (3 * seconds(tuning, label, 0) + 3 * seconds(tuning, label, 1)) / STEPS


def test_the_times_count_by_how_many_steps_of_each_kind_the_run_has():
    """Batching pays in steps with two passes and costs in those with one."""

    def tuning_of(guidance):
        slow, fast = (Timed("batched", each, 0.0) for each in (0.010, 0.001))
        steps = [
            attrs.evolve(step, times=(Timed("serial", 0.005, 0.0), slow if len(step.passes) == 1 else fast))
            for step in tune(guidance, Batching(), SAMPLE, **SETTINGS, repeats=2).steps
        ]
        return attrs.evolve(tune(guidance, Batching(), SAMPLE, **SETTINGS, repeats=2), steps=tuple(steps))

    for bounds, batches in (("lo=0.3,hi=0.7", False), ("lo=0,hi=0.9", True)):
        guidance = Guidance.from_spec(f"cfg:scale=3,interval:{bounds}")
        denoise = Batching()
        first_line(guidance, denoise, tuning=tuning_of(guidance))
        assert bool(denoise.batches) is batches


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"sample": SAMPLE[:1]}, "for output (2, 3, 4) float32, and the sample is output (1, 3, 4) float32"),
        ({"sample": SAMPLE.double()}, "the sample is output (2, 3, 4) float64"),
        ({"sample": torch.empty(2, 3, 4, device="meta")}, "it was measured on cpu, and the sample is on meta"),
        ({"guidance": Guidance.from_spec("cfg:scale=3")}, "it was measured with other methods"),
    ],
)  # fmt: skip
def test_a_run_that_was_not_measured_falls_back_and_says_so(measured, given, says):
    line = first_line(**{"guidance": LIMITED, "steps": 4, **given}, tuning=measured)
    assert line.startswith("executor   auto: no process group, so batched where the denoiser has batch(branches)")
    assert "its tuning is not used: it was measured " in line
    assert says in line


def test_steps_with_passes_that_were_not_measured_fall_back():
    tuning = tune(Guidance.from_spec("cfg:scale=3,stg:blocks=1"), Sleeping(), SAMPLE, **SETTINGS, repeats=2)
    line = first_line(Guidance.from_spec("cfg:scale=3,stg:blocks=2"), tuning=tuning)
    assert "its tuning is not used: it has no times of a step with these passes: cond, uncond, " in line


def test_a_tuning_of_several_ranks_is_not_used_in_one_process(measured):
    line = first_line(LIMITED, tuning=attrs.evolve(measured, devices=("cpu", "cpu")))
    assert "its tuning is not used: it was measured on 2 ranks, and the run has 1" in line


def test_the_same_passes_with_another_scale_were_measured(measured):
    line = first_line(Guidance.from_spec("cfg:scale=7,interval:lo=0.3,hi=0.7"), tuning=measured)
    assert "the fastest by its tuning" in line


def test_it_goes_back_to_the_tuning_when_the_sample_has_its_form_again(measured):
    run = LIMITED.start(**SETTINGS, executor=AutoExecutor(tuning=measured))
    for index, rows in enumerate((2, 1, 2)):
        run.step(index, SAMPLE[:rows], lambda branch, rows=rows: torch.zeros_like(SAMPLE[:rows]))
        assert ("its tuning is not used" in str(run.describe())) == (rows == 1)


def test_a_denoiser_without_batch_runs_one_by_one_and_describe_says_so(measured):
    denoise = Sleeping()
    line = first_line(LIMITED, denoise, tuning=measured)
    assert denoise.calls == 1
    assert "this denoiser has no batch(branches), so its passes run one by one" in line


def test_a_tuning_of_another_torch_is_used_and_describe_says_so(measured):
    line = first_line(LIMITED, tuning=attrs.evolve(measured, torch="2.6.0"))
    assert f"(measured with torch 2.6.0; this is {torch.__version__})" in line


def test_equality_counts_without_a_tuning_and_where_it_is_not_used(measured):
    for tuning, sample in ((None, SAMPLE), (measured, SAMPLE[:1])):
        denoise = Batching()
        denoise.prediction = lambda branch, sample=sample: torch.zeros_like(sample)
        line = first_line(LIMITED, denoise, sample, steps=STEPS, equality="bits", tuning=tuning)
        assert denoise.batches == 0
        assert "so serial" in line


def test_nothing_is_measured_by_a_run(measured):
    denoise = Sleeping()
    first_line(LIMITED, denoise, tuning=measured, equality="bits", steps=STEPS)
    assert denoise.calls == 3 + 3 * 2, "each step runs its passes once"


def test_the_executors_to_time_can_be_named():
    assert labels(tune(CFG, Batching(), SAMPLE, **SETTINGS, executors=["serial"])) == [["serial"]]
    assert labels(tune(CFG, Sleeping(), SAMPLE, **SETTINGS)) == [["serial"]]
    only = tune(CFG, Batching(), SAMPLE, **SETTINGS, executors=("batched",))
    assert "its tuning is not used: it has no times of an executor that equality='bits' allows" in first_line(
        CFG, tuning=only, equality="bits"
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"repeats": 1}, "repeats must be a whole number from 2 to 1000; got 1"),
        ({"repeats": True}, "got True"),
        ({"executors": ()}, "executors must be a list of names"),
        ({"executors": 3}, "executors must be a list of names"),
        ({"executors": ("seriel",)}, "tune cannot time the executor 'seriel'. Did you mean 'serial'?"),
        ({"executors": ("all_gather",)}, "none of all_gather can run this stack with this denoiser on 1 rank"),
        ({"prediction_type": "eps"}, "prediction_type"),
        ({"conditions": {}}, "positive"),
    ],
)
def test_what_cannot_be_tuned_is_refused(given, says):
    with pytest.raises(ConfigurationError) as caught:
        tune(CFG, Sleeping(), SAMPLE, **{**SETTINGS, **given})
    assert says in str(caught.value)


def test_an_error_of_a_forward_names_the_executor():
    class Failing(Batching):
        def batch(self, branches):
            raise ValueError("no memory")

    with pytest.raises(ValueError, match="no memory") as caught:
        tune(CFG, Failing(), SAMPLE, **SETTINGS)
    assert "while tune timed batched; executors=(...) names those to time" in "".join(caught.value.__notes__)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"equality": "bit"}, "equality must be 'bits' or 'close'; got 'bit'. Did you mean 'bits'?"),
        ({"equality": None}, "equality must be"),
        ({"tuning": {}}, "tuning is what tune(...) returned"),
    ],
)
def test_auto_refuses_what_is_no_tuning_and_no_equality(given, says):
    with pytest.raises(ConfigurationError) as caught:
        AutoExecutor(**given)
    assert says in str(caught.value)


def test_steps_that_hold_outputs_are_tuned_with_what_they_run():
    guidance = Guidance.from_spec("ltx2:cfg_scale=3,stg_scale=0,modality_scale=1,rescale_scale=0,skip_step=1")
    tuning = tune(guidance, Sleeping(), SAMPLE, **SETTINGS)
    assert [step.passes for step in tuning.steps] == [("cond", "neg")]


# On ranks.


def test_all_ranks_end_with_the_same_tuning_of_the_slowest_rank(ranks):
    found = ranks.run(tuning_jobs.tuned, "cfg:scale=3", [0.002, 0.012, 0.002], None, ranks=3)
    assert found[0] == found[1] == found[2]
    assert labels(found[0]) == [["serial", "all_gather", "all_reduce"]]
    assert seconds(found[0], "serial") >= 0.024, "the slowest rank runs both passes"
    assert found[0].speeds[1] < 0.5
    assert seconds(found[0], "all_gather") < 0.024, "the slow rank is left out"


def test_ranks_that_batch_are_timed_where_a_rank_has_several_passes(ranks):
    (tuning, _) = ranks.run(tuning_jobs.tuned, "cfg:scale=3,stg:blocks=1", [0.004] * 2, 0.5, ranks=2)
    assert labels(tuning) == [
        ["serial", "batched", "all_gather", "all_gather(batched=True)", "all_reduce", "all_reduce(batched=True)"]
    ]
    (tuning, _) = ranks.run(tuning_jobs.tuned, "cfg:scale=3", [0.0] * 2, 0.5, ranks=2)
    assert labels(tuning) == [["serial", "batched", "all_gather", "all_reduce"]], "one pass a rank"


def test_all_reduce_is_not_timed_where_a_method_looks(ranks):
    (tuning, _) = ranks.run(tuning_jobs.tuned, "apg:scale=3", [0.0] * 2, None, ranks=2)
    assert labels(tuning) == [["serial", "all_gather"]]


def with_seconds(tuning, **times):
    """The same tuning with other times."""
    changed = tuple(
        attrs.evolve(step, times=tuple(attrs.evolve(each, seconds=times.get(each.label, 1.0)) for each in step.times))
        for step in tuning.steps
    )
    return attrs.evolve(tuning, steps=changed, speeds=())


@pytest.mark.parametrize(
    ("fastest", "equality", "calls", "batches", "says"),
    [
        ("serial", "bits", 3, 0, "auto: serial: each of 2 ranks runs every pass"),
        ("serial", "close", 3, 0, "auto: serial: each of 2 ranks runs every pass"),
        ("batched", "close", 0, 1, "auto: batched: each of 2 ranks runs every pass"),
        ("all_gather", "bits", None, 0, "auto: all_gather: 2 ranks"),
        ("all_gather(batched=True)", "close", 0, None, "each rank's branches in one forward"),
        ("all_reduce", "close", None, 0, "auto: all_reduce: 2 ranks"),
        ("all_reduce(batched=True)", "close", 0, None, "each rank's branches in one forward"),
    ],
)
def test_ranks_run_what_was_fastest(ranks, fastest, equality, calls, batches, says):
    spec = "cfg:scale=3,stg:blocks=1"
    (tuning, _) = ranks.run(tuning_jobs.tuned, spec, [0.0] * 2, 0.5, ranks=2)
    tuning = with_seconds(tuning, **{fastest: 0.1})
    found = ranks.run(tuning_jobs.stepped, spec, tuning, equality, ranks=2)
    for equal, line, made, together in found:
        assert says in line
        assert f"{fastest} 100 ms" in line
        assert all(equal) or equality == "close"
        assert calls is None or made == calls * STEPS
        assert batches is None or together == batches * STEPS
    if calls is None:
        assert sum(made for _, _, made, _ in found) == 3 * STEPS


def test_with_bits_only_what_gives_serials_bits_runs_on_ranks(ranks):
    spec = "cfg:scale=3,stg:blocks=1"
    (tuning, _) = ranks.run(tuning_jobs.tuned, spec, [0.0] * 2, 0.5, ranks=2)
    tuning = with_seconds(tuning, **{"all_reduce": 0.1, "all_gather(batched=True)": 0.2, "all_gather": 0.5})
    for equal, line, _, batches in ranks.run(tuning_jobs.stepped, spec, tuning, "bits", ranks=2):
        assert all(equal)
        assert "auto: all_gather" in line
        assert batches == 0


def test_ranks_without_batch_run_one_by_one(ranks):
    spec = "cfg:scale=3,stg:blocks=1"
    (tuning, _) = ranks.run(tuning_jobs.tuned, spec, [0.0] * 2, 0.5, ranks=2)
    tuning = with_seconds(tuning, **{"all_gather(batched=True)": 0.1})
    found = ranks.run(tuning_jobs.stepped, spec, tuning, "close", SAMPLE, False, ranks=2)
    assert all("this denoiser has no batch(branches)" in line for _, line, _, _ in found)
    assert all(all(equal) for equal, _, _, _ in found)


def test_another_number_of_ranks_or_another_sample_falls_back_on_all_ranks(ranks):
    (tuning, _) = ranks.run(tuning_jobs.tuned, "cfg:scale=3", [0.0] * 2, 0.5, ranks=2)
    for count, sample, says in (
        (3, SAMPLE, "it was measured on 2 ranks, and the run has 3"),
        (2, SAMPLE[:1].clone(), "and the sample is output (1, 3, 4) float32"),
    ):
        for equal, line, _, _ in ranks.run(tuning_jobs.stepped, "cfg:scale=3", tuning, "bits", sample, ranks=count):
            assert line.startswith(f"executor   auto: all_gather: {count} ranks")
            assert f"its tuning is not used: {says}" in line or says in line
            assert all(equal)


@pytest.mark.parametrize(
    ("what", "error", "says"),
    [
        ("executors", "PlanMismatchError", "differ in executor"),
        ("batch", "PlanMismatchError", "differ in executor"),
        ("an unknown name", "ConfigurationError", "tune cannot time the executor 'all_gathr'"),
        ("a forward fails", "RankFailedError", "on purpose"),
    ],
)
def test_a_rank_that_fails_or_differs_is_told_on_all_while_they_tune(ranks, what, error, says):
    found = ranks.run(tuning_jobs.differs, what, None, ranks=3)
    for (kind, message), taken, goes_on in found:
        assert kind == error
        assert says in message
        assert taken < 10
        assert goes_on


@pytest.mark.parametrize("what", ["equality", "tuning", "sample"])
def test_ranks_that_would_choose_differently_are_told(ranks, what):
    (tuning, _, _) = ranks.run(tuning_jobs.tuned, "cfg:scale=3", [0.0] * 3, None, ranks=3)
    tuning = with_seconds(tuning, serial=0.1)
    for (kind, message), taken, goes_on in ranks.run(tuning_jobs.differs, what, tuning, ranks=3):
        assert kind == "PlanMismatchError"
        assert ("sample" if what == "sample" else "executor") in message
        assert taken < 10
        assert goes_on


# Ranks of different speeds.


def test_a_slower_rank_is_given_less():
    three = [Branch("cond"), Branch("neg"), Branch("perturbed")]
    assert place_branches(three, 2, (1.0, 0.25)).shown(["c", "n", "p"]) == ("c, n, p", "idle")
    assert place_branches(three, 2, (1.0, 0.5)).shown(["c", "n", "p"]) == ("c, n", "p")
    assert place_branches(three, 2, (0.5, 1.0)).shown(["c", "n", "p"]) == ("n", "c, p")
    assert place_branches(three, 2, (1.0, 0.5)).speedup == 1.5
    assert place_branches(three, 2, (1.0, 1.0)).units == place_branches(three, 2).units
    rows = place_rows(three, 4, 2, (1.0, 0.5))
    assert rows.shown(["c", "n", "p"]) == ("c, n", "p")
    assert place_rows(three, 2, 2, (1.0, 0.2)).shown(["c", "n", "p"]) == ("c, n, p[0:1]", "p[1:2]")


@given(
    st.lists(st.floats(0.1, 4), min_size=1, max_size=6),
    st.lists(st.floats(0.05, 1), min_size=1, max_size=6),
    st.integers(1, 5),
)
def test_every_row_is_placed_once_at_any_speed(costs, speeds, rows):
    branches = [Branch(f"b{i}", cost=cost) for i, cost in enumerate(costs)]
    for placement in (place_branches(branches, len(speeds), speeds), place_rows(branches, rows, len(speeds), speeds)):
        placed = sorted(
            (unit.branch, row)
            for units in placement.units
            for unit in units
            for row in range(*(unit.rows or (0, rows)))
        )
        assert placed == [(branch, row) for branch in range(len(costs)) for row in range(rows)]
        assert placement.speedup <= sum(speeds) / max(speeds) * (1 + 1e-9)


@pytest.mark.parametrize(("name", "options"), [("all_gather", {}), ("all_reduce", {})])
def test_executors_place_by_the_speeds_they_are_given(ranks, name, options):
    found = ranks.run(tuning_jobs.unequal, name, [0.3, 1.0], options, ranks=2)
    assert [own for own, _, _ in found] == [[0, 0], [3, 3]]
    assert all(same for _, same, _ in found)
    assert all("ranks of the speeds 0.3, 1" in line for _, _, line in found)


@pytest.mark.parametrize("speeds", [(1.0,), (1.0, 0.0), (1.0, float("nan")), "ab", None, (True, 1.0), (1e9, 1.0)])
def test_speeds_that_are_none_are_refused(ranks, speeds):
    found = ranks.run(tuning_jobs.speeds_error, speeds, ranks=2)
    assert all(kind == "ConfigurationError" and "speeds is one number" in message for kind, message in found)
