"""diffusers' guiders with a weakened pass: equal within float32 rounding, with the stated differences."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from test_diffusers_oracle import STEPS, assert_equal, ours, predictions_of, scales, seeds, shapes

from guidance_core import BlurredAttention
from guidance_plugins import CFG, PAG, SEG, SLG, Autoguidance, Rescale

guiders = pytest.importorskip("diffusers.guiders")

DECIDED = scales.filter(lambda scale: scale != 1)
WINDOWS = [(0.0, 1.0), (0.25, 0.75), (0.3, 0.8), (0.5, 0.5)]


def floored(window):
    """The steps of ours at which diffusers acts: it rounds both ends down to steps, and leaves out the first one."""
    first, last = (int(end * STEPS) for end in window)
    return {"start": min((first + 1) / STEPS, 1.0), "stop": max(last / STEPS, min((first + 1) / STEPS, 1.0))}


def theirs(guider, steps, is_on, perturbed):
    """Return what a guider of three predictions makes of each step."""
    results = []
    for i, predictions in enumerate(steps):
        guider.set_state(i, STEPS, None)
        asked = {"pred_cond": predictions["cond"]}
        if guider._is_cfg_enabled():
            asked["pred_uncond"] = predictions["uncond"]
        if getattr(guider, is_on)():
            asked[perturbed] = predictions["perturbed"]
        results.append(guider.forward(**asked).pred)
    return results


@pytest.mark.parametrize("phi", [0.0, 0.7])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("kind", ["pag", "slg", "seg"])
@settings(deadline=None, max_examples=8)
@given(shapes, DECIDED, scales, seeds)
def test_with_cfg(kind, window, phi, shape, scale, strength, seed):
    steps = predictions_of(seed, shape, "cond", "uncond", "perturbed")
    rescale = {"guidance_scale": scale, "guidance_rescale": phi}
    start, stop = window
    if kind == "pag":
        guider = guiders.PerturbedAttentionGuidance(
            perturbed_guidance_scale=strength,
            perturbed_guidance_layers=[1],
            perturbed_guidance_start=start,
            perturbed_guidance_stop=stop,
            **rescale,
        )
    elif kind == "slg":
        guider = guiders.SkipLayerGuidance(
            skip_layer_guidance_scale=strength,
            skip_layer_guidance_layers=[1],
            skip_layer_guidance_start=start,
            skip_layer_guidance_stop=stop,
            **rescale,
        )
    else:
        guider = guiders.SmoothedEnergyGuidance(
            seg_guidance_scale=strength,
            seg_guidance_layers=[1],
            seg_guidance_start=start,
            seg_guidance_stop=stop,
            **rescale,
        )
    is_on, given_as = ("_is_seg_enabled", "pred_cond_seg") if kind == "seg" else ("_is_slg_enabled", "pred_cond_skip")
    plugin = {"pag": PAG, "slg": SLG, "seg": SEG}[kind](strength, 1, branch="perturbed", **floored(window))
    mine = ours([CFG(scale), plugin, Rescale(phi)], steps)
    assert_equal(mine, theirs(guider, steps, is_on, given_as), 1 + scale + strength)


@settings(deadline=None, max_examples=20)
@given(shapes, scales, seeds)
def test_without_cfg_diffusers_counts_from_the_weakened_pass(shape, strength, seed):
    steps = predictions_of(seed, shape, "cond", "uncond", "perturbed")
    for original in (True, False):
        guider = guiders.SmoothedEnergyGuidance(
            guidance_scale=0.0 if original else 1.0,
            seg_guidance_scale=strength,
            seg_guidance_layers=[1],
            use_original_formulation=original,
        )
        expected = theirs(guider, steps, "_is_seg_enabled", "pred_cond_seg")
        scale = strength if original else strength - 1  # p + s(c − p) is c + (s − 1)(c − p)
        mine = ours([SEG(scale, 1, branch="perturbed", start=1 / STEPS)], steps)
        assert_equal(mine, expected, 1 + strength)


@pytest.mark.parametrize("dropout", [0.2, 1.0])
@pytest.mark.parametrize("window", [(0.0, 1.0), (0.25, 0.75)])
@settings(deadline=None, max_examples=15)
@given(shapes, DECIDED, seeds)
def test_autoguidance(dropout, window, shape, scale, seed):
    steps = predictions_of(seed, shape, "cond", "uncond")
    guider = guiders.AutoGuidance(
        guidance_scale=scale, auto_guidance_layers=[1], dropout=dropout, start=window[0], stop=window[1]
    )
    expected = []
    for i, predictions in enumerate(steps):
        guider.set_state(i, STEPS, None)
        weak = predictions["uncond"] if guider._is_ag_enabled() else None
        expected.append(guider.forward(predictions["cond"], weak).pred)
    plugin = Autoguidance(
        scale, blocks=1, dropout=dropout, form="diffusers", branch="uncond", start=window[0], stop=window[1]
    )
    assert_equal(ours([plugin], steps), expected, 1 + scale)


def test_diffusers_blurs_at_infinity_and_averages_where_it_is_told_to_blur():
    """Its two cases are swapped: only a sigma above its threshold is blurred, by a kernel as wide as the image."""
    import torch
    from diffusers.hooks.smoothed_energy_guidance_utils import _gaussian_blur_2d

    queries = torch.randn(2, 16, 3, generator=torch.Generator().manual_seed(0))
    their_blur = _gaussian_blur_2d(queries.clone(), 3, 0.5, 9999.0)
    torch.testing.assert_close(their_blur, BlurredAttention().blurred(queries, (4, 4)))
    their_mean = _gaussian_blur_2d(queries.clone(), 3, 0.5, 0.1)
    torch.testing.assert_close(their_mean, BlurredAttention(sigma=0.5).blurred(queries, (4, 4)))
