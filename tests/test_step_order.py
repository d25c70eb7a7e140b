"""Which step may follow which, which noise levels belong to one, and what an index may be."""

from __future__ import annotations

import re
from typing import ClassVar

import attrs
import numpy
import pytest
import torch
from test_algebra import BOTH, predict

from guidance_core import Branch, ConfigurationError, Guidance, Needs, hookimpl
from guidance_plugins import APG, CFG, Rescale

SIGMAS = [1.0, 0.8, 0.6, 0.4, 0.2, 0.0]
STATELESS = ("", "cfg:scale=3", "cfg:scale=3,rescale:phi=0.7", "apg:scale=4", "cfg-zero-star:scale=3", "stg,normalize")
STATEFUL = {
    "apg:scale=4,momentum=-0.5": "plugin 'apg' keeps values",
    "cfg:scale=3,gate:lo=0.2": "plugin 'gate' keeps values",
    "ltx2:cfg_scale=3,skip_step=1": "the last x0 of output is kept",
}
TURNS = ((2, 0), (2, 4), (2, 1), (1, 3), (4, 3))


def started(spec, **settings):
    given = {"conditions": BOTH, "sigmas": SIGMAS, "prediction_type": "flow"} | settings
    return Guidance.from_spec(spec).start(**given)


def made(run, index, **levels):
    x, predictions = predict(index, 2, 3, 4)
    return run.step(index, x, lambda branch: predictions.get(branch.name, predictions["cond"]), **levels)


@pytest.mark.parametrize("spec", STATELESS)
@pytest.mark.parametrize("turn", TURNS)
def test_a_run_without_state_may_go_anywhere(spec, turn):
    run = started(spec)
    results = [made(run, index) for index in turn]
    assert all(torch.equal(result, made(started(spec), index)) for result, index in zip(results, turn, strict=True))


@pytest.mark.parametrize(("spec", "why"), STATEFUL.items())
@pytest.mark.parametrize("turn", TURNS)
def test_a_run_with_state_makes_its_steps_in_order(spec, why, turn):
    run, calls = started(spec), []
    last, index = turn
    made(run, last)
    says = (
        rf"step {index} cannot follow step {last}: {why} from step to step, up to step {last}\. Make .*start a new run"
    )
    for plan in (run.plan, lambda index, x: run.step(index, x, calls.append)):
        with pytest.raises(ConfigurationError, match=says):
            plan(index, torch.zeros(2, 3, 4))
    assert not calls, "no forward runs"
    following = [last, last + 1] if last < 4 else [last]  # the next evaluation, and the next step
    whole = started(spec)
    expected = [made(whole, each) for each in (last, *following)][1:]
    assert all(torch.equal(made(run, each), other) for each, other in zip(following, expected, strict=True))


@pytest.mark.parametrize("spec", [*STATELESS, *STATEFUL])
@pytest.mark.parametrize("first", [0, 2, 4])
def test_a_run_may_begin_at_any_step(spec, first):
    run = started(spec)
    assert all(torch.isfinite(made(run, index)).all() for index in range(first, 5))


def test_a_step_that_failed_was_not_made():
    run = started("apg:scale=4,momentum=-0.5")
    made(run, 0)
    with pytest.raises(ZeroDivisionError):
        run.step(1, torch.zeros(2, 3, 4), lambda branch: 1 / 0)
    with pytest.raises(ConfigurationError, match="step 2 cannot follow step 0"):
        made(run, 2)
    made(run, 1)


@attrs.frozen
class Remembers:
    """Keeps the direction of each step, to be looked up by its index."""

    any_order: ClassVar[bool] = True

    @hookimpl
    def build_branches(self, step):
        return [Branch("uncond", condition="negative", required=True), Needs()]

    @hookimpl
    def combine(self, step, predictions):
        step.state[step.index] = predictions["cond"] - predictions["uncond"]
        return step.state[step.index]


@pytest.mark.parametrize("turn", TURNS)
def test_a_plugin_declares_that_what_it_keeps_is_right_in_any_order(turn):
    run = Guidance([Remembers()]).start(conditions=BOTH, sigmas=SIGMAS, prediction_type="flow")
    for index in turn:
        made(run, index)
    mixed = Guidance([Remembers(), APG(4.0, momentum=0.5)]).start(
        conditions=BOTH, sigmas=SIGMAS, prediction_type="flow"
    )
    made(mixed, turn[0])
    with pytest.raises(ConfigurationError, match=rf"step {turn[1]} cannot follow step {turn[0]}: plugin 'apg' keeps"):
        made(mixed, turn[1])


@pytest.mark.parametrize("index", [numpy.int64(1), numpy.uint8(1), torch.tensor(1), torch.tensor(1, dtype=torch.uint8)])
def test_an_index_may_be_any_whole_number(index):
    assert torch.equal(started("cfg").step(index, *stepped()), started("cfg").step(1, *stepped()))


def stepped():
    x, predictions = predict(1, 2, 3, 4)
    return x, lambda branch: predictions[branch.name]


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (True, "a step index must be a whole number; got True"),
        (1.0, "a whole number; got 1.0"),
        (numpy.float32(1), "a whole number"),
        (numpy.bool_(True), "a whole number"),
        (torch.tensor(True), "a whole number"),
        (torch.tensor(1.0), "a whole number"),
        (torch.tensor([1]), r"a whole number; got tensor\(\[1\]\)\. Pass int\(index\)"),
        (torch.zeros((), dtype=torch.long, device="meta"), r"Pass int\(index\)"),
        ("1", "a whole number; got '1'"),
        (None, "a whole number; got None"),
        (-1, "step -1 is out of range: the run has 5 steps, 0 to 4"),
        (5, r"step 5 is out of range: the run has 5 steps, 0 to 4\.$"),
        (999, "That looks like a timestep"),
        (10**5000, "is out of range"),
    ],
    ids=range(14),
)
def test_an_index_that_is_no_step(index, says):
    with pytest.raises(ConfigurationError, match=says) as caught:
        started("cfg").step(index, *stepped())
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("index", "sigma"),
    [(1, 0.8), (1, 0.6), (1, 0.7), (1, 0.8 * 2**0.5 * 0.85), (1, torch.tensor(0.7).bfloat16()), (4, 0.0), (4, 1e-9)],
)
def test_levels_at_which_samplers_evaluate_a_step(index, sigma):
    made(started("cfg"), index, sigma=sigma)


@pytest.mark.parametrize(
    ("index", "sigma", "says"),
    [
        (
            0,
            0.1,
            "sigma 0.1 of output 'output' does not belong to step 0, which leads from 1 to 0.8. It belongs to step 4",
        ),
        (3, 0.9, "does not belong to step 3, which leads from 0.4 to 0.2. It belongs to step 0"),
        (1, 0.55, "It belongs to step 2"),
        (1, -0.1, "sigma must be finite and not negative"),
        (1, float("nan"), "sigma must be finite"),
        (1, 10**400, "sigma must be a number; got 1000"),
        (1, "0.7", "sigma must be a number; got '0.7'"),
        (1, True, "sigma must be a number; got True"),
        (1, torch.tensor([0.7, 0.7]), "sigma must be a number"),
        (1, [0.7], "sigma must be a number"),
        (1, {"video": 0.7}, "sigma is given for video, but the outputs are output"),
    ],
)
def test_a_level_that_does_not_belong_to_its_step(index, sigma, says):
    with pytest.raises(ConfigurationError, match=re.escape(says)):
        made(started("cfg"), index, sigma=sigma)


def test_a_rising_schedule_has_levels_between_its_own():
    run = started("cfg", sigmas=SIGMAS[::-1])
    made(run, 1, sigma=0.3)
    with pytest.raises(ConfigurationError, match=r"does not belong to step 1, which leads from 0\.2 to 0\.4"):
        made(run, 1, sigma=0.1)


@pytest.mark.parametrize(
    ("settings", "levels", "advice"),
    [
        ({}, {}, r"start the run with alphas=\[...\], one per step, or alphas=1.0"),
        ({"alphas": [0.3, 0.5, 0.7, 0.9, 0.95]}, {"sigma": 0.7}, r"give this step alpha=... beside sigma=..., or 1.0"),
    ],
)
def test_the_hint_names_the_argument_that_was_missing(settings, levels, advice):
    with pytest.raises(
        ConfigurationError, match=rf"converting epsilon to x0 at sigma .* needs alpha: {advice}"
    ) as caught:
        made(started("cfg,rescale:space=x0", prediction_type="epsilon", **settings), 1, **levels)
    assert ("alphas=" in str(caught.value)) == (not levels)


def test_the_level_of_a_step_needs_no_alpha_where_nothing_is_converted():
    run = Guidance([CFG(3.0), Rescale(0.5)]).start(conditions=BOTH, sigmas=SIGMAS, prediction_type="epsilon")
    made(run, 1, sigma=0.7)
