"""What plugins can say and see beyond branches, each proven by a small method with its formula in float64."""

from __future__ import annotations

import attrs
import pytest
import torch
from small_methods import Blurred, FirstTokens, Noised, NoisedCondition, Reflected, text

from guidance_core import (
    Amend,
    BlurredAttention,
    Branch,
    BranchConflictError,
    Capabilities,
    ConfigurationError,
    DenoiserError,
    Guidance,
    IdentityAttention,
    Linear,
    Needs,
    NormalizedAttention,
    PluginError,
    Schedule,
    SkipBlocks,
    SkipSelfAttention,
    Statistic,
    UnknownNameError,
    blocks,
    hookimpl,
    names,
    number,
    numbers,
)
from guidance_plugins import APG, CFG, NAG, STG, CFGPlusPlus, CFGZeroStar, Gate, Interval, Rescale, Universal

SIGMAS = [0.9, 0.6, 0.3, 0.0]
CONDITIONS = {"positive": {"text": text(seed=1)}, "negative": {"text": text(seed=2)}}
X = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(3))


def start(plugins, **changed):
    given = {"conditions": CONDITIONS, "sigmas": SIGMAS, "prediction_type": "flow", "seeds": [11, 12]} | changed
    return Guidance(plugins).start(**given)


def looks(sigma_of=lambda branch: branch.sigma):
    """Return a denoiser whose prediction depends on the text, and what it was given."""
    seen = []

    def denoise(branch):
        seen.append(branch)
        return torch.tanh(X + branch.inputs["text"]) * (1 + sigma_of(branch))

    return denoise, seen


# Amend: edits of a condition's inputs.


def test_an_edit_changes_every_pass_with_the_condition_cond_included():
    method = NoisedCondition(scale=0.5)
    run = start([method, CFG(3.0), STG(1.0, blocks=(1,))])
    denoise, seen = looks()
    run.step(0, X, denoise)
    by_name = {branch.name: branch.inputs["text"] for branch in seen}
    assert torch.equal(by_name["cond"], by_name["perturbed"])
    assert not torch.equal(by_name["cond"], CONDITIONS["positive"]["text"])
    assert by_name["uncond"] is CONDITIONS["negative"]["text"]


def test_the_noise_of_a_condition_is_scaled_as_in_the_paper():
    run = start([NoisedCondition(scale=0.5)])
    denoise, seen = looks()
    run.step(1, X, denoise)  # sigma 0.6: gamma = (0.8 - 0.6)/0.6
    gamma, given = 1 / 3, CONDITIONS["positive"]["text"]
    noise = (seen[0].inputs["text"] - gamma**0.5 * given) / (0.5 * (1 - gamma) ** 0.5)
    assert noise.shape == given.shape
    assert abs(float(noise.mean())) < 0.5
    assert 0.6 < float(noise.std()) < 1.4
    again, other = start([NoisedCondition(scale=0.5)]), start([NoisedCondition(scale=0.5)], seeds=[11, 13])
    for run, same in ((again, True), (other, False)):
        denoise, found = looks()
        run.step(1, X, denoise)
        assert torch.equal(found[0].inputs["text"][0], seen[0].inputs["text"][0])
        assert torch.equal(found[0].inputs["text"][1], seen[0].inputs["text"][1]) == same


def test_the_noise_of_a_sample_does_not_depend_on_its_batch_mates():
    denoise, seen = looks()
    start([NoisedCondition()]).step(1, X, denoise)
    alone = []

    def second(branch):
        alone.append(branch.inputs["text"])
        return X[1:] + 0.0

    conditions = {name: {"text": given["text"][1:]} for name, given in CONDITIONS.items()}
    start([NoisedCondition()], conditions=conditions, seeds=[12]).step(1, X[1:], second)
    assert torch.equal(alone[0][0], seen[0].inputs["text"][1])


def test_noise_is_another_at_each_step_and_the_same_at_each_evaluation_of_one():
    denoise, seen = looks()
    run = start([NoisedCondition(low=0.0, high=10.0)])
    for index in (0, 1, 1):
        run.step(index, X, denoise, **({"sigma": 0.6} if len(seen) == 2 else {}))
    first, second, again = (branch.inputs["text"] for branch in seen)
    assert torch.equal(second, again)
    assert not torch.equal(first, second)


def test_an_edit_is_made_once_a_pass_and_only_where_the_inputs_are_read():
    calls = []

    @attrs.frozen
    class Counts:
        @hookimpl
        def build_branches(self, step):
            return [Amend(edit=edit)]

    def edit(inputs, noise):
        calls.append(dict(inputs))
        return {}

    run = start([Counts()])
    run.step(0, X, lambda branch: X + len(branch.inputs) + len(branch.inputs))
    assert len(calls) == 1
    run.step(1, X, lambda branch: X + 0)
    assert len(calls) == 1


def test_a_host_that_holds_the_inputs_has_them_edited():
    run = start([NoisedCondition(low=0.0, high=1.0)], conditions={"positive": {}})
    held = CONDITIONS["positive"]["text"]
    seen = []

    def denoise(branch):
        seen.append(branch.amend({"text": held, "pooled": 3}))
        return X + 0

    run.step(0, X, denoise)
    direct, found = looks()
    start([NoisedCondition(low=0.0, high=1.0)]).step(0, X, direct)
    assert torch.equal(seen[0]["text"], found[0].inputs["text"])
    assert seen[0]["pooled"] == 3


def test_overrides_of_a_branch_win_over_edits_of_its_condition():
    @attrs.frozen
    class Random:
        @hookimpl
        def build_branches(self, step):
            return [Branch("random", overrides={"text": text(seed=9)}, strength=1.0)]

    denoise, seen = looks()
    start([NoisedCondition(), Random()]).step(0, X, denoise)
    assert torch.equal(seen[1].inputs["text"], text(seed=9))


def test_two_different_edits_of_one_condition_conflict_and_equal_ones_do_not():
    with pytest.raises(BranchConflictError, match="'noised-condition' and plugin 'noised-condition#2' edit the inputs"):
        start([NoisedCondition(0.5), NoisedCondition(0.4)])
    denoise, seen = looks()
    start([NoisedCondition(0.5), NoisedCondition(0.5)]).step(0, X, denoise)
    alone, found = looks()
    start([NoisedCondition(0.5)]).step(0, X, alone)
    assert torch.equal(seen[0].inputs["text"], found[0].inputs["text"])


def test_an_edit_that_fails_names_plugin_and_condition():
    @attrs.frozen
    class Wants:
        wanted: str = "image"

        @hookimpl
        def build_branches(self, step):
            return [Amend(edit=lambda inputs, noise: {"text": inputs[self.wanted]} if self.wanted else 3)]

    with pytest.raises(PluginError, match=r"'wants' failed to edit the inputs of condition 'positive' \(text\): Key"):
        start([Wants()]).step(0, X, looks()[0])
    with pytest.raises(PluginError, match="'wants' must return a dict from its edit of condition 'positive'"):
        start([Wants("")]).step(0, X, looks()[0])
    with pytest.raises(ConfigurationError, match="edit must be a function"):
        Amend(edit=3)


def test_a_condition_that_the_run_does_not_have_is_named():
    @attrs.frozen
    class Misspelt:
        @hookimpl
        def build_branches(self, step):
            return [Amend("posative", edit=Noised(0.5, 1.0))]

    with pytest.raises(UnknownNameError, match="Did you mean 'positive'"):
        start([Misspelt()])
    with pytest.raises(UnknownNameError, match="plugin 'nag' needs the condition 'negative' for its branch 'cond'"):
        start([NAG()], conditions={"positive": {}})


def test_interval_limits_an_edit_to_its_window():
    denoise, seen = looks()
    run = start([NoisedCondition(low=-10.0, high=-9.0), Interval(0.5, 0.7)])
    for index in range(3):
        run.step(index, X, denoise)
    changed = [branch.inputs["text"] is not CONDITIONS["positive"]["text"] for branch in seen]
    assert changed == [False, True, False]


# Amend: perturbations and further conditions.


def test_a_negative_inside_the_positive_pass_costs_no_pass():
    denoise, seen = looks()
    run = start([NAG(4.0), CFG(3.0), STG(1.0, blocks=(1,))])
    run.step(0, X, denoise)
    cond, uncond, perturbed = seen
    assert cond.perturbations == (NormalizedAttention(scale=4.0),)
    assert cond.also["negative"]["text"] is CONDITIONS["negative"]["text"]
    assert (uncond.perturbations, dict(uncond.also)) == ((), {})
    assert perturbed.perturbations == (SkipSelfAttention((1,)), NormalizedAttention(scale=4.0))
    assert run.passes == 3


def test_an_edit_of_a_condition_holds_where_a_pass_gets_it_beside_its_own():
    @attrs.frozen
    class Noisy:
        @hookimpl
        def build_branches(self, step):
            return [Amend("negative", edit=Noised(0.5, 1.0))]

    denoise, seen = looks()
    start([NAG(), Noisy()]).step(0, X, denoise)
    assert not torch.equal(seen[0].also["negative"]["text"], CONDITIONS["negative"]["text"])


def test_amendments_that_collide_name_both_changes():
    @attrs.frozen
    class Sharp:
        @hookimpl
        def build_branches(self, step):
            return [Amend(perturbations=(SkipSelfAttention((1,)),))]

    with pytest.raises(BranchConflictError, match=r"'sharp' changes every pass .*'blurred' .*BlurredAttention"):
        start([Blurred(), Sharp()])


# Open perturbations.


def test_anyone_may_define_a_perturbation():
    denoise, seen = looks()
    start([Blurred(sigma=4.0)]).step(0, X, denoise)
    assert seen[1].perturbations == (BlurredAttention((0, 1), sigma=4.0), SkipBlocks((2,)))
    assert str(seen[1].perturbations[0]) == "BlurredAttention(blocks=(0, 1), sigma=4.0)"


@pytest.mark.parametrize(
    ("one", "other", "collide"),
    [
        (BlurredAttention((1,)), BlurredAttention((1,)), False),
        (BlurredAttention((1,)), BlurredAttention((2,), sigma=3.0), False),
        (BlurredAttention((1,)), BlurredAttention((1,), sigma=3.0), True),
        (BlurredAttention((1,)), SkipSelfAttention((1, 2)), True),
        (BlurredAttention(None), IdentityAttention((3,)), True),
        (BlurredAttention((1,), "video"), IdentityAttention((1,), "audio"), False),
        (BlurredAttention((1,), stack="double"), IdentityAttention((1,), stack="single"), False),
        (BlurredAttention((1,)), SkipBlocks((1,)), True),
        (SkipBlocks((1,)), SkipBlocks((1, 2)), False),
        (NormalizedAttention(), SkipBlocks((1,)), False),
    ],
)
def test_two_changes_of_one_place_collide(one, other, collide):
    for pair in ((one, other), (other, one)):
        if collide:
            with pytest.raises(BranchConflictError, match="act on the same blocks"):
                Branch("p", perturbations=pair)
        else:
            Branch("p", perturbations=pair)


@pytest.mark.parametrize("given", [3, "SkipBlocks", [SkipBlocks], [None], [(1, 2)]])
def test_what_is_no_perturbation_is_refused(given):
    with pytest.raises(ConfigurationError, match="perturbation"):
        Branch("p", perturbations=given)


# What the host's model can do.


@pytest.mark.parametrize(
    ("able", "plugins", "says"),
    [
        (Capabilities(), [STG(blocks=(1,))], "'stg' asks for the pass 'perturbed', .*cannot make the change SkipSelf"),
        (Capabilities((SkipSelfAttention,), blocks=28), [STG(blocks=(28,))], "acts on block 28, but .* has 28"),
        (Capabilities((SkipBlocks, BlurredAttention), blocks=2), [Blurred()], "'blurred' asks .* block 2"),
        (Capabilities((NormalizedAttention,)), [NAG()], "given the condition 'negative'"),
        (
            lambda branch: f"no {branch.name}" if branch.condition == "negative" else None,
            [CFG()],
            "'cfg' .*: no uncond",
        ),
    ],
)
def test_a_stack_that_asks_for_more_is_refused_at_start(able, plugins, says):
    with pytest.raises(ConfigurationError, match=says):
        start(plugins, supports=able)


def test_a_host_is_asked_once_for_each_distinct_pass():
    asked = []
    start([CFG(3.0), STG(blocks=(1,), start=0.3)], sigmas=[1 - n / 50 for n in range(51)], supports=asked.append)
    assert sorted(branch.name for branch in asked) == ["cond", "perturbed", "uncond"]


def test_models_and_lists_of_blocks_can_be_told():
    @attrs.frozen
    class Weak:
        model: str | None = "small"
        change: object = SkipBlocks((30,), stack="single")

        @hookimpl
        def build_branches(self, step):
            assert dict(step.blocks) == {"double": 19, "single": 38}
            return [Branch("weak", model=self.model, perturbations=(self.change,), strength=1.0)]

    able = Capabilities(SkipBlocks, blocks={"double": 19, "single": 38}, models="small")
    start([Weak()], supports=able)
    with pytest.raises(ConfigurationError, match="no model 'tiny'; there is small"):
        start([Weak("tiny")], supports=able)
    with pytest.raises(ConfigurationError, match=r"acts on block 30, but the model has 19 blocks in 'double'"):
        start([Weak(change=SkipBlocks((30,)))], supports=able)
    with pytest.raises(ConfigurationError, match=r"counts in 'triple', but the model's lists .* double, single"):
        start([Weak(change=SkipBlocks((3,), stack="triple"))], supports=able)


def test_a_host_that_says_nothing_knows_no_blocks():
    seen = []

    @attrs.frozen
    class Asks:
        @hookimpl
        def build_branches(self, step):
            seen.append(step.blocks)
            return []

    start([Asks()])
    start([Asks()], supports=Capabilities(blocks=28))
    assert seen == [None, {"blocks": 28}]


@pytest.mark.parametrize("given", [{"blocks": 0}, {"blocks": {"a": 2.5}}, {"perturbations": (3,)}, {"models": [3]}])
def test_capabilities_that_make_no_sense(given):
    with pytest.raises(ConfigurationError, match="Capabilities"):
        Capabilities(**given)
    with pytest.raises(ConfigurationError, match="supports must be a function"):
        start([], supports=3)


# Seeds.


@pytest.mark.parametrize("seeds", [-1, 2**63, 1.5, "3", True, [], [1, "a"], [1, None]])
def test_seeds_are_whole_numbers(seeds):
    with pytest.raises(ConfigurationError, match="seed"):
        start([], seeds=seeds)


def test_there_is_a_seed_for_each_sample():
    run = start([], seeds=[1, 2, 3])
    with pytest.raises(ConfigurationError, match="3 seeds, but the sample has a batch of 2"):
        run.step(0, X, lambda branch: X + 0)


def test_drawn_seeds_are_told_and_repeat_the_run():
    first = start([NoisedCondition()], seeds=None)
    denoise, seen = looks()
    first.step(0, X, denoise)
    for seeds, same in ((first.seeds, True), (None, False)):
        again, found = looks()
        start([NoisedCondition()], seeds=seeds).step(0, X, again)
        assert torch.equal(found[0].inputs["text"], seen[0].inputs["text"]) == same


def test_a_run_uses_no_random_numbers_of_torch():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    start([NoisedCondition()], seeds=None).step(0, X, looks()[0])
    assert torch.equal(before, torch.random.get_rng_state())


def test_noise_takes_the_form_of_its_tensor():
    made = []

    def told(step, guided):
        for like in (guided.double(), guided.bfloat16(), torch.ones(5), torch.ones(())):
            made.append(step.noise_like(like, "a"))
            assert (made[-1].shape, made[-1].dtype) == (like.shape, like.dtype)
        assert not torch.equal(step.noise_like(guided, "a"), step.noise_like(guided, "b"))
        with pytest.raises(PluginError, match="asks for noise like a int"):
            step.noise_like(3, "a")
        with pytest.raises(PluginError, match=r"like a torch\.int64 tensor"):
            step.noise_like(torch.ones(2, dtype=torch.int64), "a")

    start([Reflected(told)]).step(0, X, lambda branch: X + 0)
    assert len(made) == 4


# The noise level, and conversions.


def test_a_hook_sees_this_and_the_next_noise_level():
    seen = []

    def told(step, guided):
        seen.append((step.sigma, step.alpha, step.next_sigma, step.next_alpha))

    run = start([Reflected(told)])
    for index in range(3):
        run.step(index, X, lambda branch: X + 0)
    assert seen == [(0.9, 1 - 0.9, 0.6, 0.4), (0.6, 0.4, 0.3, 0.7), (0.3, 0.7, 0.0, 1.0)]


def test_an_alpha_that_nobody_knows_is_an_error_that_says_what_to_give():
    with pytest.raises(ConfigurationError, match=r"'cfg-plus-plus': alpha at sigma .* start the run with alphas="):
        start([CFGPlusPlus()], prediction_type="epsilon")
    start([CFGPlusPlus()], prediction_type="epsilon", alphas=1.0)
    start([CFGPlusPlus()], prediction_type="epsilon", alphas=[0.4, 0.8, 0.95])  # the final one is 1 where sigma is 0


def test_cfg_plus_plus_is_linear_and_equals_its_two_steps():
    """One Euler step of ours against the paper's: the guided x0 with the noise of the unconditional prediction."""
    weight, run = 0.6, start([CFGPlusPlus(0.6)])
    c, u = (torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in (5, 6))
    x = X.double()
    for index in range(2):
        sigma, following = SIGMAS[index], SIGMAS[index + 1]
        velocity = run.step(
            index, x, {"cond": c, "uncond": u}.__getitem__ if False else lambda b: c if b.name == "cond" else u
        )
        ours = x + (following - sigma) * velocity
        x0 = (x - sigma * u) + weight * ((x - sigma * c) - (x - sigma * u))
        noise = x + (1 - sigma) * u
        theirs = (1 - following) * x0 + following * noise
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        x = ours


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_sample_comes_in_the_accumulation_dtype(dtype):
    working = torch.float64 if dtype == torch.float64 else torch.float32
    seen = []

    def told(step, guided):
        assert step.sample.dtype == guided.dtype == working
        assert torch.equal(step.sample, X.to(dtype).to(working))
        flow = step.convert(guided, "x0", "flow")
        seen.append(flow)
        torch.testing.assert_close(step.convert(flow, "flow", "x0"), guided)
        with pytest.raises(ConfigurationError, match="target must be one of"):
            step.convert(guided, "x0", "velocity")

    start([Reflected(told)]).step(0, X.to(dtype), lambda branch: torch.ones_like(X).to(dtype))
    torch.testing.assert_close(seen[0], torch.ones(2, 3, 4, dtype=working))


# Statistics.


def test_a_rescale_over_the_first_tokens_ignores_the_others():
    run = start([CFG(3.0), FirstTokens(2)], sigmas=[1.0, 0.0])
    c, u = text(seed=5), text(seed=6)
    guided = run.step(0, X, lambda branch: c + 0 if branch.name == "cond" else u + 0)
    g = (u + 3 * (c - u)).double()
    kept = g[:, :2].reshape(2, -1).std(dim=1, correction=0)
    wanted = c.double()[:, :2].reshape(2, -1).std(dim=1, correction=0)
    torch.testing.assert_close(guided.double(), g * (wanted / kept).view(2, 1, 1), rtol=1e-5, atol=1e-6)
    shipped = start([CFG(3.0), Rescale(1.0, first=2)], sigmas=[1.0, 0.0])
    assert torch.equal(shipped.step(0, X, lambda branch: c + 0 if branch.name == "cond" else u + 0), guided)
    with pytest.raises(ConfigurationError, match="needs the first 4 tokens"):
        start([CFG(3.0), FirstTokens(4)]).step(0, X, lambda branch: c + 0 if branch.name == "cond" else u + 0)


# Gradients.


def model(x):
    return torch.sin(1.7 * x) + 0.3 * x.roll(1, -1) ** 2


def quarter(x0):
    return (x0**2).flatten(1).sum(1) / 4


@pytest.mark.parametrize("executor", ["serial", "batched"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_classifier_guidance_differentiates_the_x0_estimate(executor, mode, dtype):
    class Denoise:
        def __call__(self, branch):
            assert torch.is_grad_enabled() == (branch.name == "cond" or mode is torch.enable_grad)
            return model(x) * (2 if branch.name == "uncond" else 1)

        def batch(self, branches):
            return [self(branch) for branch in branches]

    x = X.to(dtype)
    with mode():
        run = start([CFG(2.0), Universal(quarter, 0.5)], executor=executor)
        guided = run.step(1, x, Denoise())
    assert not guided.requires_grad
    assert not x.requires_grad
    assert x.grad is None
    leaf = X.double().requires_grad_()
    sigma, alpha = 0.6, 0.4
    x0 = leaf - sigma * model(leaf)
    (gradient,) = torch.autograd.grad(quarter(x0).sum(), leaf)
    c = model(X.double())
    expected = c + (c - 2 * c) + -(1 / sigma) * -(sigma / alpha) * 0.5 * sigma * gradient
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(guided.double(), expected, rtol=tolerance, atol=tolerance)


def test_two_methods_may_differentiate_one_forward():
    x = X.clone()
    with torch.no_grad():
        both = start([Universal(quarter, 0.5), Universal(quarter, 0.5)]).step(1, x, lambda branch: model(x))
        once = start([Universal(quarter, 1.0)]).step(1, x, lambda branch: model(x))
    torch.testing.assert_close(both, once)


@pytest.mark.parametrize(
    ("denoise", "says"),
    [
        (lambda x, branch: model(x.detach()), "carries no gradient of it: the forward must use the sample"),
        (lambda x, branch: torch.no_grad()(model)(x), "carries no gradient of it"),
        (lambda x, branch: model(x.detach().requires_grad_()), "carries no gradient of it"),
    ],
)
def test_a_forward_without_the_sample_is_named(denoise, says):
    x = X.clone()
    with torch.no_grad(), pytest.raises((DenoiserError, PluginError), match=says):
        start([Universal(quarter)]).step(1, x, lambda branch: denoise(x, branch))
    assert not x.requires_grad


def test_halves_run_the_differentiated_pass_in_its_context():
    x = X.clone()
    with torch.no_grad():
        expected = start([CFG(2.0), Universal(quarter)]).step(1, x, lambda branch: model(x))
        with start([CFG(2.0), Universal(quarter)]).plan(1, x) as plan:
            made = {}
            for branch in plan.own_branches:
                with branch.differentiable():
                    made[branch.name] = model(x)
            assert torch.equal(plan.finish(made), expected)
        outside = pytest.raises(DenoiserError, match=r"not made inside `with branch.differentiable\(\):`")
        with outside, start([CFG(2.0), Universal(quarter)]).plan(1, x) as plan:
            plan.finish({branch.name: model(x) for branch in plan.own_branches})


def test_what_cannot_differentiate_is_refused_at_start():
    with torch.inference_mode(), pytest.raises(ConfigurationError, match=r"'universal' differentiates .*no_grad\(\)"):
        start([Universal(quarter)])

    @attrs.frozen
    class Late:
        @hookimpl
        def build_branches(self, step):
            return [Needs()]

        @hookimpl
        def combine(self, step, predictions):
            return step.gradient(predictions["cond"].sum())

    with pytest.raises(PluginError, match="a gradient that it did not ask for"):
        start([Late()]).step(0, X, lambda branch: X + 0)


# An off plugin, fields, and schedules of others.


def test_a_plugin_that_asks_for_nothing_is_off():
    called = []

    @attrs.frozen
    class Sometimes:
        @hookimpl
        def build_branches(self, step):
            return [Needs()] if step.index == 1 else []

        @hookimpl
        def combine(self, step, predictions):
            called.append(("combine", step.index))

        @hookimpl
        def postprocess(self, step, guided, reference):
            called.append(("postprocess", step.index))

    run = start([Sometimes()])
    for index in range(3):
        run.step(index, X, lambda branch: X + 0)
    assert called == [("combine", 1), ("postprocess", 1)]


def test_zero_steps_stay_zero_outside_an_interval():
    run = start([CFGZeroStar(3.0, zero_steps=1), Interval(0.0, 0.5)])
    assert not run.step(0, X, lambda branch: X + 1).any()
    assert torch.equal(run.step(1, X, lambda branch: X + 1), X + 1)


@attrs.frozen
class Fields:
    open: object = number(0.5, gt=0, lt=1)
    several: tuple = numbers((1.0,), ge=0, least=1)
    named: tuple = names(())
    where: object = blocks(None)

    @hookimpl
    def build_branches(self, step):
        return [Branch("weak", strength=step.value(self.open))]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"open": 0}, r"Fields: open must lie in \(0, 1\); got 0"),
        ({"open": Linear(0.5, 1.0)}, r"open must lie in \(0, 1\)"),
        ({"several": []}, "several must have at least 1 number"),
        ({"several": [1, -2]}, r"several must lie in \[0, inf\); got -2"),
        ({"several": 3}, "several must be a list of numbers"),
        ({"several": [1, float("nan")]}, "several must be finite"),
        ({"named": [3]}, "named must be names"),
        ({"named": [""]}, "named must be names"),
        ({"where": [1.5]}, "where: blocks must be whole numbers"),
    ],
)
def test_fields_refuse_what_they_cannot_hold(given, says):
    with pytest.raises(ConfigurationError, match=says):
        Fields(**given)


def test_fields_keep_one_form():
    assert Fields(several=[1, 2.5], named="cfg", where=[3, 1]) == Fields(
        several=(1.0, 2.5), named=("cfg",), where=(1, 3)
    )


@attrs.frozen
class Wild(Schedule):
    value_at_the_end: object = 2.0

    def at(self, position):
        return self.value_at_the_end if position.index == 2 else 0.5


@pytest.mark.parametrize("end", [2.0, -1.0, float("nan"), "x", None])
def test_a_schedule_of_somebody_else_is_held_to_the_bounds(end):
    start([Fields(Wild(0.25))])
    with pytest.raises(ConfigurationError, match="Fields: open, from Wild must"):
        start([Fields(Wild(end))])


@pytest.mark.parametrize("over", [(-1,), (-1, -2), [-2, -1], [2]])
def test_apg_takes_the_dimensions_of_its_norms(over):
    c, u = text(seed=5), text(seed=6)
    run = start([APG(3.0, over=over, space=None)])
    guided = run.step(0, X, lambda branch: c + 0 if branch.name == "cond" else u + 0)
    dims = tuple(over)
    cd, ud = c.double(), u.double()
    d = cd - ud
    unit = cd / cd.pow(2).sum(dims, keepdim=True).sqrt()
    d = d - (d * unit).sum(dims, keepdim=True) * unit
    torch.testing.assert_close(guided.double(), cd + 2 * d, rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigurationError, match="APG: over"):
        APG(3.0, over="samples")


def test_a_statistic_states_what_it_covers():
    with pytest.raises(ConfigurationError, match="over must be one of"):
        Statistic("samples")
    with pytest.raises(ConfigurationError, match="covers dimension 5"):
        start([CFG(3.0), Rescale(over=[5])]).step(0, X, lambda branch: X + len(branch.name))


def test_dimensions_that_cover_the_batch_are_said_to():
    c = text(seed=5)
    with pytest.raises(ConfigurationError, match="covers the batch of a tensor that has 3 dimensions; say 0"):
        start([APG(3.0, over=(-1, -2, -3))]).step(0, X, lambda branch: c * len(branch.name))
    assert Rescale(over=[-1, -2]) == Rescale(over=[-2, -1])


def test_two_conditions_have_noise_of_their_own():
    @attrs.frozen
    class Both:
        @hookimpl
        def build_branches(self, step):
            return [Amend(name, edit=Noised(0.0, 1.0)) for name in ("positive", "negative")]

    denoise, seen = looks()
    start([Both(), CFG(3.0)]).step(0, X, denoise)
    assert not torch.equal(seen[0].inputs["text"], seen[1].inputs["text"])


def test_a_gate_reuses_what_the_plugins_before_it_made_and_they_do_not_act_again():
    @attrs.frozen
    class Adds:
        @hookimpl
        def combine(self, step, predictions):
            return torch.ones_like(predictions["cond"])

    @attrs.frozen
    class Halves:
        @hookimpl
        def postprocess(self, step, guided, reference):
            return 0.5 * guided

    for plugins in ([CFG(3.0), Adds(), Gate(lo=0.5)], [CFG(3.0), Halves(), Gate(lo=0.5)]):
        run = start(plugins, sigmas=[1.0, 0.75, 0.5, 0.25, 0.0])
        made = [run.step(i, X, lambda b: X * 0 + (2 if b.name == "cond" else 1)) for i in range(4)]
        assert all(torch.equal(each, made[0]) for each in made)
        assert run.passes == 6
