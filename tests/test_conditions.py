"""Methods with several conditions: masks, ramps over frames, names, and scales of several shapes in one stack."""

from __future__ import annotations

import pytest
import torch
from test_algebra import draw

from guidance_core import ConfigurationError, Guidance, aligned
from guidance_core.parameters.values import PerOutput
from guidance_plugins import CFG, Dual, MultiCondition, PerpNeg, RenormText


def made(plugins, predictions, **settings):
    """The result of one step, and the passes that were run."""
    ran = []

    def denoise(branch):
        ran.append(branch.condition)
        return predictions[branch.condition].clone()

    run = Guidance(plugins).start(
        conditions={name: {} for name in predictions}, sigmas=[0.7, 0.0], prediction_type="x0", **settings
    )
    return run.step(0, torch.zeros_like(predictions["positive"]), denoise), ran


def drawn(*shape, names=("positive", "negative", "extra")):
    return dict(zip(names, draw(1, *shape, count=len(names)), strict=True))


def test_a_mask_limits_a_condition_to_a_region():
    given = drawn(2, 3, 4, 6)
    mask = torch.zeros(1, 1, 4, 6)
    mask[..., :3] = 2.0
    c, u, a = (given[name] for name in ("positive", "negative", "extra"))
    result, _ = made([CFG(3.0), MultiCondition(weight=mask)], given)
    torch.testing.assert_close(result, u + 3 * (c - u) + mask * (a - u), rtol=1e-5, atol=1e-5)


def test_a_scale_for_each_sample_beside_a_mask():
    given = drawn(4, 3, 4, 4)  # of four rows and columns too, so that a wrong alignment would broadcast
    scales = torch.tensor([1.0, 2.0, 3.0, 4.0])
    mask = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    c, u, a = (given[name] for name in ("positive", "negative", "extra"))
    for stack in ([CFG(scales), MultiCondition(weight=mask)], [MultiCondition(weight=mask), CFG(scales)]):
        result, _ = made(stack, given)
        right = u + scales.view(4, 1, 1, 1) * (c - u) + mask * (a - u)
        torch.testing.assert_close(result, right, rtol=1e-5, atol=1e-5)


def test_two_scales_of_one_method_may_have_other_shapes():
    given = drawn(4, 3, 4, 4, names=("positive", "negative", "image", "text"))
    t, i = torch.tensor([1.0, 2.0, 3.0, 4.0]), 1 + torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    c, u, r, n = given.values()
    of_samples = t.view(4, 1, 1, 1)
    result, _ = made([Dual(t, i)], given)
    torch.testing.assert_close(result, u + i * (r - u) + of_samples * (c - r), rtol=1e-4, atol=1e-4)
    result, _ = made([Dual(t, i, form="bagel")], given)
    torch.testing.assert_close(result, n + i * (r + of_samples * (c - r) - n), rtol=1e-4, atol=1e-4)
    result, _ = made([RenormText(t, i, least=1.0)], given)
    torch.testing.assert_close(result, n + i * (r + of_samples * (c - r) - n), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 4, 6, 1), (1, 1, 6, 4), (5,)])
def test_a_mask_that_does_not_broadcast_is_refused(shape):
    with pytest.raises(ConfigurationError, match=r"broadcast") as caught:
        made([MultiCondition(weight=torch.ones(shape))], drawn(2, 3, 4, 6))
    assert str(list(shape)) in str(caught.value) or str(tuple(shape)) in str(caught.value)


@pytest.mark.parametrize(("shape", "dim"), [((2, 3, 5, 4, 4), 2), ((2, 5, 3, 4, 4), 1), ((1, 5, 8), 1)])
def test_a_ramp_over_frames_is_that_of_stable_video_diffusion(shape, dim):
    given = drawn(*shape)
    ramp = torch.linspace(1.0, 3.0, 5).view(*(1,) * dim, 5, *(1,) * (len(shape) - dim - 1))
    c, u, a = (given[name] for name in ("positive", "negative", "extra"))
    result, ran = made([MultiCondition("positive", 0.0, 2.0, frames=5, frame_dim=dim)], given)
    torch.testing.assert_close(result, u + ramp * (c - u), rtol=1e-5, atol=1e-5)
    assert ran == ["positive", "negative"]
    result, _ = made([MultiCondition("extra", 1.0, 3.0, frames=5, frame_dim=dim)], given)
    torch.testing.assert_close(result, c + ramp * (a - u), rtol=1e-5, atol=1e-5)


def test_a_ramp_of_another_number_of_frames_is_refused():
    with pytest.raises(ConfigurationError, match="broadcast"):
        made([MultiCondition(frames=6)], drawn(2, 3, 5, 4, 4))


def test_a_ramp_between_tensors_is_refused_at_start():
    for weights in ({"weight": torch.ones(2)}, {"last": torch.ones(2)}, {"weight": {"output": torch.ones(2)}}):
        with pytest.raises(ConfigurationError, match="'multi-condition': a ramp over frames runs between two numbers"):
            Guidance([MultiCondition(frames=5, **weights)]).start(
                conditions={"positive": {}, "negative": {}, "extra": {}}, sigmas=[1.0, 0.0], prediction_type="x0"
            )


def test_passes_that_cancel_out_are_not_run():
    given = drawn(1, 4)
    assert made([MultiCondition(weight=0.0)], given)[1] == ["positive"]
    assert made([CFG(0.5), MultiCondition(weight=0.5)], given)[1] == ["positive", "extra"]
    both = drawn(1, 4, names=("positive", "negative", "image"))
    assert made([Dual(1.0, 1.0)], both)[1] == ["positive"]
    assert made([Dual(3.0, 1.0)], both)[1] == ["positive", "image"]
    assert made([Dual(2.0, 2.0)], both)[1] == ["positive", "negative"]
    negatives = drawn(1, 4, names=("positive", "negative", "empty"))
    assert made([PerpNeg(1.0, weights=[0.0])], negatives)[1] == ["positive"]
    assert made([PerpNeg(2.0, weights=[0.0])], negatives)[1] == ["positive", "empty"]


def test_a_negative_prompt_that_repeats_the_positive_one_takes_nothing_away():
    given = drawn(2, 6, names=("positive", "negative", "empty"))
    c, u = given["positive"], given["empty"]
    given["negative"] = u + 0.5 * (c - u)
    result, _ = made([PerpNeg(4.0, weights=[3.0])], given)
    torch.testing.assert_close(result, u + 4 * (c - u), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"conditions": ["a", "b"]}, "2 conditions and 1 weights"),
        ({"conditions": ["a", "a"], "weights": [1, 1]}, "'a' is given twice"),
        ({"conditions": ["positive"]}, "'positive' is given twice"),
        ({"empty": "negative"}, "'negative' is given twice"),
    ],
)
def test_perp_neg_refuses_conditions_that_are_not_apart(given, message):
    with pytest.raises(ConfigurationError, match=message):
        PerpNeg(**given)


def test_a_condition_compared_with_itself_is_refused():
    with pytest.raises(ConfigurationError, match="cannot be 'negative'"):
        MultiCondition("negative")


def test_forms_of_guidance_by_text_and_image_exclude_each_other():
    for stack in ([CFG(), Dual()], [Dual(), RenormText()], [Dual(), PerpNeg()]):
        with pytest.raises(ConfigurationError, match="exclude each other"):
            Guidance(stack)


def test_values_are_aligned_from_the_batch_on():
    one, other = aligned(torch.ones(2), torch.ones(2, 3))
    assert (one.shape, other.shape) == ((2, 1), (2, 3))
    assert aligned(2.0, torch.ones(3))[0] == 2.0
    named, rest = aligned(PerOutput(video=torch.ones(2), audio=1.0), torch.ones(1, 3))
    assert named["video"].shape == (2, 1)
    assert rest["audio"].shape == (1, 3)
