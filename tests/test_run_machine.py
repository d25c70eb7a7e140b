"""Runs that take turns, fail, are given up, go back and skip: each result is that of the committed steps alone.

A state machine of hypothesis makes the moves. After each step that succeeds, a fresh run makes only the steps that
lasted, and must give the same bits. `make soak` tries new examples.
"""

from __future__ import annotations

import attrs
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from test_algebra import BOTH, draw

from guidance_core import ConfigurationError, Guidance

STEPS = 6
SIGMAS = [1 - 0.9 * i / STEPS for i in range(STEPS)] + [0.0]
SHAPES = {"video": (2, 3), "audio": (2, 2, 2)}
MOVES = ("next", "next", "next", "again", "skip", "back", "anywhere")

STACKS = {
    "cfg:scale=3,rescale:phi=0.7": False,
    "cfg-zero-star:scale=3,zero_steps=1,normalize": False,
    "stg:scale=1,blocks=3,interval:lo=0.3,hi=0.8": False,
    "apg:scale=4,momentum=-0.5,threshold=2": True,
    "cfg:scale=3,gate:lo=0": True,
    "apg:scale=4,momentum=0.3,gate:lo=0,rescale:phi=0.5": True,
    "ltx2:cfg_scale=3,stg_blocks=3,skip_step={video: 1, audio: 2}": True,
}
"By spec: whether it keeps something from its first step on."


class BrokenError(Exception):
    pass


@attrs.frozen
class Evaluation:
    """One evaluation of a step: where, at which level, and what the model predicts there."""

    index: int
    sigma: float | None
    seed: int

    @property
    def sample(self):
        return {name: draw(self.seed, *shape)[0] for name, shape in SHAPES.items()}

    def predicted(self, branch):
        key = 1 + self.seed + 1000 * sum(map(ord, branch))
        return {name: draw(key, *shape)[0] for name, shape in SHAPES.items()}


class Host:
    """A denoiser; fails at one of its passes if it is to."""

    def __init__(self, evaluation, fails_at=None):
        self.evaluation, self.fails_at, self.passes = evaluation, fails_at, 0

    def __call__(self, branch):
        self.passes += 1
        if self.passes == self.fails_at:
            raise BrokenError
        return self.evaluation.predicted(branch.name)

    def batch(self, branches):
        return [self(branch) for branch in branches]


@attrs.define
class Played:
    """A run, and the evaluations of it that lasted."""

    spec: str
    run: object
    committed: list = attrs.field(factory=list)
    stale: list = attrs.field(factory=list)
    "Plans that were made and not finished."

    @property
    def last(self):
        return self.committed[-1].index if self.committed else None

    def may_turn_to(self, index):
        return self.last is None or index in (self.last, self.last + 1) or not STACKS[self.spec]


GUIDANCE = {spec: Guidance.from_spec(spec) for spec in STACKS}


def started(spec, executor="serial"):
    given = {"sigmas": SIGMAS, "prediction_type": "flow", "outputs": ("video", "audio")}
    return GUIDANCE[spec].start(conditions=BOTH, executor=executor, **given)


def made(run, evaluation, host=None):
    return run.step(evaluation.index, evaluation.sample, host or Host(evaluation), sigma=evaluation.sigma)


def same_bits(one, other):
    return all(torch.equal(one[name], other[name]) for name in SHAPES)


DRAWN = {
    "number": st.integers(0, 3),
    "move": st.sampled_from(MOVES),
    "anywhere": st.integers(0, STEPS - 1),
    "seed": st.integers(0, 99),
    "between": st.booleans(),
}


class Runs(RuleBasedStateMachine):
    """Up to four runs, some of one stack."""

    def __init__(self):
        super().__init__()
        self.runs = []

    @initialize(spec=st.sampled_from(list(STACKS)))
    def begin(self, spec):
        self.runs.append(Played(spec, started(spec)))

    @precondition(lambda self: len(self.runs) < 4)
    @rule(spec=st.sampled_from(list(STACKS)), executor=st.sampled_from(["serial", "batched"]))
    def begin_another(self, spec, executor):
        self.runs.append(Played(spec, started(spec, executor)))

    def chosen(self, number, move, anywhere, seed, *, between):
        """Return a run, and the evaluation that a move leads to."""
        played = self.runs[number % len(self.runs)]
        last = -1 if played.last is None else played.last
        index = {"next": last + 1, "again": last, "skip": last + 2, "back": last - 1, "anywhere": anywhere}[move]
        index = index if 0 <= index < STEPS else anywhere
        sigma = 0.5 * (SIGMAS[index] + SIGMAS[index + 1]) if between else None
        return played, Evaluation(index, sigma, seed)

    def lasts(self, played, evaluation, result):
        """Take a step that succeeded: a fresh run that makes only those that lasted gives the same."""
        played.committed.append(evaluation)
        fresh = started(played.spec)
        for each in played.committed:
            expected = made(fresh, each)
        assert same_bits(result, expected)
        assert played.run.passes == fresh.passes

    def refused(self, played, evaluation, make):
        """Assert that a step which does not make sense is refused before any forward."""
        host = Host(evaluation)
        with pytest.raises(ConfigurationError, match=f"step {evaluation.index} cannot follow step {played.last}: "):
            make(host)
        assert host.passes == 0

    @rule(**DRAWN)
    def step(self, **given):
        played, evaluation = self.chosen(**given)
        if played.may_turn_to(evaluation.index):
            self.lasts(played, evaluation, made(played.run, evaluation))
        else:
            self.refused(played, evaluation, lambda host: made(played.run, evaluation, host))

    @rule(fails_at=st.integers(1, 4), **DRAWN)
    def step_that_fails(self, fails_at, **given):
        played, evaluation = self.chosen(**given)
        if not played.may_turn_to(evaluation.index):
            return
        try:
            result = made(played.run, evaluation, Host(evaluation, fails_at))
        except BrokenError:
            return
        self.lasts(played, evaluation, result)  # it has fewer passes

    @rule(end=st.sampled_from(["finish", "raise", "abandon", "forget", "leave out"]), **DRAWN)
    def halves(self, end, **given):
        played, evaluation = self.chosen(**given)
        plan = lambda: played.run.plan(evaluation.index, evaluation.sample, sigma=evaluation.sigma)
        if not played.may_turn_to(evaluation.index):
            self.refused(played, evaluation, lambda host: plan())
            return
        if end == "finish":
            with plan() as planned:
                made_here = {branch.name: evaluation.predicted(branch.name) for branch in planned.own_branches}
                result = planned.finish(made_here)
            self.lasts(played, evaluation, result)
        elif end == "raise":
            with pytest.raises(BrokenError), plan():
                raise BrokenError
        elif end == "abandon":
            with pytest.raises(BrokenError):
                plan().abandon(BrokenError())
        elif end == "leave out":
            with pytest.raises(ConfigurationError, match="planned but not finished"), plan():
                pass
        else:
            played.stale.append((plan(), evaluation, len(played.committed)))

    @precondition(lambda self: any(played.stale for played in self.runs))
    @rule(number=st.integers(0, 3))
    def finish_what_was_planned_before(self, number):
        waiting = [played for played in self.runs if played.stale]
        played = waiting[number % len(waiting)]
        plan, evaluation, committed = played.stale.pop()
        predictions = {branch.name: evaluation.predicted(branch.name) for branch in plan.own_branches}
        if committed == len(played.committed):
            self.lasts(played, evaluation, plan.finish(predictions))
            predictions, says = {}, "already finished"
        else:
            says = "made before another was finished"
        with pytest.raises(ConfigurationError, match=says):
            plan.finish(predictions)

    @rule(**DRAWN)
    def wrong_prediction(self, **given):
        played, evaluation = self.chosen(**given)
        if not played.may_turn_to(evaluation.index):
            return
        plan = played.run.plan(evaluation.index, evaluation.sample, sigma=evaluation.sigma)
        if plan.own_branches:
            with pytest.raises(Exception, match=r"is missing|must be a dict"):
                plan.finish({plan.own_branches[0].name: torch.zeros(1)})
        else:
            plan.finish({})  # every output is held
            played.run, committed = started(played.spec), played.committed
            for each in committed:
                made(played.run, each)
            played.stale.clear()

    @invariant()
    def runs_have_numbers_of_their_own(self):
        assert len({played.run.id for played in self.runs}) == len(self.runs)


TestRuns = Runs.TestCase
TestRuns.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
