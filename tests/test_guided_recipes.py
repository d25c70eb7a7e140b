"""`guide(pipe)` without a spec: the recipe of the pipeline's model, with the call's own parameters."""

from __future__ import annotations

import warnings

import pytest
import torch
from diffusers import ZImagePipeline
from small_pipelines import CASES

from guidance_core import ConfigurationError, UnknownNameError
from guidance_core.hosts.diffusers import (
    GuidanceArgumentWarning,
    GuidanceRecipeWarning,
    UnguidedWarning,
    guide,
    guided,
)
from guidance_core.recipes import Recipe, recipe_of, register_recipe, unregister_recipe

NAMES = {
    "Qwen-Image": "Qwen-Image",
    "Stable Diffusion XL": "Stable Diffusion XL, rescale",
    "Stable Diffusion 3": "Stable Diffusion 3",
    "Stable Diffusion": "Stable Diffusion, DDIM",
    "Flux": "Flux",
    "Z-Image": "Z-Image",
}


def _pipeline(name, model=""):
    case = next(each for each in CASES if each.name == NAMES[name])
    pipe = case.pipeline()
    if model:
        pipe.register_to_config(_name_or_path=model)
    return pipe, case.inputs


def _picture(call, **given):
    with warnings.catch_warnings():
        warnings.simplefilter("error", GuidanceArgumentWarning)
        warnings.simplefilter("error", UnguidedWarning)
        return call(**given, generator=torch.Generator().manual_seed(3)).images


def _assert_same(mine, native):
    """Assert equality within the rounding of five steps."""
    torch.testing.assert_close(mine, native, rtol=1e-5, atol=1e-5 * native.abs().max().item())


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("Qwen-Image", {}),
        ("Qwen-Image", {"true_cfg_scale": 3}),
        ("Stable Diffusion XL", {}),
        ("Stable Diffusion XL", {"guidance_scale": 3, "guidance_rescale": 0.7}),
        ("Stable Diffusion 3", {}),
        ("Stable Diffusion 3", {"guidance_scale": 3, "skip_guidance_layers": [1], "skip_layer_guidance_stop": 0.8}),
        ("Stable Diffusion", {"guidance_scale": 3}),
        ("Flux", {"true_cfg_scale": 3, "guidance_scale": 2.0}),
        ("Z-Image", {}),
        ("Z-Image", {"guidance_scale": 3, "cfg_normalization": 0.9, "cfg_truncation": 0.5}),
    ],
    ids=str,
)
def test_a_pipeline_is_guided_by_its_models_recipe_as_by_itself(name, own, batch):
    pipe, inputs = _pipeline(name)
    native = _picture(pipe, **inputs(batch), **own)
    _assert_same(_picture(guide(pipe), **inputs(batch), **own), native)
    if own:
        assert (native - _picture(pipe, **inputs(batch))).abs().max() > 1e-3 * native.abs().max(), "it says something"


def test_a_parameter_of_the_spec_stays_and_others_come_from_the_call():
    pipe, inputs = _pipeline("Stable Diffusion XL")
    native = _picture(pipe, **inputs(1), guidance_scale=3, guidance_rescale=0.7)
    _assert_same(_picture(guide(pipe, "@sdxl:guidance_scale=3"), **inputs(1), guidance_rescale=0.7), native)


@pytest.mark.parametrize(
    ("name", "off"),
    [
        ("Z-Image", {"guidance_scale": 0, "cfg_truncation": 0.5}),
        ("Stable Diffusion XL", {"guidance_scale": 1, "guidance_rescale": 0.7}),
        ("Stable Diffusion 3", {"guidance_scale": 1, "skip_guidance_layers": [1]}),
        ("Qwen-Image", {"true_cfg_scale": 1}),
        ("Flux", {}),
    ],
    ids=str,
)
def test_where_the_scale_is_off_one_pass_runs_and_nothing_negative_is_needed(name, off):
    pipe, inputs = _pipeline(name)
    given = {key: value for key, value in inputs(1).items() if "negative" not in key}
    assert torch.equal(_picture(guide(pipe), **given, **off), _picture(pipe, **given, **off))


@pytest.mark.parametrize(
    ("name", "model", "off"),
    [
        ("Z-Image", "Tongyi-MAI/Z-Image-Turbo", {"guidance_scale": 0}),
        ("Stable Diffusion XL", "stabilityai/sdxl-turbo", {"guidance_scale": 0.0}),
        ("Flux", "black-forest-labs/FLUX.1-schnell", {}),
    ],
)
def test_a_distilled_model_runs_one_pass_as_by_itself(name, model, off):
    pipe, inputs = _pipeline(name, model)
    given = {key: value for key, value in inputs(1).items() if "negative" not in key}
    native = _picture(pipe, **given, **off)
    assert torch.equal(_picture(guide(pipe), **given), native)
    assert torch.equal(_picture(guide(pipe), **given, **off), native), "as the model's page says it"
    with pytest.raises(ConfigurationError, match="distilled and runs without guidance"):
        guide(pipe)(**given, **{"true_cfg_scale" if name == "Flux" else "guidance_scale": 3})


def test_what_the_guidance_ignores_still_reaches_the_model():
    pipe, inputs = _pipeline("Flux", "black-forest-labs/FLUX.1-schnell")
    given = {key: value for key, value in inputs(1).items() if "negative" not in key}
    native = _picture(pipe, **given, guidance_scale=0.0)
    assert torch.equal(_picture(guide(pipe), **given, guidance_scale=0.0), native)


def test_a_parameter_that_a_model_ignores_is_refused_in_a_call():
    pipe, inputs = _pipeline("Qwen-Image")
    with pytest.raises(ConfigurationError, match=r"'qwen-image' ignores 'guidance_scale'.*true_cfg_scale"):
        guide(pipe)(**inputs(1), guidance_scale=3)


def test_several_models_of_one_pipeline_are_told_apart_by_name_parts_and_settings():
    assert recipe_of(["Tongyi-MAI/Z-Image-Turbo"], "ZImagePipeline").name == "z-image-turbo"
    assert recipe_of(["/models/Z-Image"], "ZImagePipeline").name == "z-image"
    assert recipe_of([], "Krea2Pipeline", ["transformer"]).name == "krea-2"
    assert recipe_of([], "Krea2Pipeline", ["transformer", "is_distilled"]).name == "krea-2-turbo"
    assert recipe_of([], "Flux2KleinPipeline", ["is_distilled"]).name == "flux.2-klein"


class SometimesDistilled(ZImagePipeline):
    """A pipeline whose configuration says whether its model is distilled, as Krea 2's does."""

    def __init__(self, scheduler, vae, text_encoder, tokenizer, transformer, is_distilled=False):
        super().__init__(scheduler, vae, text_encoder, tokenizer, transformer)
        self.register_to_config(is_distilled=is_distilled)


def test_a_setting_of_a_pipeline_says_which_model_it_holds():
    pipe, inputs = _pipeline("Z-Image")
    about = {"title": "Z", "source": "s", "prediction_types": ["flow"], "pipelines": ["SometimesDistilled"]}
    register_recipe(Recipe("some", stack=[{"plugin": "cfg", "scale": 3}], conditions=["negative"], **about))
    register_recipe(Recipe("some-distilled", stack=[], parts=["is_distilled"], distilled=True, **about))
    try:
        for is_distilled, scale in ((False, 2), (True, 0)):
            made = SometimesDistilled(**pipe.components, is_distilled=is_distilled)
            made.set_progress_bar_config(disable=True)
            _assert_same(_picture(guide(made), **inputs(1)), _picture(pipe, **inputs(1), guidance_scale=scale))
    finally:
        unregister_recipe("some")
        unregister_recipe("some-distilled")


def test_a_pipeline_without_a_recipe_says_so():
    pipe, _ = _pipeline("Qwen-Image")
    pipe.__class__ = type("MyPipeline", (type(pipe),), {})
    with pytest.raises(UnknownNameError, match=r"no recipe for MyPipeline; give a spec"):
        guide(pipe)


def test_the_recipe_of_another_pipeline_is_warned_of_with_the_right_one_once():
    pipe, inputs = _pipeline("Flux")
    own = r"for QwenImagePipeline.*this is a FluxPipeline.*The recipe of this pipeline is @flux\.1-dev"
    with pytest.warns(GuidanceRecipeWarning, match=own) as found:
        made = guide(pipe, "@qwen-image")
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error", GuidanceRecipeWarning)  # once is enough
        made(**inputs(1))
    with pytest.warns(GuidanceRecipeWarning, match=own) as found, guided(pipe, "@qwen-image,gate:lo=0.5"):
        pass
    assert found[0].filename == __file__


@pytest.mark.parametrize("spec", [None, "@flux.1-dev", "@flux.1-dev:true_cfg_scale=3", "@bagel", "cfg:scale=3"])
def test_a_recipe_that_fits_or_names_no_pipelines_is_not_warned_of(spec):
    pipe, _ = _pipeline("Flux")
    inherited = type(pipe)
    pipe.__class__ = type("Mine", (inherited,), {})  # one of the user's own
    with warnings.catch_warnings():
        warnings.simplefilter("error", GuidanceRecipeWarning)
        guide(pipe, spec, pattern="FluxPipeline") if spec else guide(_pipeline("Flux")[0])
