"""Steps that a stack cannot tell apart share their layout, and no others do."""

from __future__ import annotations

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_algebra import BOTH

from guidance_core import Branch, ConfigurationError, Guidance, Linear, Needs, PluginError, Schedule, Window, hookimpl
from guidance_core.steps import program
from guidance_core.steps.known import KnownLayouts
from guidance_plugins import CFG

STEPS = 12
SIGMAS = [1 - i / STEPS for i in range(STEPS + 1)]


@attrs.frozen
class Asks:
    """Moves away from `uncond` by what it learns about the step; counts how often it is asked."""

    learn: object = attrs.field()
    calls: list = attrs.field(factory=list, eq=False)

    @hookimpl
    def build_branches(self, step):
        self.calls.append(None)
        return [Branch("uncond", condition="negative", strength=self.learn(step))]


def started(learn, **settings):
    asks = Asks(learn)
    run = Guidance([asks]).start(
        conditions=BOTH, prediction_type="flow", outputs=("video", "audio"), **{"sigmas": SIGMAS, **settings}
    )
    return asks, run


def strengths(run):
    return [layout.outputs["video"].strengths[0][1] for layout in run.layouts]


def test_a_stack_that_asks_nothing_is_asked_once():
    asks, run = started(lambda step: 2.0 * len(step.outputs) * step.count)
    assert len(asks.calls) == 1
    assert strengths(run) == [48.0] * STEPS


WINDOW = Window(0.25, 0.75)


@pytest.mark.parametrize(
    ("learn", "expected", "calls"),
    [
        (lambda step: 1.0 + step.index, [1.0 + i for i in range(STEPS)], STEPS),
        (lambda step: 1.0 + step.fraction, [1.0 + i / STEPS for i in range(STEPS)], STEPS),
        (lambda step: 1.0 + step.sigma, [1.0 + sigma for sigma in SIGMAS[:-1]], STEPS),
        (lambda step: step.value(Linear(1.0, 12.0)), [1.0 + i for i in range(STEPS)], STEPS),
        (lambda step: step.value(Linear(2.0, 2.0)), [2.0] * STEPS, 1),
        (lambda step: 1.0 + len(step.inside(WINDOW)), [1.0] * 3 + [3.0] * 7 + [1.0] * 2, 2),
        (lambda step: 1.0 + len(step.next_inside(WINDOW)), [1.0] * 2 + [3.0] * 7 + [1.0] * 3, 2),
        (lambda step: step.value({"video": 3.0, "audio": 2.0}["video"]), [3.0] * STEPS, 1),
        (lambda step: 5.0 if step.evaluation or step.model else 4.0, [4.0] * STEPS, 1),
        (
            lambda step: 5.0 if step.inside(WINDOW) and step.index % 2 else 4.0,
            [4.0] * 3 + [5.0, 4.0] * 3 + [5.0] + [4.0] * 2,
            8,
        ),
    ],
)
def test_a_stack_gets_at_every_step_what_it_asks_for(learn, expected, calls):
    asks, run = started(learn)
    assert len(asks.calls) == calls
    assert strengths(run) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 4.0), ({"model": "low"}, 5.0), ({"sigma": 0.95}, 6.0), ({"again": True}, 7.0)],
)
def test_a_step_that_is_not_as_usual_is_told_so(options, expected):
    def learn(step):
        return {(0, None, 1.0): 4.0, (0, "low", 1.0): 5.0, (0, None, 0.95): 6.0, (1, None, 1.0): 7.0}[
            step.evaluation, step.model, step.sigma
        ]

    _, run = started(lambda step: learn(step) if step.index == 0 else 4.0)
    x = (torch.zeros(1, 2), torch.zeros(1, 2))
    if options.pop("again", False):
        run.step(0, x, lambda branch: tuple(map(torch.clone, x)))
    assert run.plan(0, x, **options).layout.outputs["video"].strengths[0][1] == expected


def test_sigmas_of_their_own_are_told_apart_by_output():
    sigmas = {"video": SIGMAS, "audio": [level / 2 for level in SIGMAS]}
    asks, run = started(lambda step: 1.0 + len(step.inside(Window(0.0, 0.5))), sigmas=sigmas)
    assert strengths(run) == [2.0] * 6 + [3.0] * 6
    assert len(asks.calls) == 2


def test_what_is_wrong_at_one_step_is_known_before_the_first():
    @attrs.frozen
    class Breaks(Schedule):
        def at(self, position):
            return float("nan") if position.index == 7 else 3.0

    with pytest.raises(ConfigurationError, match="must be finite; got nan"):
        Guidance([CFG(Breaks())]).start(conditions=BOTH, sigmas=SIGMAS, prediction_type="flow")


SPECS = [
    "cfg:scale=3",
    "cfg:scale=linear(1, 7)",
    "cfg:scale=within(5, lo=0.3, hi=0.8)",
    "cfg:scale={video: 3, audio: cosine(1, 4)}",
    "cfg:scale=table({0.4: 1, 0.7: {video: 2, audio: 5}, 1: 3})",
    "apg:scale=linear(3, 5, by=sigma),interval:lo=0.2,hi=0.6",
    "ltx2",
    "ltx2:skip_step={video: 1, audio: 2},cfg_scale=2",
    "ltx2:rescale_scale=linear(0, 0.7),interval:lo=0.1,hi=0.5,methods=ltx2",
    "stg:scale=1,blocks=3,rescale:phi=linear(0.1, 0.9)",
    "cfg-zero-star:scale=4,zero_steps=2",
    "cfg:scale=4,gate:lo=0.3",
]


@pytest.mark.parametrize("spec", SPECS)
@given(levels=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=8), same=st.booleans())
def test_shared_layouts_equal_those_that_every_step_gets_for_itself(spec, levels, same):
    ordered = [*sorted(levels, reverse=True), 0.0]
    sigmas = ordered if same else {"video": ordered, "audio": [level * 0.7 for level in ordered]}

    def layouts():
        run = Guidance.from_spec(spec).start(
            conditions=BOTH, sigmas=sigmas, prediction_type="flow", outputs=("video", "audio")
        )
        return [(layout.fingerprint, layout.holds, layout.depends_on_state) for layout in run.layouts]

    class Nothing(KnownLayouts):
        def add(self, layout):
            pass

    shared = layouts()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "KnownLayouts", Nothing)
        assert layouts() == shared


def test_a_question_that_comes_too_late_is_an_error():
    @attrs.frozen
    class AsksLater:
        @hookimpl
        def build_branches(self, step):
            return [Branch("uncond", condition="negative", strength=1.0, overrides={"when": lambda: step.sigma})]

    run = Guidance([AsksLater()]).start(conditions=BOTH, sigmas=SIGMAS, prediction_type="flow")
    with pytest.raises(PluginError, match="asks its step for sigma after build_branches has returned"):
        run.plan(0, torch.zeros(1, 2)).branches[1].inputs["when"]()


def test_a_plugin_that_looks_at_its_state_is_asked_at_every_step():
    calls = []

    @attrs.frozen
    class Looks:
        @hookimpl
        def build_branches(self, step):
            calls.append(None)
            step.state["seen"] = step.state.get("seen", 0) + 1
            return [Needs()]

    Guidance([Looks()]).start(conditions=BOTH, sigmas=SIGMAS, prediction_type="flow")
    assert len(calls) == STEPS
