"""Runs: state, windows, reuse, held outputs, and what a failed step leaves behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import attrs
import pytest
import torch
from test_algebra import BOTH, draw, predict
from torch.utils._python_dispatch import TorchDispatchMode

from guidance_core import (
    Branch,
    ConfigurationError,
    Cosine,
    Guidance,
    Hold,
    Linear,
    Needs,
    PerOutput,
    PluginError,
    SkipBlocks,
    SkipSelfAttention,
    hookimpl,
)
from guidance_core.algebra.digest import PARTS
from guidance_plugins import APG, CFG, LTX2, Gate, Interval, Rescale


def flow_run(plugins, sigmas, **settings):
    return Guidance(plugins).start(conditions=BOTH, sigmas=sigmas, prediction_type="flow", **settings)


def test_interval_limits_the_method_to_its_window():
    run = flow_run([CFG(3.0), Interval(0.3, 0.7)], [1.0, 0.7, 0.5, 0.3, 0.1, 0.0])
    x = torch.zeros(1, 2)
    assert [len(run.plan(i, x).branches) for i in range(5)] == [1, 2, 2, 2, 1]


@pytest.mark.parametrize(
    "sigmas", [[1 - i / 10 for i in range(11)], torch.linspace(1, 0, 11), torch.linspace(0, 1, 11)]
)
def test_the_ends_of_an_interval_hold_for_rounded_sigmas(sigmas):
    run = flow_run([CFG(3.0), Interval(0.2, 0.8)], sigmas)
    assert sum(len(layout.branches) == 2 for layout in run.layouts) == 7


def strengths(plugin, **given):
    """Return how far each step moves away from the second branch."""
    groups = Guidance([plugin]).describe(**given).steps
    return [each.passes[1].strengths["output"] for each in groups for _ in range(each.first, each.last + 1)]


def test_a_schedule_by_fraction_reaches_its_end_at_the_last_step():
    assert strengths(CFG(Linear(7, 2)), steps=5) == ["6", "4.75", "3.5", "2.25", "1"]
    assert strengths(CFG(Cosine(7, 2)), steps=3) == ["6", "3.5", "1"]
    assert strengths(CFG(Linear(7, 2)), steps=1) == ["6"]


def test_a_schedule_by_sigma_reaches_its_end_at_sigma_0():
    assert strengths(CFG(Linear(7, 2, by="sigma")), sigmas=[0.8, 0.4, 0.0, 0.0]) == ["6", "3.5", "1"]


def test_a_tensor_parameter_stays_as_it_was_given():
    scale = torch.tensor([1.0, 3.0])
    guidance = Guidance([CFG(scale)])
    scale.fill_(9.0)
    assert guidance == Guidance([CFG(torch.tensor([1.0, 3.0]))])


def test_interval_may_limit_one_method_of_several():
    run = flow_run([CFG(3.0), LTX2(cfg_scale=2.0), Interval(0.6, 1.0, methods="cfg")], [1.0, 0.5, 0.0])
    plans = [[branch.name for branch in run.plan(i, torch.zeros(1, 2)).branches] for i in range(2)]
    assert plans == [
        ["cond", "uncond", "neg", "perturbed", "modality"],
        ["cond", "neg", "perturbed", "modality"],
    ]


def test_gate_reuses_the_guidance_of_the_step_before():
    run = flow_run([CFG(3.0), Gate(0.5)], [1.0, 0.75, 0.5, 0.25, 0.0])
    x, steps = torch.zeros(1, 2), draw(0, 1, 2, count=8)
    results, passes = [], []
    for i in range(4):
        predictions = {"cond": steps[2 * i], "uncond": steps[2 * i + 1]}
        plan = run.plan(i, x)
        passes.append([branch.name for branch in plan.branches])
        results.append(run.finish(plan, {name: predictions[name] for name in passes[-1]}))
    assert passes == [["cond", "uncond"], ["cond", "uncond"], ["cond"], ["cond"]]
    delta = 2.0 * (steps[2] - steps[3])
    torch.testing.assert_close(results[2], steps[4] + delta)
    torch.testing.assert_close(results[3], steps[6] + delta)


@pytest.mark.parametrize("is_first", [False, True])
def test_gate_stores_nothing_where_interval_allows_no_guidance(is_first):
    gate, interval = Gate(0.25), Interval(0.1, 0.5)
    run = flow_run([gate, CFG(3.0), interval] if is_first else [interval, CFG(3.0), gate], [0.9, 0.8, 0.5, 0.25, 0.0])
    steps = draw(0, 1, 2, count=8)
    results, passes = [], []
    for i in range(4):
        predictions = {"cond": steps[2 * i], "uncond": steps[2 * i + 1]}
        plan = run.plan(i, torch.zeros(1, 2))
        passes.append([branch.name for branch in plan.branches])
        results.append(run.finish(plan, {name: predictions[name] for name in passes[-1]}))
    assert passes == [["cond"], ["cond"], ["cond", "uncond"], ["cond"]]
    assert torch.equal(results[1], steps[2])
    torch.testing.assert_close(results[2], steps[4] + 2.0 * (steps[4] - steps[5]))
    torch.testing.assert_close(results[3], steps[6] + 2.0 * (steps[4] - steps[5]))


def test_gate_runs_in_full_where_the_model_changes():
    run = flow_run([CFG(3.0), Gate(0.5)], [1.0, 0.75, 0.5, 0.25, 0.0])
    counts = []
    for i, model in enumerate(["high", "high", "low", "low"]):
        plan = run.plan(i, torch.zeros(1, 2), model=model)
        counts.append(len(plan.branches))
        run.finish(plan, {branch.name: torch.ones(1, 2) for branch in plan.branches})
    assert counts == [2, 2, 2, 1]


def test_gate_after_held_steps_stores_before_it_reuses():
    run = flow_run([LTX2(cfg_scale=3.0, skip_step=1), Gate(0.5)], [1 - i / 8 for i in range(9)])
    counts = []
    for i in range(8):
        plan = run.plan(i, torch.zeros(1, 2))
        counts.append(len(plan.branches))
        result = run.finish(plan, {b.name: p for b, p in zip(plan.branches, draw(i, 1, 2, count=4), strict=False)})
        assert torch.isfinite(result).all()
    assert counts == [4, 0, 4, 0, 4, 0, 1, 0]
    assert [len(group.passes) for group in run.describe().steps] == counts


def test_ltx2_skip_step_keeps_the_last_x0():
    sigmas = [1.0, 0.8, 0.6, 0.4, 0.2, 0.0]
    run = flow_run([LTX2(skip_step={"video": 1, "audio": 3})], sigmas, outputs=("video", "audio"))
    counts, x0s = [], []
    for i in range(5):
        video, audio, *passes = draw(i, 1, 4, 3, count=10)
        plan = run.plan(i, (video, audio))
        counts.append(len(plan.branches))
        predictions = {b.name: (passes[2 * n], passes[2 * n + 1]) for n, b in enumerate(plan.branches)}
        result = run.finish(plan, predictions)
        x0s.append([x - sigmas[i] * v for x, v in zip((video, audio), result, strict=True)])
    assert counts == [4, 0, 4, 0, 4]
    torch.testing.assert_close(x0s[1][0], x0s[0][0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(x0s[2][1], x0s[0][1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(x0s[2][0], x0s[0][0])


@pytest.mark.parametrize("weakened", ["video", "audio"])
def test_ltx2_perturbs_only_the_outputs_that_stg_moves(weakened):
    other = {"video": "audio", "audio": "video"}[weakened]
    plugin = LTX2(stg_scale={weakened: 1.5, other: 0.0}, stg_blocks=(28, 29))
    run = flow_run([plugin], [1.0, 0.0], outputs=("video", "audio"))
    passes = {branch.name: branch.perturbations for branch in run.layouts[0].branches}
    assert passes["perturbed"] == (SkipSelfAttention((28, 29), weakened),)


def test_ltx2_parameters_by_sigma_follow_the_bins_of_ltx_core():
    guidance = Guidance([LTX2.by_sigma({0.5: {"cfg_scale": 1.0}, 0.9: {"cfg_scale": 3.0}})])
    run = guidance.start(conditions=BOTH, sigmas=[1.0, 0.9, 0.6, 0.5, 0.2, 0.0], prediction_type="flow")
    has_neg = ["neg" in {b.name for b in run.plan(i, torch.zeros(1, 2)).branches} for i in range(5)]
    assert has_neg == [True, True, True, False, False]


def test_blocks_by_sigma_may_differ_by_output():
    rows = {
        0.5: {"stg_blocks": PerOutput(video=(1,), audio=None)},
        1.0: {"stg_blocks": PerOutput(video=(1, 2), audio=())},
    }
    run = flow_run([LTX2.by_sigma(rows)], [1.0, 0.5, 0.0], outputs=("video", "audio"))
    passes = [
        next(branch.perturbations for branch in layout.branches if branch.name == "perturbed") for layout in run.layouts
    ]
    assert passes == [
        (SkipSelfAttention((1, 2), "video"),),
        (SkipSelfAttention((1,), "video"), SkipSelfAttention(None, "audio")),
    ]


@pytest.mark.parametrize(("midpoints", "evaluated"), [("held", 4), ("evaluated", 6)])
def test_midpoints_of_a_skipped_step_are_held_or_evaluated(midpoints, evaluated):
    run = flow_run([LTX2(**LTX2.neutral, skip_step=1, midpoints=midpoints)], [1.0, 0.8, 0.6, 0.4, 0.0])
    x, made = torch.zeros(1, 2), []

    def denoise(branch):
        made.append(branch.sigma)
        return torch.full((1, 2), -float(len(made)))

    results = []
    for index, sigma in enumerate([1.0, 0.8, 0.6, 0.4]):
        results.append(run.step(index, x, denoise) * -sigma)
        run.step(index, x, denoise, sigma=sigma - 0.1)
    assert len(made) == evaluated
    x0_of_the_midpoint = 2 * 0.9
    torch.testing.assert_close(results[1], torch.full((1, 2), x0_of_the_midpoint))  # the last x0 is repeated


STATEFUL = [APG(4.0, momentum=-0.5), Gate(0.7), Rescale(0.5)]
SIGMAS = [1 - i / 6 for i in range(7)]


def all_steps(run, seed):
    results = []
    for i in range(6):
        x, predictions = predict(100 * seed + i, 2, 5, 4)
        results.append(run.step(i, x, lambda branch, given=predictions: given[branch.name]))
    return results


def test_interleaved_runs_equal_runs_apart():
    guidance = Guidance(STATEFUL)

    def start():
        return guidance.start(conditions=BOTH, sigmas=SIGMAS, prediction_type="flow")

    apart = [all_steps(start(), seed) for seed in (1, 2)]
    runs = [start(), start()]
    for i in range(6):
        for seed, run in zip((1, 2), runs, strict=True):
            x, predictions = predict(100 * seed + i, 2, 5, 4)
            result = run.step(i, x, lambda branch, given=predictions: given[branch.name])
            assert torch.equal(result, apart[seed - 1][i])


def test_runs_in_threads_equal_runs_apart():
    guidance = Guidance(STATEFUL)

    def start():
        return guidance.start(conditions=BOTH, sigmas=SIGMAS, prediction_type="flow")

    apart = [all_steps(start(), seed) for seed in range(4)]
    together = [None] * 4

    def work(seed):
        together[seed] = all_steps(start(), seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(apart, together, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_failed_step_leaves_no_state():
    x, predictions = predict(1, 2, 5, 4)

    def broken(branch):
        if branch.name != "cond":
            raise RuntimeError("broken")
        return predictions["cond"]

    def last_result(failures):
        run = flow_run([APG(4.0, momentum=-0.5)], [1.0, 0.5, 0.2])
        run.step(0, x, lambda branch: predictions[branch.name])
        for _ in range(failures):
            with pytest.raises(RuntimeError, match="broken") as caught:
                run.step(1, x, broken)
            assert "branch 'uncond' of step 1" in caught.value.__notes__[0]
        return run.step(1, x, lambda branch: predictions[branch.name])

    assert torch.equal(last_result(0), last_result(3))


def test_every_forward_is_told_its_branch_step_and_evaluation():
    run = flow_run([CFG(3.0)], [1.0, 0.5, 0.0])
    seen = []

    def denoise(branch):
        seen.append((branch.name, branch.step, branch.evaluation, branch.run_id))
        return torch.zeros(1, 2)

    x = torch.zeros(1, 2)
    run.step(0, x, denoise)
    run.step(0, x, denoise, sigma=0.5)
    run.step(1, x, denoise)
    assert seen == [
        (name, step, evaluation, run.id) for step, evaluation in ((0, 0), (0, 1), (1, 0)) for name in ("cond", "uncond")
    ]


def test_a_plan_is_finished_once():
    run = flow_run([CFG(3.0)], [1.0, 0.0])
    plan = run.plan(0, torch.zeros(1, 2))
    predictions = {branch.name: torch.zeros(1, 2) for branch in plan.branches}
    run.finish(plan, predictions)
    with pytest.raises(ValueError, match="already finished"):
        run.finish(plan, predictions)


class NoLooking(TorchDispatchMode):
    """Raises where a value is read off a tensor, which on a GPU would wait for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.equal):
            raise AssertionError(f"{func} reads a tensor's values")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "spec",
    [
        "cfg:scale=3,rescale:phi=0.7",
        "cfg:scale=tensor([1, 4]),rescale:phi=tensor([0, 0.5])",
        "ltx2:preset=2.3,cfg_scale=3,skip_step=1",
        "apg:scale=4,momentum=-0.5,threshold=3",
        "cfg-zero-star:scale=4,normalize:form=match,gate:lo=0.5",
        "stg:scale=1,blocks=3,interval:lo=0.2,hi=0.8,normalize:limit=0.9",
    ],
)
def test_a_step_reads_no_value_off_a_tensor(spec):
    with NoLooking(), pytest.raises(AssertionError, match="reads a tensor's values"):
        torch.ones(1).item()
    run = flow_run(list(Guidance.from_spec(spec).plugins), SIGMAS)
    for i in range(6):
        x, predictions = predict(i, 2, 5, 4)
        with NoLooking():
            run.step(i, x, lambda branch, given=predictions: given[branch.name])


@attrs.frozen
class Around:
    """Writes down when it is entered and left."""

    name: str
    log: list = attrs.field(eq=False)

    @hookimpl(wrapper=True)
    def build_branches(self, step):
        self.log.append(f"{self.name} in")
        asked = yield
        self.log.append(f"{self.name} out")
        return asked


def test_later_plugins_wrap_earlier_ones():
    log = []
    flow_run([Around("first", log), Around("second", log)], [1.0, 0.0])
    assert log == ["second in", "first in", "first out", "second out"]


def correcting(name, log, **order):
    """Make a plugin whose correction writes its name down."""

    def postprocess(self, step, guided, reference):
        log.append(name)

    return attrs.frozen(type(name, (), {"postprocess": hookimpl(postprocess, **order), "__annotations__": {}}))()


def test_tryfirst_and_trylast_stand_before_and_after_all_others():
    log = []
    plugins = [
        correcting("Last", log, trylast=True),
        correcting("Second", log),
        correcting("Third", log),
        correcting("First", log, tryfirst=True),
    ]
    flow_run(plugins, [1.0, 0.0]).step(0, torch.zeros(1, 2), lambda branch: torch.ones(1, 2))
    assert log == ["First", "Second", "Third", "Last"]


@attrs.frozen
class Asks:
    """Asks for branches that equality does not look at."""

    branches: tuple[Branch, ...] = attrs.field(eq=False)

    @hookimpl
    def build_branches(self, step):
        return list(self.branches)


def away(name, **content):
    return Branch(name, **({"condition": "negative", "strength": 1.0} | content))


def test_the_costliest_branch_is_placed_first():
    guidance = Guidance([Asks((away("quick"), away("slow", cost=2.0)))])
    (steps,) = guidance.describe(1, ranks=2).steps
    assert (steps.ranks, steps.speedup) == (("slow", "cond, quick"), 2.0)


def test_a_thousand_ranks_are_described_within_a_second_and_in_a_few_lines():
    guidance = Guidance.from_spec("stg:blocks=1,cfg:scale=linear(1, 7)")
    begun = time.process_time()
    description = guidance.describe(100, ranks=1024)
    text = str(description)
    assert time.process_time() - begun < 1.0
    assert all(len(steps.ranks) == 1024 for steps in description.steps)
    assert "rank 0: cond; rank 1: perturbed; rank 2: uncond; ranks 3 to 1023: idle" in text
    assert len(text) < 100_000


def test_a_step_without_branches_leaves_every_rank_idle_and_gains_nothing():
    _, held = Guidance([LTX2(cfg_scale=3.0, skip_step=1)]).describe(2, ranks=2).steps
    assert (held.passes, held.ranks, held.speedup) == ((), ("idle", "idle"), 1.0)


@pytest.mark.parametrize("costs", [(1.0, 2.0), (2.0, 1.0)])
def test_a_branch_costs_what_the_one_who_expects_most_says(costs):
    asking = [Asks((away("shared", cost=cost),)) for cost in costs]
    (steps,) = Guidance([*asking, Asks((away("other"),))]).describe(1, ranks=2).steps
    assert (steps.ranks, steps.speedup) == (("shared", "cond, other"), 2.0)


@pytest.mark.parametrize(
    "content",
    [
        {"condition": "positive"},
        {"perturbations": (SkipBlocks((1,)),)},
        {"overrides": {"text": "other"}},
        {"overrides": {"text": "this", "more": 1}},
        {"model": "other"},
        {"cost": 2.0},
    ],
    ids=lambda content: ", ".join(content),
)
def test_a_plan_whose_branch_differs_has_another_fingerprint(content):
    def parts(**changed):
        run = flow_run([Asks((away("u", **({"overrides": {"text": "this"}} | changed)),))], [1.0, 0.0])
        return dict(zip(PARTS, run.plan(0, torch.zeros(1, 2)).fingerprint, strict=False))

    one, other = parts(), parts(**content)
    assert parts() == one
    told = {part for part in one if one[part] != other[part]}
    assert told == {"branches", "methods or their parameters"}  # what `Asks` asks for is a parameter


@attrs.frozen
class Holds:
    @hookimpl
    def build_branches(self, step):
        return [Hold()]


def test_there_is_nothing_to_hold_before_the_first_result():
    run = flow_run([Holds()], [1.0, 0.5, 0.0])
    assert len(run.plan(0, torch.zeros(1, 2)).branches) == 1
    run.step(0, torch.zeros(1, 2), lambda branch: torch.ones(1, 2))
    assert len(run.plan(1, torch.zeros(1, 2)).branches) == 0


@attrs.frozen
class HoldsInTurn:
    """Holds one of two outputs while the other is evaluated."""

    @hookimpl
    def build_branches(self, step):
        return [Hold(((), ("audio",), ("video",), ("audio",))[step.index])]


def test_an_output_keeps_its_last_x0_whatever_another_one_holds_meanwhile():
    run = Guidance([HoldsInTurn()]).start(
        conditions=BOTH, sigmas=[1.0, 0.7, 0.5, 0.3, 0.0], prediction_type="x0", outputs=("video", "audio")
    )
    found = []
    for i in range(4):
        x = torch.zeros(1, 2)
        video, audio = run.step(i, (x, x), lambda branch, i=i, x=x: (x + i, x + 10 * i))
        found.append((video[0, 0].item(), audio[0, 0].item()))
    assert found == [(0, 0), (1, 0), (1, 20), (3, 20)]


def test_a_held_result_may_be_changed_in_place():
    run = Guidance([Holds()]).start(conditions=BOTH, sigmas=[1.0, 0.7, 0.4, 0.0], prediction_type="x0")
    results = [run.step(i, torch.zeros(1, 2), lambda branch: torch.ones(1, 2)).add_(1) for i in range(3)]
    assert all(torch.equal(result, torch.full((1, 2), 2.0)) for result in results)


@attrs.frozen
class Counts:
    """Counts in its state how often each hook was called, and adds the count."""

    fails: dict = attrs.field(eq=False)

    @hookimpl
    def build_branches(self, step):
        step.shared["built"] = step.shared.get("built", 0) + 1
        return [Needs()]

    @hookimpl
    def combine(self, step, predictions):
        if self.fails.get(step.output):
            raise RuntimeError("broken")
        step.state["combined"] = step.state.get("combined", 0) + 1
        return torch.full_like(predictions["cond"], 10.0 * step.shared["built"] + step.state["combined"])


def test_what_fails_changes_no_state_however_often_it_is_tried():
    fails = {}
    run = flow_run([Counts(fails)], [1.0, 0.5, 0.0], outputs=("video", "audio"))
    x = (torch.zeros(1, 2), torch.zeros(1, 3))
    before = run.step(0, x, lambda branch: x)[0][0, 0]  # built and combined once (and built as it started)

    def broken(branch):
        raise RuntimeError("no forward")

    for _ in range(2):
        with pytest.raises(RuntimeError):
            run.step(1, x, broken)
    fails["audio"] = True  # video has been combined by then
    plan = run.plan(1, x)
    for _ in range(2):
        with pytest.raises(PluginError):
            run.finish(plan, {"cond": x})
    fails.clear()
    video, audio = run.finish(plan, {"cond": x})
    assert video[0, 0] == audio[0, 0] == before + 11


@attrs.frozen
class Remembers:
    """Returns what the last step's guided prediction was."""

    wrapped: Callable[[torch.Tensor], Any] = attrs.field(eq=False)
    "How it is put away, and taken out again."
    unwrapped: Callable[[Any], torch.Tensor] = attrs.field(eq=False)

    @hookimpl
    def build_branches(self, step):
        return [Needs()]

    @hookimpl
    def postprocess(self, step, guided, reference):
        last = step.state.get("last")
        step.state["last"] = self.wrapped(guided)
        return None if last is None else self.unwrapped(last).clone()


@pytest.mark.parametrize(
    ("wrapped", "unwrapped"),
    [
        (lambda tensor: tensor, lambda kept: kept),
        (lambda tensor: [1, tensor], lambda kept: kept[1]),
        (lambda tensor: (1, tensor), lambda kept: kept[1]),
        (lambda tensor: {"it": tensor}, lambda kept: kept["it"]),
        (lambda tensor: {"it": [(tensor, None)]}, lambda kept: kept["it"][0][0]),
    ],
    ids=["tensor", "list", "tuple", "dict", "nested"],
)
def test_large_tensors_in_the_state_are_not_overwritten(wrapped, unwrapped):
    run = flow_run([CFG(2.0), Remembers(wrapped, unwrapped)], [1.0, 0.7, 0.4, 0.0])
    x, guided, results = torch.zeros(2, 100_000), [], []
    for i in range(3):
        c, u = draw(i, 2, 100_000, count=2)
        guided.append(2 * c - u)
        results.append(run.step(i, x, lambda branch, c=c, u=u: c if branch.name == "cond" else u))
    torch.testing.assert_close(results[1], guided[0])
    torch.testing.assert_close(results[2], guided[1])
    torch.testing.assert_close(results[0], guided[0])


class Kept(NamedTuple):
    """What a plugin may put into its state, beside plain containers."""

    last: torch.Tensor


@attrs.frozen
class KeepsInATuple:
    @hookimpl
    def build_branches(self, step):
        return [Needs()]

    @hookimpl
    def postprocess(self, step, guided, reference):
        seen.append(step.state["kept"].last.mean().item() if "kept" in step.state else None)
        step.state["kept"] = Kept(guided)


seen: list[float | None] = []


def test_what_is_kept_in_an_object_of_any_kind_stays_as_it_was():
    seen.clear()
    run = Guidance([KeepsInATuple()]).start(
        conditions={"positive": {}, "negative": {}}, sigmas=[1.0, 0.7, 0.4, 0.0], prediction_type="flow"
    )
    x = torch.zeros(1, 200_000, dtype=torch.bfloat16)  # large enough for a buffer of the run
    for step in range(3):
        run.step(step, x, lambda branch, step=step: torch.full_like(x, step + 1.0))
    assert seen == [None, 1.0, 2.0]


@attrs.frozen
class HoldsAtTheEnd:
    @hookimpl
    def build_branches(self, step):
        return [Hold()] if step.index == 1 else []


def test_an_x0_that_cannot_be_kept_is_an_error_before_any_forward():
    with pytest.raises(ConfigurationError, match="alpha"):
        Guidance([HoldsAtTheEnd()]).start(
            conditions={"positive": {}},
            sigmas=[1.0, 0.6, 0.0],
            alphas=[0.0, 0.8, 1.0],
            prediction_type="epsilon",
        )


@attrs.frozen
class HoldsTheSecondTime:
    @hookimpl
    def build_branches(self, step):
        return [Hold()] if step.evaluation else []


def test_a_hold_that_was_not_foreseen_is_an_error_and_never_ignored():
    run = Guidance([HoldsTheSecondTime()]).start(
        conditions={"positive": {}}, sigmas=[1.0, 0.5, 0.0], prediction_type="flow"
    )
    x = torch.zeros(1, 2)
    run.step(0, x, lambda branch: x)
    with pytest.raises(PluginError, match="holds output, which no step was to hold"):
        run.step(0, x, lambda branch: x, sigma=0.5)
