"""No result, and nothing that a run keeps, lies in memory that a later forward overwrites; what overlaps is refused."""

from __future__ import annotations

import random
from collections import deque
from types import SimpleNamespace
from typing import NamedTuple

import attrs
import memory_jobs
import pytest
import torch
from memory_jobs import CONDITIONS, SPECS, Model, drawn, sample

from guidance_core import (
    BatchedExecutor,
    Branch,
    DenoiserError,
    Guidance,
    Needs,
    OverwrittenError,
    PluginError,
    StackedDenoiser,
    hookimpl,
)
from guidance_core.algebra.memory import overlap

STATIC = {"one": Model("one"), "hidden": Model("one", is_hidden=True)}


def started(spec, **settings):
    return Guidance.from_spec(spec).start(
        **{"conditions": CONDITIONS, "sigmas": [1.0, 0.5, 0.0], "prediction_type": "flow", **settings}
    )


def bytes_of(tensor):
    """Return the address of every byte of a tensor's elements."""
    found = {tensor.data_ptr()}
    for stride, size in zip(tensor.stride(), tensor.shape, strict=True):
        found = {start + i * stride * tensor.element_size() for start in found for i in range(size)}
    return {start + byte for start in found for byte in range(tensor.element_size())}


def test_two_views_overlap_exactly_where_they_have_a_byte_in_common():
    source, memory, seen = random.Random(0), torch.zeros(2000), [0, 0]

    def view():
        dims = source.randint(0, 4)
        strides = [source.choice([0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 20, 30, 60, 120]) for _ in range(dims)]
        whole = memory.view(source.choice([torch.float32, torch.float16, torch.int8]))
        return whole.as_strided([source.randint(1, 4) for _ in range(dims)], strides, source.randint(0, 200))

    for _ in range(3000):
        one, other = view(), view()
        expected = bool(bytes_of(one) & bytes_of(other))
        seen[expected] += 1
        assert overlap(one, other) is overlap(other, one) is expected, (one.stride(), other.stride())
    assert min(seen) > 200


@pytest.mark.parametrize("spec", SPECS[:4])
@pytest.mark.parametrize("kind", STATIC)
def test_a_buffer_that_the_next_forward_overwrites_is_an_error_that_names_both_branches(spec, kind):
    with pytest.raises(OverwrittenError, match="memory") as caught:
        drawn("serial", spec, STATIC[kind])
    assert "'cond'" in str(caught.value)
    assert "'neg'" in str(caught.value) or "'uncond'" in str(caught.value)
    assert "reuses_memory" in str(caught.value)


@pytest.mark.parametrize("kind", ["one", "own", "new"])
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("executor", ["serial", "batched"])
def test_a_denoiser_that_says_it_reuses_memory_is_copied(spec, kind, executor):
    expected = drawn(executor, spec, Model())
    made = drawn(executor, spec, Model(kind, reuses_memory=True, is_hidden=True))
    assert all(map(torch.equal, made, expected))


@pytest.mark.parametrize("spec", SPECS)
def test_a_buffer_for_each_branch_needs_no_word(spec):
    """A step's result and what plugins keep are the run's own, however often the buffer is written."""
    assert all(map(torch.equal, drawn("serial", spec, Model("own", is_hidden=True)), drawn("serial", spec, Model())))


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_views_of_one_batched_result_may_interleave(dim):
    x = torch.zeros(3, 4, 5)
    whole = torch.cat([torch.ones(3, 4, 5), torch.zeros(3, 4, 5)], dim)
    made = dict(zip(("cond", "uncond"), whole.chunk(2, dim), strict=True))
    assert torch.equal(started("cfg:scale=3").step(0, x, lambda branch: made[branch.name]), torch.full_like(x, 3.0))
    every_second = torch.stack([torch.ones(3, 4, 5), torch.zeros(3, 4, 5)], dim + 1)
    made = dict(zip(("cond", "uncond"), every_second.unbind(dim + 1), strict=True))
    assert torch.equal(started("cfg:scale=3").step(0, x, lambda branch: made[branch.name]), torch.full_like(x, 3.0))


def halves(run, x, made):
    with run.plan(0, x) as plan:
        return plan.finish(made)


@pytest.mark.parametrize("way", [halves, lambda run, x, made: run.step(0, x, lambda branch: made[branch.name])])
def test_predictions_that_share_an_element_are_refused_however_they_are_given(way):
    memory, raw = torch.zeros(100), bytearray(400)
    overlapping = [
        (memory[:12].view(3, 4), memory[:12].view(3, 4)),
        (memory[:12].view(3, 4), memory[11:23].view(3, 4)),
        (memory[:24:2].view(3, 4), memory[22:46:2].view(3, 4)),
        (memory[:12].view(4, 3).T, memory[:12].view(3, 4)),
        (memory[:1].expand(3, 4), memory[:12].view(3, 4)),
        tuple(torch.frombuffer(raw, dtype=torch.float32, offset=at, count=12).view(3, 4) for at in (0, 16)),
    ]
    for cond, uncond in overlapping:
        with pytest.raises(OverwrittenError, match=r"'cond' and 'uncond' of step 0 overlap in memory \(output"):
            way(started("cfg:scale=3"), torch.ones(3, 4), {"cond": cond, "uncond": uncond})
    apart = (memory[:24:2].view(3, 4), memory[1:25:2].view(3, 4))
    way(started("cfg:scale=3"), torch.ones(3, 4), dict(zip(("cond", "uncond"), apart, strict=True)))


def test_outputs_of_one_call_may_share_memory_and_those_of_two_branches_not():
    run = started("cfg:scale=3", outputs=("video", "audio"))
    x, made = (torch.zeros(2, 3), torch.zeros(2, 3)), {name: torch.ones(2, 3) for name in ("cond", "uncond")}
    halves(run, x, {name: (tensor, tensor) for name, tensor in made.items()})
    crossed = {"cond": (made["cond"], made["uncond"]), "uncond": (torch.ones(2, 3), made["cond"])}
    with pytest.raises(OverwrittenError, match="outputs 'video' and 'audio'"):
        halves(started("cfg:scale=3", outputs=("video", "audio")), x, crossed)


def test_a_batch_that_returns_one_buffer_for_two_branches_is_refused_also_where_it_is_copied():
    for reuses_memory in (False, True):
        model = Model("one", reuses_memory=reuses_memory, is_hidden=True)
        host = SimpleNamespace(
            batch=lambda branches, model=model: list(map(model, branches)), reuses_memory=reuses_memory
        )
        with pytest.raises(OverwrittenError, match="'cond' and 'uncond'"):
            started("cfg:scale=3", executor="batched").step(0, sample(), model.at(sample()) and host)


@pytest.mark.parametrize("max_rows", [None, 4, 8])
@pytest.mark.parametrize("reuses_memory", [False, True])
def test_a_stacked_model_that_reuses_memory_is_copied_between_its_forwards(max_rows, reuses_memory):
    x, buffers = sample(), {}

    def model(x, k, shift):
        made = torch.sin(x * k + shift)
        return buffers.setdefault("", torch.empty(16, 6)).data[: len(made)].copy_(made)

    def stacked(model, **options):
        k = {name: {"k": torch.full((4, 1), value)} for name, value in (("positive", 1.0), ("negative", -2.0))}
        run = started("ltx2:cfg_scale=3,stg_scale=1", conditions=k, executor=BatchedExecutor(max_rows))
        adapt = lambda branch: {"shift": 0.5 * len(branch.perturbations)}
        return run.step(0, x, StackedDenoiser(model, {"x": x}, adapt=adapt, **options))

    if not reuses_memory:
        with pytest.raises(OverwrittenError, match="overlap in memory"):
            stacked(model)
        return
    expected = stacked(lambda **inputs: model(**inputs).clone())
    assert torch.equal(stacked(model, reuses_memory=True), expected)
    model.reuses_memory = True
    assert torch.equal(stacked(model), expected)


def test_a_host_that_runs_the_forwards_copies_with_the_plan():
    x, run, model = sample(), started("cfg:scale=3"), Model("one")
    with run.plan(0, x) as plan:
        made = plan.finish({branch.name: plan.copied(model.at(x)(branch)) for branch in plan.own_branches})
    assert torch.equal(made, started("cfg:scale=3").step(0, x, Model().at(x)))
    copied = plan.copied({"video": x, "audio": (x, [x])})
    assert copied["video"] is not x
    assert torch.equal(copied["audio"][1][0], x)


def test_a_forward_that_writes_into_an_earlier_prediction_is_named_though_nothing_overlaps():
    buffer = torch.empty(4, 6)

    def denoise(branch):
        buffer.copy_(torch.full((4, 6), branch.inputs["k"]))
        return buffer if branch.name == "cond" else buffer + 0.0

    with pytest.raises(OverwrittenError, match=r"branch 'cond' was written to by the denoiser for branch 'uncond'"):
        started("cfg:scale=3").step(0, sample(), denoise)


def test_slots_of_one_buffer_may_be_written_one_after_another():
    slots, x = torch.zeros(2, 4, 6), sample()

    def denoise(branch):
        return slots[int(branch.name == "uncond")].copy_(torch.sin(x * branch.inputs["k"]))

    assert torch.equal(started("cfg:scale=3").step(0, x, denoise), started("cfg:scale=3").step(0, x, Model().at(x)))


@pytest.mark.parametrize("guilty", ["cond", "uncond"])
@pytest.mark.parametrize("is_tuple", [False, True])
def test_a_denoiser_that_writes_into_the_sample_is_an_error_that_names_the_branch(guilty, is_tuple):
    x = (sample(0), sample(1)) if is_tuple else sample()

    def denoise(branch):
        if branch.name == guilty:
            (x[1] if is_tuple else x).mul_(0.5)
        return tuple(map(torch.clone, x)) if is_tuple else x.clone()

    run = started("cfg:scale=3", outputs=("video", "audio") if is_tuple else None)
    with pytest.raises(OverwrittenError, match=f"the sample.* was written to by the denoiser for branch '{guilty}' of"):
        run.step(0, x, denoise)


def test_a_sample_written_to_between_the_halves_or_in_a_batch_is_an_error():
    x = sample()
    run = started("cfg:scale=3")
    plan = run.plan(0, x)
    made = {branch.name: x.clone() for branch in plan.own_branches}
    x.add_(1.0)
    with pytest.raises(OverwrittenError, match="written to before step 0 was finished"):
        plan.finish(made)
    host = SimpleNamespace(batch=lambda branches: [x.add_(1.0).clone() for _ in branches])
    with pytest.raises(OverwrittenError, match=r"written to by denoise\.batch for branches cond, uncond"):
        started("cfg:scale=3", executor="batched").step(0, x, host)


@pytest.mark.parametrize("n", [6, 100_000])
@pytest.mark.parametrize("spec", SPECS)
def test_a_result_and_what_the_run_keeps_are_apart_from_the_host(spec, n):
    """The host may change a result, its sample and its predictions in place; later steps do not see it."""
    seen = []
    for in_place in (False, True):
        run, results = started(spec, sigmas=[1.0, 0.7, 0.4, 0.2, 0.0]), []
        for i in range(4):
            x, made = torch.linspace(-1, 1 + i, 2 * n).view(2, n), []

            def denoise(branch, x=x, made=made):
                made.append(torch.sin(x * branch.inputs["k"] + len(branch.perturbations)))
                return made[-1]

            result = run.step(i, x, denoise)
            assert all(result.data_ptr() != each.data_ptr() for each in (x, *made))
            results.append(result.clone())
            if in_place:
                for each in (result, x, *made):
                    each.fill_(torch.nan)
        seen.append(torch.stack(results))
    assert torch.equal(*seen)


class Pair(NamedTuple):
    """A named tuple with a tensor."""

    name: str
    tensor: torch.Tensor


@attrs.frozen
class Frozen:
    """A frozen object with a tensor."""

    tensor: torch.Tensor


class Slotted:
    """An object with slots."""

    __slots__ = ("tensor",)

    def __init__(self, tensor):
        self.tensor = tensor


@attrs.frozen
class Keeps:
    """Adds the last step's tensor of a kind to this step's."""

    what: str
    wrap: object = attrs.field(eq=False)
    unwrap: object = attrs.field(eq=False)

    @hookimpl
    def build_branches(self, step):
        return [Branch("uncond", condition="negative", required=True), Needs(reference=True)]

    @hookimpl
    def combine(self, step, predictions):
        if self.what not in ("cond", "a view"):
            return None
        cond = predictions["cond"]
        return self.delta(step, cond if self.what == "cond" else cond[:, 1:3])

    @hookimpl
    def postprocess(self, step, guided, reference):
        if self.what in ("cond", "a view"):
            return None
        tensor = {"guided": guided, "reference": reference.tensor, "sample": step.sample}[self.what]
        return guided + self.delta(step, tensor)

    def delta(self, step, tensor):
        last = self.unwrap(step.state["last"]).mean() if "last" in step.state else 0.0
        step.state["last"] = self.wrap(tensor)
        return torch.zeros_like(step.sample) + last


WAYS = {
    "tensor": (lambda kept: kept, lambda kept: kept),
    "nested": (lambda kept: {"a": [(1, kept)]}, lambda kept: kept["a"][0][1]),
    "deque": (lambda kept: deque([kept], maxlen=2), lambda kept: kept[0]),
    "named tuple": (lambda kept: Pair("a", kept), lambda kept: kept.tensor),
    "frozen object": (lambda kept: [Frozen(kept)], lambda kept: kept[0].tensor),
    "slots": (Slotted, lambda kept: kept.tensor),
    "object": (lambda kept: SimpleNamespace(inner={"a": kept}), lambda kept: kept.inner["a"]),
}


@pytest.mark.parametrize("n", [6, 100_000])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", ["cond", "a view", "guided", "reference", "sample"])
def test_what_a_plugin_keeps_is_not_overwritten_in_whatever_it_keeps_it(what, way, n):
    seen = []
    for is_static in (False, True):
        run = Guidance([Keeps(what, *WAYS[way])]).start(
            conditions=CONDITIONS, sigmas=[1.0, 0.7, 0.4, 0.0], prediction_type="flow"
        )
        buffers, x, results = {}, torch.empty(2, n), []
        for i in range(3):
            x.data.copy_(torch.linspace(-1, 1 + i, 2 * n).view(2, n))

            def denoise(branch, x=x, buffers=buffers, is_static=is_static):
                made = torch.sin(x * branch.inputs["k"])
                return buffers.setdefault(branch.name, torch.empty_like(made)).copy_(made) if is_static else made

            result = run.step(i, x if is_static else x.clone(), denoise)
            results.append(result.clone())
            result.fill_(torch.nan)
        seen.append(torch.stack(results))
    assert torch.equal(*seen)


class Uncopyable(Slotted):
    """An object that refuses to be copied."""

    __slots__ = ()

    def __copy__(self):
        raise TypeError("there is one of it")


def test_what_cannot_be_copied_is_refused_by_the_plugins_name():
    run = Guidance([Keeps("cond", Uncopyable, lambda kept: kept.tensor)]).start(
        conditions=CONDITIONS, sigmas=[1.0, 0.0], prediction_type="flow"
    )
    with pytest.raises(PluginError, match=r"'keeps' keeps a prediction.* in a Uncopyable that cannot be copied"):
        run.step(0, sample(), Model().at(sample()))


WAYS_ON_RANKS = [
    ("all_gather", {}),
    ("all_gather", {"split_rows": True}),
    ("all_gather", {"lockstep": True}),
    ("all_gather", {"batched": True}),
    ("all_reduce", {}),
]


@pytest.mark.parametrize(("name", "options"), WAYS_ON_RANKS)
@pytest.mark.parametrize("memory", ["one", "own", "new"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_on_ranks_reused_memory_is_copied_or_refused_and_results_stay(ranks, name, options, memory, count):
    """No step hands out memory that a later one overwrites, that of a payload included."""
    for spec in ("cfg:scale=3,rescale:phi=0.7", "ltx2:cfg_scale=3,stg_scale=1,modality_scale=2", "cfg:scale=1"):
        told = ranks.run(memory_jobs.on_ranks, name, spec, options, memory, True, ranks=count)
        assert told == ["equal"] * count, spec
        untold = ranks.run(memory_jobs.on_ranks, name, spec, options, memory, False, ranks=count)
        assert len(set(untold)) == 1
        if memory != "one":
            assert untold[0] == "equal", spec
        elif untold[0] != "equal":  # a rank that runs one branch may use one buffer
            assert untold[0].startswith("OverwrittenError"), spec
            assert "overlap in memory" in untold[0]
        elif not options.get("batched") and spec != "cfg:scale=1":
            assert count >= (3 if spec.startswith("ltx2") else 2)


def test_a_forward_that_is_thrown_away_may_not_overwrite_what_a_rank_keeps(ranks):
    spec, options = "ltx2:cfg_scale=3,stg_scale=1,modality_scale=1", {"lockstep": True}
    found = ranks.run(memory_jobs.on_ranks, "all_gather", spec, options, "one", False, 1, ranks=2)
    assert len(set(found)) == 1
    assert found[0].startswith("OverwrittenError: rank 1")
    assert "'cond (thrown away)'" in found[0]
    assert ranks.run(memory_jobs.on_ranks, "all_gather", spec, options, "one", True, 1, ranks=2) == ["equal"] * 2


@pytest.mark.parametrize("name", ["all_gather", "all_reduce"])
def test_a_denoiser_that_writes_into_the_sample_is_the_same_error_on_every_rank(ranks, name):
    for victim, branch in enumerate(("cond", "uncond")):
        found = ranks.run(memory_jobs.writes_into_the_sample, name, victim, ranks=2)
        assert len(set(found)) == 1
        assert found[0].startswith("OverwrittenError: rank")
        assert f"branch '{branch}'" in found[0]


@pytest.mark.parametrize("executor", ["serial", "batched"])
def test_a_prediction_that_is_not_dense_is_refused_by_name(executor):
    class Denoise:
        def __call__(self, branch):
            return torch.ones(2, 3).to_sparse() if branch.name == "uncond" else torch.ones(2, 3)

        def batch(self, branches):
            return [self(branch) for branch in branches]

    conditions = {"positive": {}, "negative": {}}
    run = Guidance.from_spec("cfg:scale=3").start(
        conditions=conditions, sigmas=[1.0, 0.0], prediction_type="flow", executor=executor
    )
    with pytest.raises(DenoiserError, match=r"'uncond' .* must be a dense tensor; got one with the layout sparse_coo"):
        run.step(0, torch.zeros(2, 3), Denoise())
