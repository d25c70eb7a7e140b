"""diffusers' guiders of two phases and of several bands on the same predictions: equal within float32 rounding."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import fdg
from test_diffusers_oracle import STEPS, assert_equal, guiders, ours, predictions_of, scales, seeds, shapes

from guidance_plugins import FDG, APGMix, Rescale

not_one = scales.filter(lambda scale: scale != 1)


@settings(deadline=None, max_examples=25)
@given(
    shapes,
    not_one,
    not_one,
    st.integers(0, STEPS),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([None, -0.5]),
    st.sampled_from([0.0, 3.0]),
    seeds,
)
def test_apg_mix(shape, scale, apg_scale, start_step, eta, momentum, threshold, seed):
    steps = predictions_of(seed, shape, "cond", "uncond")
    guider = guiders.AdaptiveProjectedMixGuidance(
        guidance_scale=scale,
        adaptive_projected_guidance_scale=apg_scale,
        adaptive_projected_guidance_momentum=momentum,
        adaptive_projected_guidance_rescale=threshold,
        eta=eta,
        adaptive_projected_guidance_start_step=start_step,
    )
    plugin = APGMix(scale, apg_scale, start_step, eta=eta, momentum=momentum or 0.0, threshold=threshold)
    expected = []
    for i, predictions in enumerate(steps):
        guider.set_state(i, STEPS, None)
        guider.prepare_inputs({"x": (predictions["cond"], predictions["uncond"])})  # makes the momentum at step 0
        expected.append(guider.forward(predictions["cond"], predictions["uncond"]).pred)
    assert_equal(ours([plugin], steps), expected, 2 + 2 * (scale + apg_scale))


@pytest.fixture
def guider_of_bands(monkeypatch):
    """diffusers' guider with kornia's functions, or with the pyramid of the oracle where kornia is not installed."""
    module = pytest.importorskip("diffusers.guiders.frequency_decoupled_guidance")
    if not module._CAN_USE_KORNIA:

        def pyramid(x, count):
            return [band.float() for band in fdg.pyramid(x.double(), count)]

        monkeypatch.setattr(module, "_CAN_USE_KORNIA", True)
        monkeypatch.setattr(module, "build_laplacian_pyramid_func", pyramid)
        monkeypatch.setattr(module, "upsample_and_blur_func", lambda x: fdg.up(x.double()).float())
    return module.FrequencyDecoupledGuidance


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (1, 2, 16, 12), (1, 3, 9, 7), (2, 1, 24, 40)])
@pytest.mark.parametrize("scale_of_bands", [[10.0, 5.0], [3.0], [6.0, 2.5, 0.5]])
@pytest.mark.parametrize("weights", [1.0, 0.4])
@pytest.mark.parametrize("phi", [0.0, 0.7])
def test_fdg(guider_of_bands, shape, scale_of_bands, weights, phi):
    steps = predictions_of(17, shape, "cond", "uncond")
    guider = guider_of_bands(scale_of_bands, parallel_weights=weights)
    expected = []
    for i, predictions in enumerate(steps):
        guider.set_state(i, STEPS, None)
        guided = guider.forward(predictions["cond"], predictions["uncond"]).pred
        # Where sides were mirrored, the guider returns the longer ones, and rescales with them.
        guided = guided[..., : shape[-2], : shape[-1]]
        expected.append(_rescaled(guided, predictions["cond"], phi))
    plugins = [FDG(scale_of_bands, [weights], form="diffusers"), *([Rescale(phi)] if phi else [])]
    assert_equal(ours(plugins, steps), expected, 2 + 2 * max(scale_of_bands))


def _rescaled(guided, c, phi):
    from diffusers.guiders.guider_utils import rescale_noise_cfg

    return rescale_noise_cfg(guided, c, phi) if phi else guided
