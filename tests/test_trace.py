"""A trace says what each step did, with numbers that can be worked out by hand, and costs nothing when off."""

from __future__ import annotations

import json
import math

import pytest
import torch
import tuning_jobs
from tuning_jobs import SAMPLE, SETTINGS, STEPS, Batching, Sleeping
from typer.testing import CliRunner

from guidance_core import ConfigurationError, Guidance, StackedDenoiser, Trace
from guidance_core.commands.app import app


def vectors(branch):
    """Two samples of a prediction whose norms and angles are plain to see."""
    made = {"cond": [[3.0, 4.0], [6.0, 8.0]], "uncond": [[3.0, 0.0], [6.0, 8.0]], "perturbed": [[0.0, 0.0], [0.0, 8.0]]}
    return torch.tensor(made[branch.name])


def traced(spec, denoise=vectors, sample=None, steps=1, **given):
    trace = Trace()
    run = Guidance.from_spec(spec).start(**{**SETTINGS, **given}, trace=trace)
    for index in range(steps):
        run.step(index, torch.zeros(2, 2) if sample is None else sample, denoise)
    return trace


def test_the_numbers_are_those_of_the_definitions():
    (record,) = traced("cfg:scale=3,stg:blocks=1,scale=2")
    out = record.outputs["output"]
    assert out.base_norm == (5.0, 10.0)
    assert out.apart == {"uncond": (4.0, 0.0), "perturbed": (5.0, 6.0)}
    assert out.cosine == (pytest.approx(4 / 5), 0.0)
    # guided − c = 2·(c − uncond) + 2·(c − perturbed), of which (0, 8) + (0, 8) is along c − uncond = (0, 4)
    assert out.effective_strength == (pytest.approx(4.0), 0.0)
    assert out.result_norm == (pytest.approx(math.hypot(9, 20)), pytest.approx(math.hypot(18, 8)))
    assert (record.step, record.evaluation, record.sigma) == (0, 0, 1.0)
    assert record.passes == record.own_passes == ("cond", "uncond", "perturbed")


@pytest.mark.parametrize("scale", [1.5, 3.0, -2.0])
def test_the_strength_of_cfg_alone_is_its_scale_less_one(scale):
    for record in traced(f"cfg:scale={scale}", Sleeping(), SAMPLE, steps=STEPS):
        assert record.outputs["output"].effective_strength == pytest.approx([scale - 1] * 2, rel=1e-4)


def test_without_a_negative_branch_there_is_no_cosine():
    (record,) = traced("stg:blocks=1")
    out = record.outputs["output"]
    assert (out.cosine, out.effective_strength) == (None, None)
    assert out.apart == {"perturbed": (5.0, 6.0)}
    assert traced("")[0].outputs["output"].apart == {}


def test_an_output_that_is_held_has_its_result_alone():
    spec = "ltx2:cfg_scale=3,stg_scale=0,modality_scale=1,rescale_scale=0,skip_step=1"
    first, second = traced(spec, lambda branch: torch.ones(2, 2), torch.zeros(2, 2), steps=2)
    assert first.passes == ("cond", "neg")
    assert second.passes == ()
    out = second.outputs["output"]
    assert (out.base_norm, out.apart, out.cosine) == (None, {}, None)
    assert len(out.result_norm) == 2


def test_every_evaluation_has_a_record_and_halves_too():
    trace = Trace()
    run = Guidance.from_spec("cfg:scale=3").start(**SETTINGS, trace=trace)
    run.step(0, SAMPLE, Sleeping())
    run.step(0, SAMPLE, Sleeping(), sigma=0.9)
    with run.plan(1, SAMPLE) as plan:
        denoise = Sleeping(0.01)
        plan.finish({branch.name: denoise(branch) for branch in plan.own_branches})
    assert [(each.step, each.evaluation, each.sigma) for each in trace] == [(0, 0, 1.0), (0, 1, 0.9), (1, 0, 1 - 1 / 6)]
    assert trace[2].seconds >= 0.02


def test_plans_that_overlap_have_no_seconds():
    trace = Trace()
    run = Guidance.from_spec("cfg:scale=3").start(**SETTINGS, trace=trace)
    plan = run.plan(0, SAMPLE)
    run.plan(0, SAMPLE)
    plan.finish({branch.name: Sleeping()(branch) for branch in plan.own_branches})
    assert trace[0].seconds is None
    assert json.loads(json.dumps(trace.to_dict()))["steps"][0]["seconds"] is None


def test_seconds_are_those_of_the_forwards():
    (record,) = traced("cfg:scale=3", Sleeping(0.02), SAMPLE)
    assert 0.04 <= record.seconds < 1.0


@pytest.mark.parametrize("spec", ["cfg:scale=3,rescale:phi=0.7", "apg:scale=4,momentum=-0.5", "cfg:scale=3,gate"])
@pytest.mark.parametrize("executor", ["serial", "batched", "auto"])
def test_results_are_the_same_with_a_trace(spec, executor):
    runs = [
        Guidance.from_spec(spec).start(**SETTINGS, executor=executor, **given) for given in ({}, {"trace": Trace()})
    ]
    for index in range(STEPS):
        plain, beside = (run.step(index, SAMPLE, Batching()) for run in runs)
        assert torch.equal(plain, beside)


def test_batched_traces_what_serial_does():
    serial = traced("cfg:scale=3", Batching(), SAMPLE, steps=STEPS)
    batched = traced("cfg:scale=3", Batching(), SAMPLE, steps=STEPS, executor="batched")
    assert [each.outputs for each in serial] == [each.outputs for each in batched]


def test_half_precision_is_measured_in_float32():
    (record,) = traced("cfg:scale=1.5", lambda branch: vectors(branch).half() * 6000, torch.zeros(2, 2).half())
    assert record.outputs["output"].base_norm == pytest.approx((30000, 60000))


def test_a_step_that_fails_has_no_record():
    def failing(branch):
        if branch.step == 1:
            raise ValueError("on purpose")
        return vectors(branch)

    trace = Trace()
    run = Guidance.from_spec("cfg:scale=3").start(**SETTINGS, trace=trace)
    run.step(0, torch.zeros(2, 2), failing)
    with pytest.raises(ValueError, match="on purpose"):
        run.step(1, torch.zeros(2, 2), failing)
    run.step(1, torch.zeros(2, 2), vectors)
    assert [each.step for each in trace] == [0, 1]


def test_what_a_callback_raises_leaves_step_and_the_step_was_made():
    def tell(record):
        raise KeyError(record.step)

    run = Guidance.from_spec("cfg:scale=3").start(**SETTINGS, trace=tell)
    with pytest.raises(KeyError):
        run.step(0, torch.zeros(2, 2), vectors)
    assert run.last.index == 0


@pytest.mark.parametrize("given", [True, "trace", Trace, 3])
def test_what_cannot_be_called_is_refused(given):
    with pytest.raises(ConfigurationError, match="trace must be a function of the record"):
        Guidance().start(**SETTINGS, trace=given)


def test_a_table_has_a_row_for_each_output_of_each_step():
    model = StackedDenoiser(lambda x, place: (x + 1, x * 2), {"x": torch.ones(2, 3)})
    trace = Trace()
    run = Guidance.from_spec("cfg:scale=3").start(**SETTINGS, outputs=("video", "audio"), trace=trace)
    for index in range(2):
        run.step(index, (torch.ones(2, 3), torch.ones(2, 3)), model)
    lines = str(trace).splitlines()
    assert len(lines) == 5
    assert " ".join(lines[0].split()) == "step sigma passes ms output |c| |guided| |c-uncond| cos(c-u, c) strength"
    assert [line.split()[4] for line in lines[1:]] == ["video", "audio"] * 2
    assert str(Trace())


def test_a_copy_of_a_run_is_traced_as_well():
    trace = Trace()
    run = Guidance.from_spec("cfg:scale=3").start(**SETTINGS, trace=trace)
    run.step(0, SAMPLE, Sleeping())
    other = run.fork()
    other.step(1, SAMPLE, Sleeping())
    assert [each.run for each in trace] == [run.id, other.id]


# On ranks.


def test_all_gather_traces_what_serial_does(ranks):
    spec = "cfg:scale=3,stg:blocks=1,rescale:phi=0.5"
    alone = traced(spec, Sleeping(), SAMPLE, steps=STEPS)
    (first, *others) = ranks.run(tuning_jobs.traced, "all_gather", spec, {}, ranks=3)
    assert [each.outputs for each in first[0]] == [each.outputs for each in alone]
    assert [each.own_passes for each in first[0]] == [("cond",)] * STEPS
    assert all(len(trace) == 0 for trace, _ in others)
    assert all(torch.equal(one, two) for _, made in others for one, two in zip(first[1], made, strict=True))


def test_all_reduce_traces_what_a_rank_knows(ranks):
    spec = "cfg:scale=3,stg:blocks=1"
    alone = traced(spec, Sleeping(), SAMPLE, steps=STEPS)
    trace = ranks.run(tuning_jobs.traced, "all_reduce", spec, {}, ranks=2)[0][0]
    for record, whole in zip(trace, alone, strict=True):
        out, expected = record.outputs["output"], whole.outputs["output"]
        assert record.own_passes == ("cond", "perturbed")
        assert out.base_norm == expected.base_norm
        assert out.result_norm == pytest.approx(expected.result_norm, rel=1e-5)
        assert out.apart == {"perturbed": expected.apart["perturbed"]}
        assert (out.cosine, out.effective_strength) == (None, None)


def test_the_command_prints_a_trace_for_each_row(tmp_path):
    arguments = ["sample", "--steps", "2", "--per-class", "1", "--out", str(tmp_path / "a.png"), "--trace"]
    text = CliRunner().invoke(app, [*arguments, "-g", "", "-g", "cfg:scale=3"])
    assert text.exit_code == 0
    assert text.output.count("|guided|") == 2
    data = json.loads(CliRunner().invoke(app, [*arguments, "-g", "cfg:scale=3", "--json"]).output)
    assert [step["passes"] for step in data["rows"][0]["trace"]] == [["cond", "uncond"]] * 2
