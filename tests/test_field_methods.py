"""Methods that change conditions, attention, blocks or gradients: what the model is asked for, and what it says."""

from __future__ import annotations

import pytest
import torch
from small_methods import text

from guidance_core import (
    Capabilities,
    ConfigurationError,
    DropOut,
    Guidance,
    GuidanceError,
    Linear,
    NormalizedAttention,
    SkipBlocks,
    SlidingWindows,
    UnknownNameError,
)
from guidance_core.conformance import Case, check_one
from guidance_plugins import CADS, CFG, ICG, NAG, PAG, S2, SEG, SLG, SWG, Autoguidance, Classifier, SoftPAG, Universal

SIGMAS = [0.9, 0.6, 0.3, 0.0]
Y = text(rows=2)
X = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))


def start(plugins, **given):
    settings = {
        "conditions": {"positive": {"text": Y}, "negative": {"text": -Y}},
        "sigmas": SIGMAS,
        "prediction_type": "flow",
        "seeds": (4, 5),
    }
    return Guidance(plugins).start(**{**settings, **given})


def asked(plugins, **given):
    """Return the passes of each step, by name."""
    run, steps = start(plugins, **given), []
    for index in range(len(SIGMAS) - 1):
        with run.plan(index, X) as plan:
            steps.append({branch.name: branch for branch in plan.branches})
            plan.finish({branch.name: torch.full_like(X, 1.0 + number) for number, branch in enumerate(plan.branches)})
    return steps


# Conditions.


def test_cads_anneals_as_in_the_paper():
    run = start([CADS(0.5, low=0.4, high=0.8, mixing=0.0)])
    noise, made = {}, []
    for index in range(3):
        run.step(index, X, lambda branch: made.append(branch.inputs["text"]) or X + 1)
    gamma = [0.0, (0.8 - 2 / 3) / 0.4, 1.0]  # t is 1, 2/3 and 1/3
    first = made[0] / 0.5  # noise alone
    assert abs(first.std() - 1) < 0.3
    assert not torch.equal(made[1], Y)
    second = (made[1] - gamma[1] ** 0.5 * Y) / (0.5 * (1 - gamma[1]) ** 0.5)
    assert abs(second.std() - 1) < 0.3
    assert not torch.allclose(first, second)  # another noise at each step
    assert torch.equal(made[2], Y)
    assert not noise


@pytest.mark.parametrize("mixing", [0.5, 1.0])
def test_cads_restores_mean_and_spread(mixing):
    plain, mixed = (
        [branch["cond"].inputs["text"] for branch in asked([CADS(0.7, mixing=each)])] for each in (0, mixing)
    )
    for noised, got in zip(plain, mixed, strict=True):
        each = {"dim": (1, 2), "keepdim": True}
        restored = Y.mean(**each) + Y.std(**each) * (noised - noised.mean(**each)) / noised.std(**each)
        expected = noised if torch.equal(noised, Y) else mixing * restored + (1 - mixing) * noised
        torch.testing.assert_close(got, expected)


def test_a_constant_condition_stays_finite_under_cads():
    conditions = {"positive": {"text": torch.ones(2, 3, 4)}}
    for branches in asked([CADS(0.0001, high=1.0)], conditions=conditions):
        assert branches["cond"].inputs["text"].isfinite().all()


def test_icg_draws_noise_with_the_spread_of_each_condition():
    first, second, _ = asked([ICG(3.0)])
    assert torch.equal(first["cond"].inputs["text"], Y)  # only its own pass
    drawn, again = (step["random"].inputs["text"] for step in (first, second))
    assert not torch.equal(drawn, again)  # anew at each step
    whole = {"positive": {"text": torch.randn(2, 5000) * torch.tensor([[1.0], [9.0]])}}
    drawn = asked([ICG(3.0)], conditions=whole)[0]["random"].inputs["text"]
    torch.testing.assert_close(drawn.std(1), whole["positive"]["text"].std(1), rtol=0.05, atol=0)


def test_icg_draws_each_class_alike():
    labels = torch.zeros(4000, dtype=torch.int64)
    run = Guidance([ICG(3.0, draw="class", classes=5)]).start(
        conditions={"positive": {"label": labels}}, sigmas=[0.5, 0.0], prediction_type="flow", seeds=3
    )
    with run.plan(0, torch.zeros(4000, 1)) as plan:
        drawn = next(branch for branch in plan.branches if branch.name == "random").inputs["label"]
        plan.finish({branch.name: torch.zeros(4000, 1) + n for n, branch in enumerate(plan.branches)})
    assert drawn.dtype == torch.int64
    assert torch.bincount(drawn, minlength=5).min() > 650
    assert drawn.max() == 4


def test_icg_takes_the_hosts_random_condition():
    conditions = {"positive": {"text": Y}, "random": {"text": 2 * Y}}
    assert torch.equal(asked([ICG(3.0, draw="given")], conditions=conditions)[0]["random"].inputs["text"], 2 * Y)
    with pytest.raises(UnknownNameError, match="needs the condition 'random'"):
        start([ICG(3.0, draw="given")])


@pytest.mark.parametrize("plugin", [ICG(3.0), CADS()])
def test_a_sample_draws_alike_whatever_its_batch_mates(plugin):
    both = asked([plugin])
    run = start([plugin], conditions={"positive": {"text": Y[1:]}}, seeds=(5,))
    for index in range(3):
        with run.plan(index, X[1:]) as plan:
            for branch in plan.branches:
                assert torch.equal(branch.inputs["text"], both[index][branch.name].inputs["text"][1:])
            plan.finish({branch.name: X[1:] + n for n, branch in enumerate(plan.branches)})


@pytest.mark.parametrize(
    ("plugin", "conditions", "says"),
    [
        (CADS(), {"label": torch.tensor([1, 2])}, "none of the inputs label is a floating-point tensor"),
        (CADS(inputs="txt"), {"text": Y}, "the input 'txt' is not a floating-point tensor.*inputs that are: text"),
        (ICG(3.0, draw="class"), {"text": Y}, "none of the inputs text is a tensor of whole numbers"),
    ],
)
def test_inputs_that_cannot_be_edited_are_named(plugin, conditions, says):
    run = start([plugin], conditions={"positive": conditions})
    with pytest.raises(GuidanceError, match=says):
        run.step(0, X, lambda branch: branch.inputs and X + 1)


# Inside the model.


def test_nag_changes_the_positive_passes_and_adds_none():
    steps = asked([CFG(2.0), NAG(4.0, 2.0, 0.5, stop=0.5), PAG(1.0)])
    for index, branches in enumerate(steps):
        change = NormalizedAttention(scale=4.0, tau=2.0, alpha=0.5)
        is_inside = index < 2  # of three steps, the first half
        for name in ("cond", "identity"):
            assert (change in branches[name].perturbations) == is_inside
            assert bool(branches[name].also) == is_inside
        assert not branches["uncond"].perturbations
    assert torch.equal(steps[0]["cond"].also["negative"]["text"], -Y)
    assert not asked([NAG(0.0)])[0]["cond"].perturbations
    with pytest.raises(UnknownNameError, match="needs the condition 'negative'"):
        start([NAG()], conditions={"positive": {"text": Y}})


def test_s2_skips_other_blocks_at_each_step_and_the_same_in_each_run():
    able = Capabilities((SkipBlocks,), blocks={"double": 19, "single": 38})
    steps = [next(name for name in each if name != "cond") for each in asked([S2(share=0.2)], supports=able)]
    assert len(set(steps)) == 3
    assert steps == [next(name for name in each if name != "cond") for each in asked([S2(share=0.2)], supports=able)]
    changes = asked([S2(share=0.2)], supports=able)[0][steps[0]].perturbations
    assert sum(len(change.blocks) for change in changes) == round(0.2 * 57)
    assert {change.stack for change in changes} == {"double", "single"}
    few = asked([S2(blocks=(3, 4, 5), share=0.1)])[0]
    (name,) = few.keys() - {"cond"}
    assert few[name].perturbations[0].blocks[0] in (3, 4, 5)
    with pytest.raises(ConfigurationError, match="nobody says how many there are: give count=28"):
        start([S2()])
    assert list(asked([S2(0.0)])[0]) == ["cond"]  # off, it needs no number


def test_autoguidance_runs_the_hosts_weaker_model():
    able = Capabilities(models=("small",))
    branch = asked([Autoguidance(2.0, model="small")], supports=able)[0]["weak"]
    assert (branch.model, branch.condition, branch.perturbations) == ("small", "positive", ())
    with pytest.raises(ConfigurationError, match="there is no model 'tiny'; there is small"):
        start([Autoguidance(2.0, model="tiny")], supports=able)
    with pytest.raises(ConfigurationError, match="cannot make the change DropOut"):
        start([Autoguidance(2.0)], supports=able)
    weak = asked([Autoguidance(2.0, blocks=3, dropout=1.0, form="diffusers")])[0]["weak"]
    assert (weak.condition, weak.perturbations) == ("negative", (SkipBlocks(3),))
    assert isinstance(asked([Autoguidance(2.0)])[0]["weak"].perturbations[0], DropOut)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: PAG(blocks={"video": 3}), "PAG: blocks must be the same for all outputs and steps"),
        (lambda: PAG(start=0.6, stop=0.5), "0.6"),
        (lambda: SEG(sigma=0), r"SEG: sigma must lie in \(0, inf\)"),
        (lambda: SEG(sigma=Linear(1, 2)), "SEG: sigma must be one number"),
        (lambda: SLG(blocks="all"), "SLG: blocks: blocks must be whole numbers"),
        (lambda: SWG(size=torch.tensor([0.5, 0.6])), "SWG: size must be one number"),
        (lambda: SWG(count=0), "SWG: count must be a whole number of at least 1"),
        (lambda: SoftPAG(heads="3.0"), "such as L3H0; got '3.0'"),
        (lambda: SoftPAG(3.0, 4, "L3H0"), "leave out blocks"),
        (lambda: S2(blocks=()), "S2: blocks is empty"),
        (lambda: S2(count=0), "S2: count must be a whole number of at least 1"),
        (lambda: Autoguidance(model="small", blocks=3), "give one of them"),
        (lambda: Autoguidance(model=""), "Autoguidance: model must be a name"),
        (lambda: Autoguidance(dropout=0), r"Autoguidance: dropout must lie in \(0, 1\]"),
        (lambda: NAG(tau=0), r"NAG: tau must lie in \(0, inf\)"),
        (lambda: ICG(draw="text"), "draw must be one of noise, class, given"),
        (lambda: ICG(draw="given", inputs="text"), "leave out inputs"),
        (lambda: CADS(low=0.9, high=0.6), "low must be less than high"),
        (lambda: Classifier(3.0), "log_prob must be a function"),
        (lambda: Guidance([CFG(3.0), ICG(3.0)]), "cfg"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(make, says):
    with pytest.raises(ConfigurationError, match=says):
        make()


def test_conformance_gives_a_method_the_conditions_that_its_passes_get_beside_their_own():
    check_one("works", NAG(negative="other"), Case())


# Gradients.


def denoised(x):
    return torch.sin(1.7 * x) + 0.3 * x.roll(1, -1) ** 2


def loss(x0):
    return (x0**2).flatten(1).sum(1) / 4


@pytest.mark.parametrize("kind", ["flow", "epsilon", "v"])
def test_universal_guidance_moves_the_noise_along_the_gradient(kind):
    run = Guidance([Universal(loss, 0.5)]).start(
        sigmas=[0.6, 0.0],
        alphas=[0.8 if kind != "flow" else 0.4, 1.0],
        prediction_type=kind,
        conditions={"positive": {}},
    )
    x = X.clone()
    guided = run.step(0, x, lambda branch: denoised(x))
    leaf = X.double().requires_grad_()
    sigma, alpha = 0.6, 0.4 if kind == "flow" else 0.8
    made = denoised(leaf)
    x0 = {"flow": leaf - sigma * made, "epsilon": (leaf - sigma * made) / alpha, "v": alpha * leaf - sigma * made}[kind]
    (gradient,) = torch.autograd.grad(loss(x0).sum(), leaf)
    noise = (leaf - alpha * x0) / sigma + 0.5 * sigma * gradient  # ε ← ε + s·σ·∇
    moved = (leaf - sigma * noise) / alpha
    expected = {"flow": noise - moved, "epsilon": noise, "v": alpha * noise - sigma * moved}[kind]
    torch.testing.assert_close(guided.double(), expected.detach(), rtol=1e-5, atol=1e-5)


def test_gradients_are_off_where_there_is_no_signal():
    for plugin in (Universal(loss), Classifier(lambda x, sigma: -loss(x))):
        run = Guidance([plugin]).start(sigmas=[1.0, 0.5, 0.0], prediction_type="flow", conditions={"positive": {}})
        x = X.clone()
        made = denoised(x)
        assert torch.equal(run.step(0, x, lambda branch, made=made: made.clone()), made)
        guided = run.step(1, x, lambda branch, x=x: denoised(x))
        assert guided.isfinite().all()
        assert not torch.allclose(guided, made)


def test_classifier_guidance_works_in_every_mode():
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            run = start([Classifier(lambda x, sigma: -loss(x), 2.0)])
            guided = run.step(1, X, lambda branch: X + 1)
        torch.testing.assert_close(guided, X + 1 - 2.0 * 0.6 / 0.4 * -X / 2)
        assert not guided.requires_grad


def test_windows_lie_evenly_from_end_to_end():
    assert SlidingWindows(size=0.5, count=3).along(8) == ((0, 4), (2, 6), (4, 8))
    assert SlidingWindows(size=0.5, count=1).along(8) == ((0, 4),)
    assert SlidingWindows(size=0.01).along(5) == ((0, 1), (4, 5))
