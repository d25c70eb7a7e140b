"""What a host can do with a run beyond its steps: find them by sigma, look back, copy, save, and change the batch."""

from __future__ import annotations

import copy
import io
import itertools
import math
import pickle

import attrs
import pytest
import torch
from small_methods import text

from guidance_core import ConfigurationError, Guidance, Needs, OverwrittenError, hookimpl
from guidance_plugins import APG, CADS, CFG, LTX2, STG, Gate, Interval, Rescale

CONDITIONS = {"positive": {"text": text(seed=1)}, "negative": {"text": text(seed=2)}}
SIGMAS = [8.0, 5.0, 3.0, 1.5, 0.6, 0.0]
X = 8 * torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(3))


def start(plugins, **changed):
    given = {"conditions": CONDITIONS, "sigmas": SIGMAS, "prediction_type": "x0", "alphas": 1.0} | changed
    return Guidance(plugins).start(**given)


def model(x, sigma, inputs):
    """A denoiser in x0: nearer to the text the less noise there is."""
    return (x + sigma**2 * torch.tanh(inputs["text"])) / (1 + sigma**2)


def by_sigma(run, **more):
    """Return the guided model of a host that knows only sigma."""
    return lambda x, sigma: run.step_at(sigma, x, lambda branch: model(x, branch.sigma, branch.inputs), **more)


def by_hand(scale):
    """Return what the same host would write itself."""

    def guided(x, sigma):
        c, u = (model(x, sigma, CONDITIONS[name]) for name in ("positive", "negative"))
        return u + scale * (c - u)

    return guided


def euler(denoised, x, sigmas):
    for sigma, following in itertools.pairwise(sigmas):
        x = x + (following - sigma) * (x - denoised(x, sigma)) / sigma
    return x


def heun(denoised, x, sigmas):
    for sigma, following in itertools.pairwise(sigmas):
        slope = (x - denoised(x, sigma)) / sigma
        moved = x + (following - sigma) * slope
        if following:
            slope = (slope + (moved - denoised(moved, following)) / following) / 2
            moved = x + (following - sigma) * slope
        x = moved
    return x


def dpm_2(denoised, x, sigmas):
    for sigma, following in itertools.pairwise(sigmas):
        slope = (x - denoised(x, sigma)) / sigma
        if following:
            middle = math.exp((math.log(sigma) + math.log(following)) / 2)
            between = x + (middle - sigma) * slope
            slope = (between - denoised(between, middle)) / middle
        x = x + (following - sigma) * slope
    return x


def churned(denoised, x, sigmas):
    noise = torch.Generator().manual_seed(5)
    for sigma, following in itertools.pairwise(sigmas):
        raised = sigma * 1.2
        x = x + (raised**2 - sigma**2) ** 0.5 * torch.randn(x.shape, generator=noise)
        x = x + (following - raised) * (x - denoised(x, raised)) / raised
    return x


def res_2s(denoised, x, sigmas):
    for sigma, following in itertools.pairwise(sigmas):
        if not following:
            return denoised(x, sigma)
        h = math.log(sigma / following)
        middle = sigma * math.exp(-h / 2)
        first = denoised(x, sigma)
        half = math.exp(-h / 2) * x + (1 - math.exp(-h / 2)) * first
        second = denoised(half, middle)
        b2 = (math.exp(-h) - 1 + h) / (h / 2)
        b1 = 1 - math.exp(-h) - b2
        x = math.exp(-h) * x + b1 * first + b2 * second
    return x


def restart(denoised, x, sigmas):
    noise = torch.Generator().manual_seed(6)
    for sigma, following in itertools.pairwise(sigmas):
        if following > sigma:
            x = x + (following**2 - sigma**2) ** 0.5 * torch.randn(x.shape, generator=noise)
        else:
            x = x + (following - sigma) * (x - denoised(x, sigma)) / sigma
    return x


RISING = [8.0, 5.0, 3.0, 1.5, 5.0, 3.0, 1.5, 5.0, 3.0, 1.5, 0.6, 0.0]
SAMPLERS = [euler, heun, dpm_2, churned, res_2s, restart]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.__name__)
def test_a_sampler_that_knows_only_sigma_gets_the_same_as_by_hand(sampler):
    sigmas = RISING if sampler is restart else SIGMAS
    run = start([CFG(3.0)], sigmas=sigmas, may_rise=True)
    torch.testing.assert_close(sampler(by_sigma(run), X, sigmas), sampler(by_hand(3.0), X, sigmas))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.__name__)
def test_windows_and_state_follow_the_steps_that_sigma_finds(sampler):
    """The interval sees each evaluation's own sigma; momentum grows once a step."""
    seen, sigmas = [], RISING if sampler is restart else SIGMAS

    @attrs.frozen
    class Counts:
        @hookimpl
        def build_branches(self, step):
            return [Needs()]

        @hookimpl
        def postprocess(self, step, guided, reference):
            step.state["count"] = step.state.get("count", 0) + 1
            seen.append((step.index, step.evaluation, step.sigma, step.state["count"]))
            return None

    run = start([CFG(3.0), Interval(1.0, 4.0, methods=("cfg",)), Counts()], sigmas=sigmas, may_rise=True)
    sampler(by_sigma(run), X, sigmas)
    indices = [index for index, *_ in seen]
    assert indices == sorted(indices), "a run does not go back"
    for place, (index, evaluation, sigma, _) in enumerate(seen):
        assert evaluation == indices[:place].count(index)
        assert abs(sigmas[index] - sigma) == min(abs(each - sigma) for each in sigmas[index:-1])
    firsts = [count for _, evaluation, _, count in seen if not evaluation]
    assert firsts == list(range(1, len(firsts) + 1))
    assert run.passes == len(seen) + sum(1.0 <= sigma <= 4.0 for _, _, sigma, _ in seen)


def test_a_sampler_by_sigma_equals_the_same_by_index():
    def by_index(run):
        steps = iter(range(len(SIGMAS)))
        return lambda x, sigma: run.step(next(steps), x, lambda branch: model(x, branch.sigma, branch.inputs))

    plugins = [APG(3.0, momentum=-0.5), Rescale(0.7)]
    assert torch.equal(
        euler(by_sigma(start(plugins)), X, SIGMAS),
        euler(by_index(start(plugins)), X, SIGMAS),
    )


def test_a_level_that_is_found_needs_its_alpha_where_the_schedule_has_alphas():
    run = start([CFG(3.0), Rescale(space="epsilon")], alphas=[0.1, 0.2, 0.3, 0.5, 0.9])
    run.step_at(5.0, X, lambda branch: X + 0)
    with pytest.raises(ConfigurationError, match=r"needs alpha: give this step alpha=\.\.\. beside sigma="):
        run.step_at(4.0, X, lambda branch: X + 0)
    run.step_at(4.0, X, lambda branch: X + 0, alpha=0.25)


@pytest.mark.parametrize("sigma", [-1.0, math.nan, "3", None, {"video": 1.0}, {}])
def test_a_level_that_cannot_be_found(sigma):
    with pytest.raises(ConfigurationError, match="sigma"):
        start([CFG(3.0)]).step_at(sigma, X, lambda branch: X + 0)


def test_levels_that_rise_again_are_refused_unless_the_host_says_so():
    with pytest.raises(ConfigurationError, match=r"must be sorted .*start\(may_rise=True\)"):
        start([CFG(3.0)], sigmas=RISING)
    run = start([CFG(3.0), Gate(lo=0.5)], sigmas=RISING, may_rise=True)
    for index in range(run.count):
        assert run.step(index, X, lambda branch: X + len(branch.name)).isfinite().all()


def test_a_method_may_see_every_evaluation():
    @attrs.frozen
    class Counts:
        every_evaluation = True

        @hookimpl
        def postprocess(self, step, guided, reference):
            step.state["count"] = step.state.get("count", 0) + 1
            counts.append(step.state["count"])
            return None

    counts = []
    run = start([Counts()])
    for index in (0, 0, 0, 1):
        run.step(index, X, lambda branch: X + 0)
    assert counts == [1, 2, 3, 4]


# Looking back.


def test_a_run_tells_the_predictions_of_its_last_evaluation():
    run = start([CFG(3.0), STG(1.0, blocks=(1,), start=0.5)])
    assert run.last is None
    for index, names in ((0, {"cond", "uncond"}), (0, {"cond", "uncond"}), (4, {"cond", "uncond", "perturbed"})):
        made = {}

        def denoise(branch, made=made):
            return made.setdefault(branch.name, X * len(branch.name))

        run.step(index, X, denoise)
        assert run.last.index == index
        assert set(run.last.predictions) == names
        assert all(run.last.predictions[name] is made[name] for name in names)
        assert run.last.predictions.get("nothing") is None
    assert run.last.evaluation == 0


def test_predictions_come_back_in_the_structure_of_the_host():
    run = Guidance([LTX2()]).start(
        conditions={"positive": {}, "negative": {}},
        sigmas=[1.0, 0.0],
        prediction_type="flow",
        outputs=("video", "audio"),
    )
    run.step(0, (X, X[:, :2]), lambda branch: (X + 1, X[:, :2] + 2))
    video, audio = run.last.predictions["neg"]
    assert torch.equal(video, X + 1)
    assert torch.equal(audio, X[:, :2] + 2)


def test_what_failed_was_not_the_last_evaluation():
    run = start([CFG(3.0)])
    run.step(0, X, lambda branch: X * 1)

    with pytest.raises(ZeroDivisionError):
        run.step(1, X, lambda branch: 1 / 0)
    assert (run.last.index, set(run.last.predictions)) == (0, {"cond", "uncond"})


def test_a_run_tells_its_local_passes():
    run = start([CFG(3.0), Interval(1.0, 4.0)])
    assert [run.local_passes(index) for index in range(5)] == [1, 1, 2, 2, 1]
    with pytest.raises(ConfigurationError, match="out of range"):
        run.local_passes(5)


# Copies, and other batches.

STACKS = {
    "cfg": [CFG(3.0)],
    "momentum": [APG(3.0, momentum=-0.5)],
    "gate": [CFG(3.0), Gate(lo=0.6)],
    "per sample": [CFG(torch.tensor([2.0, 5.0])), Rescale({"output": torch.tensor([0.2, 0.9])})],
    "noise": [CADS(low=0.0, high=1.0), CFG(3.0)],
    "hold": [LTX2(cfg_scale=3.0, stg_scale=0.0, modality_scale=1.0, rescale_scale=0.7, skip_step=1)],
}


def made(run, indices, x=X, rows=slice(None)):
    """Return the results of some steps, each from a sample of its own."""

    def at(index):
        noisy = x * (1 + index)
        return run.step(index, noisy, lambda branch: model(noisy, branch.sigma, {"text": branch.inputs["text"]}))

    return [at(index) for index in indices]


@pytest.mark.parametrize("plugins", STACKS.values(), ids=STACKS)
def test_a_fork_goes_on_independently(plugins):
    alone, run = start(plugins, seeds=[1, 2]), start(plugins, seeds=[1, 2])
    expected = made(alone, range(5))
    made(run, range(2))
    other = run.fork()
    assert other.id != run.id
    made(other, [2, 3], x=X * 3)
    again = run.fork()
    for each in (run, again):
        assert all(torch.equal(a, b) for a, b in zip(made(each, range(2, 5)), expected[2:], strict=True))


def test_a_fork_may_have_seeds_of_its_own():
    run = start(STACKS["noise"], seeds=[1, 2])
    same, other = run.fork(), run.fork(seeds=[1, 3])
    first, second, third = (made(each, [0])[0] for each in (run, same, other))
    assert torch.equal(first, second)
    assert torch.equal(first[0], third[0])
    assert not torch.equal(first[1], third[1])
    assert (run.seeds, other.seeds) == ((1, 2), (1, 3))


def test_a_run_is_not_copied_or_pickled():
    run = start([CFG(3.0)])
    for how in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(ConfigurationError, match=r"run\.fork\(\) returns .*run\.state_dict\(\)"):
            how(run)


@pytest.mark.parametrize("plugins", STACKS.values(), ids=STACKS)
def test_a_saved_run_goes_on_in_another(plugins):
    alone = start(plugins, seeds=[1, 2])
    expected = made(alone, range(5))
    run = start(plugins, seeds=[1, 2])
    made(run, range(3))
    file = io.BytesIO()
    torch.save(run.state_dict(), file)
    file.seek(0)
    other = start(plugins, seeds=[7, 8])
    other.load_state_dict(torch.load(file, weights_only=True))
    assert (other.seeds, other.passes) == (run.seeds, run.passes)
    assert all(torch.equal(a, b) for a, b in zip(made(other, range(3, 5)), expected[3:], strict=True))


@pytest.mark.parametrize("data", [None, {}, 3, {"format": 2}, [], {"format": 1}])
def test_what_is_no_saved_run_is_refused(data):
    with pytest.raises(ConfigurationError, match=r"what run\.state_dict\(\) returned"):
        start([CFG(3.0)]).load_state_dict(data)


def test_a_saved_run_fits_its_methods_and_sigmas():
    data = start([CFG(3.0)]).state_dict()
    with pytest.raises(ConfigurationError, match="different methods or parameters"):
        start([CFG(4.0)]).load_state_dict(data)
    with pytest.raises(ConfigurationError, match="different sigmas"):
        start([CFG(3.0)], sigmas=[1.0, 0.5, 0.0]).load_state_dict(data)


@pytest.mark.parametrize("indices", [[1, 0], [1], [0, 0, 1], torch.tensor([1, 1])], ids=str)
@pytest.mark.parametrize("plugins", STACKS.values(), ids=STACKS)
def test_selected_samples_go_on_as_if_they_had_always_been_the_batch(plugins, indices):
    run = start(plugins, seeds=[1, 2])
    made(run, range(3))
    run.select(indices)
    rows = [int(index) for index in indices]
    conditions = {name: {"text": inputs["text"][rows]} for name, inputs in CONDITIONS.items()}
    if plugins is STACKS["per sample"]:
        values = {"output": torch.tensor([0.2, 0.9])[rows]}
        plugins = [CFG(torch.tensor([2.0, 5.0])[rows]), Rescale(values)]
    alone = start(plugins, seeds=[[1, 2][row] for row in rows], conditions=conditions)
    made(alone, range(3), x=X[rows])
    for one, other in zip(made(run, [3, 4], x=X[rows]), made(alone, [3, 4], x=X[rows]), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("indices", [[], [2], [-3], ["a"], 3, None, torch.tensor([True, False]), [0.5]])
def test_indices_of_other_samples_are_refused(indices):
    run = start([CFG(3.0)])
    with pytest.raises(ConfigurationError, match="no step was made yet"):
        run.select([0])
    made(run, [0])
    with pytest.raises(ConfigurationError, match="indices must be those of the samples to keep"):
        run.select(indices)
    made(run, [1])


def test_a_plan_made_before_a_selection_is_old():
    run = start([CFG(3.0)])
    made(run, [0])
    plan = run.plan(1, X)
    run.select([0])
    with pytest.raises(ConfigurationError, match="call plan"):
        run.finish(plan, {"cond": X * 1, "uncond": X * 2})


def test_an_object_in_the_state_selects_itself_or_is_refused():
    class Kept:
        def __init__(self, rows):
            self.rows = rows

        def select(self, indices):
            return Kept([self.rows[index] for index in indices])

    @attrs.frozen
    class Keeps:
        kept: object

        @hookimpl
        def postprocess(self, step, guided, reference):
            step.state.setdefault("kept", self.kept)
            seen.append(step.state["kept"])
            return None

    seen = []
    run = start([Keeps(Kept([5, 6]))])
    made(run, [0])
    run.select([1])
    made(run, [1], x=X[1:])
    assert seen[-1].rows == [6]
    run = start([Keeps(object())])
    made(run, [0])
    with pytest.raises(ConfigurationError, match="'keeps': its state 'kept' holds a object, whose samples cannot"):
        run.select([1])


# Noise levels of single elements.


def by_rows(x, sigmas):
    """Return `sigma_map` of two frames: the first is clean."""
    return torch.tensor(sigmas, dtype=x.dtype).view(1, -1, 1)


@pytest.mark.parametrize("kind", ["flow", "v"])
@pytest.mark.parametrize("shape", [(1, 3, 1), (2, 3, 1), (1, 3), (3,)])
def test_conversions_follow_the_noise_level_of_each_element(kind, shape):
    levels = torch.tensor([0.0, 0.3, 0.8])
    given = levels.expand(2, 3) if shape[0] == 2 else levels
    x, c, u = (torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(n)) for n in (1, 2, 3))
    run = start([CFG(3.0), Rescale(0.6, space="x0")], sigmas=[0.8, 0.0], prediction_type=kind, alphas=None)
    if shape == (3,):
        with pytest.raises(ConfigurationError, match="sigma_map of 'output' has shape"):
            run.step(0, x, lambda branch: c * 1 if branch.name == "cond" else u * 1, sigma_map=given)
        return
    guided = run.step(0, x, lambda b: c * 1 if b.name == "cond" else u * 1, sigma_map=given.reshape(shape))
    s = levels.double().view(1, 3, 1)
    a = 1 - s if kind == "flow" else (1 - s * s).sqrt()
    xd, cd, ud = x.double(), c.double(), u.double()

    def x0_of(p):
        return xd - s * p if kind == "flow" else a * xd - s * p

    x0 = x0_of(ud + 3 * (cd - ud))
    std = [each.flatten(1).std(1, correction=0).view(2, 1, 1) for each in (x0_of(cd), x0)]
    x0 = x0 * (0.6 * std[0] / std[1] + 0.4)
    expected = ((xd - x0) / s if kind == "flow" else (a * xd - x0) / s).nan_to_num(0.0, 0.0, 0.0)
    assert not guided[:, 0].any(), "what is clean does not move"
    torch.testing.assert_close(guided[:, 1:].double(), expected[:, 1:], rtol=1e-5, atol=1e-5)


def test_an_even_map_equals_the_level_itself():
    x = torch.randn(2, 3, 4)
    plugins = [APG(3.0, space="x0"), Rescale(0.6, space="x0")]
    results = []
    for more in ({}, {"sigma_map": torch.full((1, 3), 0.8)}):
        run = start(plugins, sigmas=[0.8, 0.0], prediction_type="flow", alphas=None)
        results.append(run.step(0, x, lambda branch: torch.tanh(x + len(branch.name)), **more))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


def test_windows_go_by_the_level_of_the_step():
    run = start([CFG(3.0), Interval(0.5, 1.0)], sigmas=[0.8, 0.4, 0.0], prediction_type="flow", alphas=None)
    for index in range(2):
        run.step(index, X, lambda branch: X + len(branch.name), sigma_map=torch.tensor([[0.0, 0.1, 0.2]]))
    assert run.passes == 3


@pytest.mark.parametrize(
    "given", [3, "x", [torch.ones(1)], torch.tensor([[-1.0, 0, 0]]), torch.tensor([[math.nan] * 3])]
)
def test_a_map_that_cannot_be_used(given):
    run = start([CFG(3.0)], sigmas=[0.8, 0.0], prediction_type="flow", alphas=None)
    with pytest.raises(ConfigurationError, match="sigma_map"):
        run.step(0, X, lambda branch: X + 0, sigma_map=given)


def test_a_map_needs_the_signal_level_of_each_element():
    run = start([CFG(3.0), Rescale(space="x0")], prediction_type="epsilon", sigmas=[0.8, 0.0], alphas=[0.6])
    with pytest.raises(ConfigurationError, match="only flow and v predictions imply it"):
        run.step(0, X, lambda branch: X + 0, sigma_map=torch.tensor([[0.1, 0.2, 0.3]]))


@pytest.mark.parametrize("space", ["x0", "epsilon", "flow", "v"])
@pytest.mark.parametrize("given", ["x0", "epsilon"])
def test_a_map_of_a_rectified_flow_gives_each_element_its_own_signal_level(given, space):
    sigma, x = torch.tensor([[0.8, 0.3, 0.1]]), torch.randn(1, 3)
    flows = {"cond": torch.randn(1, 3), "uncond": torch.randn(1, 3)}
    to = {
        "x0": lambda flow: x - sigma * flow,
        "epsilon": lambda flow: x + (1 - sigma) * flow,
    }[given]
    stack = [CFG(3.0), Rescale(space=space)]
    wanted = start(stack, prediction_type="flow", sigmas=[0.8, 0.0], alphas=None).step(
        0, x, lambda branch: flows[branch.name] * 1, sigma_map=sigma
    )
    guided = start(stack, prediction_type=given, sigmas=[0.8, 0.0], alphas=[1 - 0.8]).step(
        0, x, lambda branch: to(flows[branch.name]), sigma_map=sigma
    )
    torch.testing.assert_close(guided, to(wanted), rtol=1e-4, atol=1e-4)


# Predictions that cannot be converted.


def test_logits_of_tokens_are_guided():
    tokens = torch.randint(0, 9, (2, 3))
    c, u = torch.randn(2, 3, 9), torch.randn(2, 3, 9)
    scales = torch.tensor([2.0, 4.0])
    run = start([CFG(scales), Rescale(0.0)], prediction_type="other", sigmas=[1.0, 0.0], alphas=None)
    guided = run.step(0, tokens, lambda branch: c * 1 if branch.name == "cond" else u * 1)
    torch.testing.assert_close(guided, u + scales.view(2, 1, 1) * (c - u))
    run = start([APG(scales, space=None), Rescale(0.5)], prediction_type="other", sigmas=[1.0, 0.0], alphas=None)
    assert run.step(0, tokens, lambda branch: c * 1 if branch.name == "cond" else u * 1).shape == c.shape


@pytest.mark.parametrize("plugins", [[APG(3.0)], [CFG(3.0), Rescale(space="x0")]], ids=["apg", "rescale"])
def test_a_method_that_converts_is_refused_by_name(plugins):
    with pytest.raises(
        ConfigurationError, match=r"plugin '.*' works in x0: predictions of type 'other' cannot be conv"
    ):
        start(plugins, prediction_type="other", alphas=None)


def test_whole_numbers_are_no_sample_of_another_type():
    with pytest.raises(
        ConfigurationError, match=r"must be floating point; got torch.int64\. .*prediction_type='other'"
    ):
        start([CFG(3.0)]).step(0, torch.ones(2, 3, dtype=torch.int64), lambda branch: X + 0)
    run = start([CFG(3.0)], prediction_type="other", alphas=None)
    for shapes in ((2, 3), (3, 3, 9)):
        with pytest.raises(ConfigurationError.__mro__[1], match="but"):
            run.step(
                0,
                torch.ones(2, 3, dtype=torch.int64),
                lambda b, s=shapes: torch.ones(s if b.name == "cond" else (2, 4)),
            )


def test_what_was_selected_is_saved():
    plugins, settings = STACKS["per sample"], {"seeds": [1, 2]}
    run, alone = start(plugins, **settings), start(plugins, **settings)
    for each in (run, alone):
        made(each, [0])
        each.select([1, 0])
    made(run, [1])
    data = run.state_dict()
    expected = made(run, [2, 3])
    resumed = start(plugins)
    resumed.load_state_dict(data)
    assert all(torch.equal(one, two) for one, two in zip(made(resumed, [2, 3]), expected, strict=True))
    alone.select([0])  # of the samples that it has now
    alone.load_state_dict(data)
    assert all(torch.equal(one, two) for one, two in zip(made(alone, [2, 3]), expected, strict=True))
    assert (resumed.seeds, alone.seeds) == ((2, 1), (2, 1))


def test_a_fork_of_selected_samples_goes_on_with_them():
    run = start(STACKS["noise"], seeds=[1, 2])
    made(run, [0])
    run.select([1, 0])
    other = run.fork(seeds=[5, 6])
    other.select([1])
    assert other.seeds == (6,)
    seen = []
    other.step(1, X[:1], lambda branch: (seen.append(branch), X[:1] * 1)[1])
    assert seen[0].run_id == other.id
    assert torch.equal(seen[1].inputs["text"], CONDITIONS["negative"]["text"][:1])


def test_outputs_with_levels_of_their_own_need_each_of_them():
    run = Guidance([CFG(3.0)]).start(
        conditions=CONDITIONS,
        sigmas={"video": [1.0, 0.5, 0.0], "audio": [0.8, 0.3, 0.0]},
        prediction_type="flow",
        outputs=("video", "audio"),
    )
    sample = {"video": X, "audio": X}
    with pytest.raises(ConfigurationError, match="levels of their own: give sigma as a dict"):
        run.step_at(1.0, sample, lambda branch: {"video": X + 0, "audio": X + 0})
    run.step_at({"video": 0.5, "audio": 0.3}, sample, lambda branch: {"video": X + 0, "audio": X + 1})
    assert run.last.index == 1


def test_a_level_above_all_of_the_run_is_refused():
    with pytest.raises(ConfigurationError, match="sigma 999 lies above all noise levels"):
        start([CFG(3.0)]).step_at(999.0, X, lambda branch: X + 0)


@pytest.mark.parametrize("given", [[[0.0, 800.0, 800.0]], [[0.0, 1.5, 0.2]]])
def test_timesteps_are_no_noise_levels(given):
    run = start([CFG(3.0)], sigmas=[0.8, 0.0], prediction_type="flow", alphas=None)
    with pytest.raises(ConfigurationError, match=r"sigma_map of 'output' must lie in \[0, 1\]"):
        run.step(0, X, lambda branch: X + 0, sigma_map=torch.tensor(given))


def test_a_map_does_not_replace_signal_levels_of_the_host():
    run = start([CFG(3.0), Rescale(space="x0")], prediction_type="v", sigmas=[0.8, 0.0], alphas=[0.9])
    with pytest.raises(ConfigurationError, match="needs the signal level of each element"):
        run.step(0, X, lambda branch: X + 0, sigma_map=torch.tensor([[0.1, 0.2, 0.3]]))


def test_writes_into_the_sample_are_seen_whichever_step_is_the_first():
    for begin in (0, 2):
        x = X.clone()
        with pytest.raises(OverwrittenError, match="the sample"):
            start([CFG(3.0)]).step(begin, x, lambda branch, x=x: x.add_(1.0) * 1)
