"""What the formulas of methods promise beyond their values: identities, limits, and where they are not defined."""

from __future__ import annotations

import attrs
import pytest
import torch

from guidance_core import Branch, Guidance, GuidanceError, Linear, PerOutput, PluginError, hookimpl
from guidance_plugins import CFG, EPCFG, SMCCFG, TAG, CFGPlusPlus, DynamicThresholding, Momentum, Normalize, Skimmed

SIGMAS = [0.9, 0.6, 0.3, 0.0]


def tensors(count, *shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def start(plugins, prediction_type="flow", sigmas=SIGMAS, **settings):
    return Guidance(plugins).start(
        conditions={"positive": {}, "negative": {}}, sigmas=sigmas, prediction_type=prediction_type, **settings
    )


def result(plugins, index=0, **settings):
    x, c, u = tensors(3, 2, 4, 6)
    return start(plugins, **settings).step(index, x, lambda branch: (c if branch.name == "cond" else u).clone())


# CFG++.


@pytest.mark.parametrize("prediction_type", ["flow", "v", "epsilon", "x0"])
def test_cfg_plus_plus_makes_the_papers_ddim_step_in_every_space(prediction_type):
    alphas = [(1 - sigma) if prediction_type == "flow" else (1 - sigma**2) ** 0.5 for sigma in SIGMAS]
    given = {} if prediction_type in ("flow", "v") else {"alphas": alphas}
    run = start([CFGPlusPlus(0.6)], prediction_type, **given)
    x, *made = tensors(3, 2, 4)

    def parts(prediction, index):
        alpha, sigma = alphas[index], SIGMAS[index]
        if prediction_type == "flow":
            return x - sigma * prediction, x + alpha * prediction
        if prediction_type == "v":
            return alpha * x - sigma * prediction, sigma * x + alpha * prediction
        if prediction_type == "x0":
            return prediction, (x - alpha * prediction) / sigma
        return (x - sigma * prediction) / alpha, prediction

    for index in range(3):
        g = run.step(index, x, lambda branch: made[branch.name == "uncond"].clone())
        (x0_c, _), (x0_u, noise_u), (x0_g, noise_g) = (parts(each, index) for each in (*made, g))
        alpha, sigma = alphas[index + 1], SIGMAS[index + 1]
        right = alpha * (x0_u + 0.6 * (x0_c - x0_u)) + sigma * noise_u
        torch.testing.assert_close(alpha * x0_g + sigma * noise_g, right)


def test_cfg_plus_plus_follows_the_noise_level_of_each_output():
    levels = {"video": [0.9, 0.6, 0.0], "audio": [0.8, 0.2, 0.0]}
    run = start([CFGPlusPlus(0.6)], sigmas=levels, outputs=("video", "audio"))
    x, c, u = ({name: tensor.clone() for name in levels} for tensor in tensors(3, 1, 4))
    made = run.step(0, x, lambda branch: c if branch.name == "cond" else u)
    for name, (now, following, _) in levels.items():
        moved, stays = (1 - following) * now, (1 - now) * following
        scale = 0.6 * moved / (moved - stays)
        torch.testing.assert_close(made[name], u[name] + scale * (c[name] - u[name]))
    again = run.step(1, x, lambda branch: c if branch.name == "cond" else u)
    torch.testing.assert_close(again["audio"], u["audio"] + 0.6 * (c["audio"] - u["audio"]))


@pytest.mark.parametrize("sigmas", [[0.9, 0.9, 0.0], [0.5, 0.8, 0.0]])
def test_cfg_plus_plus_refuses_steps_that_do_not_fall_before_any_forward(sigmas):
    with pytest.raises(GuidanceError, match="needs steps to a lower noise level"):
        start([CFGPlusPlus()], sigmas=sigmas, may_rise=True)


def test_cfg_plus_plus_refuses_the_second_evaluation_of_heuns_method():
    run = start([CFGPlusPlus()])
    (x,) = tensors(1, 2, 4)
    run.step(0, x, lambda branch: x.clone())
    with pytest.raises(GuidanceError, match="one evaluation of each"):
        run.step(0, x, lambda branch: x.clone(), sigma=SIGMAS[1])


# The step as one output stands in it.


@attrs.frozen
class Asks:
    function: object

    @hookimpl
    def build_branches(self, step):
        return [Branch("uncond", condition="negative", strength=self.function(step))]


def test_a_step_of_one_output_has_its_level_and_its_values_at_every_step():
    schedule = PerOutput(video=Linear(3, 1, "sigma"), audio=Linear(5, 1, "sigma"))
    asked = Asks(
        lambda step: PerOutput({part.output: part.sigma * part.value(schedule) for part in map(step.at, step.outputs)})
    )
    levels = {"video": [0.9, 0.45, 0.0], "audio": [0.8, 0.2, 0.0]}
    run = start([asked], sigmas=levels, outputs=("video", "audio"))
    x, c, u = ({name: tensor.clone() for name in levels} for tensor in tensors(3, 1, 4))
    for index in range(2):
        made = run.step(index, x, lambda branch: c if branch.name == "cond" else u)
        for name, top in (("video", 3), ("audio", 5)):
            sigma = levels[name][index]
            strength = sigma * (top + (1 - top) * (1 - sigma / levels[name][0]))
            torch.testing.assert_close(made[name], c[name] + strength * (c[name] - u[name]))


def test_steps_that_differ_in_one_output_alone_are_not_taken_for_one():
    asked = Asks(lambda step: PerOutput({name: step.at(name).sigma for name in step.outputs}))
    levels = {"video": [0.5, 0.5, 0.0], "audio": [0.5, 0.2, 0.0]}
    run = start([asked], sigmas=levels, outputs=("video", "audio"), may_rise=True)
    x, c, u = ({name: tensor.clone() for name in levels} for tensor in tensors(3, 1, 4))
    for index in range(2):
        made = run.step(index, x, lambda branch: c if branch.name == "cond" else u)
        for name in levels:
            torch.testing.assert_close(made[name], c[name] + levels[name][index] * (c[name] - u[name]))


def test_a_step_of_an_output_that_is_not_there_or_over_is_refused():
    with pytest.raises(PluginError, match="The outputs are output"):
        start([Asks(lambda step: step.at("audio").sigma)])
    kept = []
    start([Asks(lambda step: kept.append(step.at("output")) or 1.0)])
    with pytest.raises(PluginError, match="after build_branches has returned"):
        _ = kept[0].sigma


# Corrections.


@pytest.mark.parametrize("prediction_type", ["flow", "epsilon", "x0", "v"])
def test_tag_scales_the_tangential_part_of_a_ddim_step_alone(prediction_type):
    alpha, sigma, next_alpha, next_sigma = 0.8, 0.6, 0.9, 0.3
    given = {"alphas": [alpha, next_alpha, 1.0]} if prediction_type in ("epsilon", "x0") else {}
    if prediction_type == "flow":
        alpha, next_alpha = 1 - sigma, 1 - next_sigma
    x, p = tensors(2, 2, 5)

    def moved(prediction):
        if prediction_type == "flow":
            return x + (next_sigma - sigma) * prediction - x
        if prediction_type == "v":
            x0, noise = alpha * x - sigma * prediction, sigma * x + alpha * prediction
            return (1 - next_sigma**2) ** 0.5 * x0 + next_sigma * noise - x
        if prediction_type == "x0":
            x0, noise = prediction, (x - alpha * prediction) / sigma
        else:
            x0, noise = (x - sigma * prediction) / alpha, prediction
        return next_alpha * x0 + next_sigma * noise - x

    def split(step):
        along = (step * x).sum(1, keepdim=True) / (x * x).sum(1, keepdim=True) * x
        return along, step - along

    run = start([TAG(1.4)], prediction_type, sigmas=[sigma, next_sigma, 0.0], **given)
    along, across = split(moved(run.step(0, x, lambda branch: p.clone())))
    plain_along, plain_across = split(moved(p))
    torch.testing.assert_close(along, plain_along)
    torch.testing.assert_close(across, 1.4 * plain_across)


def test_tag_needs_a_sample_like_the_prediction():
    with pytest.raises(GuidanceError, match="compares predictions with the sample"):
        start([TAG()], "other")


def test_momentum_moves_nothing_at_first_and_a_constant_prediction_never():
    (x, c) = tensors(2, 2, 4)
    run = start([Momentum(alpha=2.0)], "flow")
    for index in range(3):
        assert torch.equal(run.step(index, x, lambda branch: c.clone()), c)


def test_momentum_follows_selected_samples_and_is_refused_where_steps_go_back():
    x, *made = tensors(4, 3, 4)
    run, other = start([Momentum()]), start([Momentum()])
    for index in range(2):
        run.step(index, x, lambda branch, given=made[index]: given.clone())
        other.step(index, x, lambda branch, given=made[index]: given.clone())
    run.select([2, 0])
    got = run.step(2, x[[2, 0]], lambda branch: made[2][[2, 0]].clone())
    assert torch.equal(got, other.step(2, x, lambda branch: made[2].clone())[[2, 0]])
    with pytest.raises(GuidanceError, match="momentum"):
        run.step(0, x[[2, 0]], lambda branch: made[0][[2, 0]].clone())


def test_ep_cfg_of_all_elements_is_a_normalized_sample():
    torch.testing.assert_close(
        result([CFG(5.0), EPCFG(0.0, 1.0)]), result([CFG(5.0), Normalize("match", over="sample")])
    )


# Forms of CFG.


def test_limits_at_which_a_form_is_plain_cfg():
    right = result([CFG(5.0)])
    torch.testing.assert_close(result([Skimmed(5.0, skim=5.0)]), right)
    torch.testing.assert_close(result([SMCCFG(5.0, gain=0.0)]), right)
    torch.testing.assert_close(result([DynamicThresholding(5.0, mimic=5.0)]), right)
    torch.testing.assert_close(result([DynamicThresholding(5.0, phi=0.0)]), right)
    scales = torch.tensor([5.0, 1.0])
    torch.testing.assert_close(
        result([DynamicThresholding(scales, mimic=scales)]), result([CFG(scales)]), rtol=1e-6, atol=1e-6
    )


def test_skimmed_has_the_smaller_scale_in_elements_that_overshoot_and_no_other():
    c, u, x = torch.tensor([[2.0, -2.0, 2.0, 2.0]]), torch.tensor([[1.0, -1.0, 3.0, 1.0]]), torch.zeros(1, 4)
    x[0, 3] = 50.0  # beyond the guided value
    run = start([Skimmed(9.0, skim=3.0)], "x0")
    got = run.step(0, x, lambda branch: (c if branch.name == "cond" else u).clone())
    assert got.tolist() == [[4.0, -4.0, 0.0, 10.0]]  # the third by the swapped pair


def test_skimmed_takes_a_scale_of_1_for_one_sample():
    scales = torch.tensor([1.0, 5.0])
    x, c, u = (tensor.float() for tensor in tensors(3, 2, 4, 6))
    got = start([Skimmed(scales, skim=3.0)]).step(0, x, lambda branch: (c if branch.name == "cond" else u).clone())
    torch.testing.assert_close(got[0], c[0])
    assert got.isfinite().all()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: CFGPlusPlus(1.5), r"weight must lie in \[0, 1\]"),
        (lambda: DynamicThresholding(percentile=1.5), "percentile must lie"),
        (lambda: DynamicThresholding(percentile=torch.tensor([0.5, 0.9])), "percentile must be one number"),
        (lambda: DynamicThresholding(over="tensor"), "leave the batch apart"),
        (lambda: EPCFG(0.6, 0.6), "lo < hi"),
        (lambda: EPCFG(-0.1, 0.6), "lo must lie"),
        (lambda: Momentum(beta=1.0), r"beta must lie in \[0, 1\)"),
        (lambda: Skimmed(skim=-1.0), "skim must lie"),
        (lambda: SMCCFG(form="tanh"), "form must be one of sign, norm"),
        (lambda: TAG(eta=-0.5), "eta must lie"),
    ],
)
def test_parameters_out_of_range_are_refused_by_name(make, said):
    with pytest.raises(GuidanceError, match=said):
        make()


@pytest.mark.parametrize(
    "plugin", [CFGPlusPlus(), DynamicThresholding(), Skimmed(), SMCCFG()], ids=lambda p: type(p).__name__
)
def test_forms_of_cfg_are_refused_beside_it(plugin):
    with pytest.raises(GuidanceError, match="exclude each other"):
        Guidance([CFG(3.0), plugin])
