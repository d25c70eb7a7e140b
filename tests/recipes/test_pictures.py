"""Recipes of models that draw pictures, beside the lines of diffusers' pipelines that combine their predictions."""

from __future__ import annotations

import inspect
import math
import tomllib
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import diffusers
import pytest
import torch
from diffusers.guiders import AdaptiveProjectedMixGuidance
from hypothesis import assume, example, given
from hypothesis import strategies as st

from guidance_core.recipes import recipe_named
from guidance_core.recipes.finding import shipped
from recipes.comparing import assert_close, compared, falling, guided, seeds, steps_of, tokens
from recipes.engine_code import Piece

PICTURES = {
    name
    for file in resources.files("guidance_core.recipes").joinpath("models").iterdir()
    if file.name.startswith("images")
    for name in tomllib.loads(file.read_text(encoding="utf-8"))
}
"The recipes of models that draw pictures."
Names = Mapping[str, torch.Tensor]
pictures = st.sampled_from([(1, 4, 4, 6), (2, 3, 2, 4), (3, 4, 1, 2)])
"Shapes [B, C, H, W]."
from_u = st.sampled_from([1.0, 1.5, 4.0, 7.25]) | st.floats(1, 12).map(lambda value: round(value, 2))
"Scales that are off at 1."
from_c = from_u.map(lambda value: value - 1)
rescales = st.sampled_from([0.0, 0.7, 1.0])
counts = st.integers(1, 9)


def lines(file: str, digest: str, first: str, last: str = "", name: str = "__call__") -> Piece:
    return Piece("diffusers", f"diffusers/pipelines/{file}", name, digest, first, last)


@attrs.frozen
class Combination:
    """Lines that make `result` of the predictions of one step."""

    recipe: str
    piece: Piece
    names: Callable[[Names, Mapping[str, Any]], Mapping[str, Any]]
    "Their names, given the predictions by branch and the recipe's parameters."
    result: str = "noise_pred"
    then: Piece | None = None
    "Further lines, with the same names."
    parameters: Mapping[str, st.SearchStrategy[Any]] = attrs.field(factory=lambda: {"guidance_scale": from_u})
    off: float = 1.0
    "The scale up to which the pipeline never comes to these lines."
    shapes: st.SearchStrategy[tuple[int, ...]] = tokens


def _named(cond: str, uncond: str, **more: str) -> Callable[[Names, Mapping[str, Any]], Mapping[str, Any]]:
    """Names of the predictions; the parameters have their own, and are attributes of `self` too."""

    def names(predictions: Names, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        return {
            cond: predictions["cond"],
            uncond: predictions["uncond"],
            **parameters,
            "self": SimpleNamespace(**parameters, do_classifier_free_guidance=True),
        }

    return names


def _stacked(name: str) -> Callable[[Names, Mapping[str, Any]], Mapping[str, Any]]:
    def names(predictions: Names, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        both = torch.cat([predictions["uncond"], predictions["cond"]])
        return {
            name: both,
            **parameters,
            "self": SimpleNamespace(**parameters, do_classifier_free_guidance=True),
        }

    return names


TRUE_CFG = {"true_cfg_scale": from_u}
AFTER = _named("noise_pred", "neg_noise_pred")
TEXT = _named("noise_pred_text", "noise_pred_uncond")
COND = _named("noise_pred_cond", "noise_pred_uncond")
RESCALED = {"guidance_scale": from_u, "guidance_rescale": rescales}
MATCHED = ("comb_pred = neg_noise_pred", "noise_pred = comb_pred")


def _with_rescale(file: str, digest: str) -> Callable[[Names, Mapping[str, Any]], Mapping[str, Any]]:
    function = Piece("diffusers", f"diffusers/pipelines/{file}", "rescale_noise_cfg", digest)
    stacked = _stacked("noise_pred")
    return lambda predictions, parameters: {
        **stacked(predictions, parameters),
        "rescale_noise_cfg": function.function(),
    }


SD, SDXL = "stable_diffusion/pipeline_stable_diffusion.py", "stable_diffusion_xl/pipeline_stable_diffusion_xl.py"
SPLIT = ("noise_pred_uncond, noise_pred_text =", "noise_pred = noise_pred_uncond")
RESTORE = "if self.do_classifier_free_guidance and self.guidance_rescale"
COMBINATIONS = [
    Combination(
        "ernie-image",
        lines("ernie_image/pipeline_ernie_image.py", "1be6dbb85cae", "pred_uncond, pred_cond =", "pred = pred_uncond"),
        _stacked("pred"),
        result="pred",
    ),
    Combination(
        "flux.1-dev",
        lines("flux/pipeline_flux.py", "0913e2dc7f78", "noise_pred = neg_noise_pred"),
        AFTER,
        parameters=TRUE_CFG,
    ),
    Combination(
        "flux.1-kontext-dev",
        lines("flux/pipeline_flux_kontext.py", "0913e2dc7f78", "noise_pred = neg_noise_pred"),
        AFTER,
        parameters=TRUE_CFG,
    ),
    Combination(
        "flux.2-klein-base",
        lines("flux2/pipeline_flux2_klein.py", "4f15e20de973", "noise_pred = neg_noise_pred +"),
        AFTER,
    ),
    Combination(
        "glm-image", lines("glm_image/pipeline_glm_image.py", "a21fcef710ab", "noise_pred = noise_pred_uncond"), COND
    ),
    Combination(
        "joyimage-edit",
        lines(
            "joyimage/pipeline_joyimage_edit.py",
            "869e3fc58aad",
            "comb_pred = noise_pred_uncond",
            "noise_pred = comb_pred",
        ),
        _named("noise_pred", "noise_pred_uncond"),
        shapes=st.sampled_from([(1, 2, 4, 3, 3), (2, 1, 3, 2, 4)]),
    ),
    Combination(
        "krea-2",
        lines("krea2/pipeline_krea2.py", "275727c2f6bb", "noise_pred = noise_pred + guidance_scale"),
        AFTER,
        parameters={"guidance_scale": from_c},
        off=0.0,
    ),
    Combination(
        "longcat-image",
        lines(
            "longcat_image/pipeline_longcat_image.py",
            "000d82bb6e4a",
            "noise_pred = noise_pred_uncond",
            "if enable_cfg_renorm",
        ),
        TEXT,
        parameters={
            "guidance_scale": from_u,
            "enable_cfg_renorm": st.booleans(),
            "cfg_renorm_min": st.sampled_from([0.0, 0.4, 1.0]),
        },
    ),
    Combination(
        "longcat-image-edit",
        lines("longcat_image/pipeline_longcat_image_edit.py", "927be2804cb8", "noise_pred = noise_pred_uncond"),
        TEXT,
    ),
    Combination(
        "ovis-image", lines("ovis_image/pipeline_ovis_image.py", "4f15e20de973", "noise_pred = neg_noise_pred"), AFTER
    ),
    Combination(
        "qwen-image", lines("qwenimage/pipeline_qwenimage.py", "0f71ad91489a", *MATCHED), AFTER, parameters=TRUE_CFG
    ),
    Combination(
        "qwen-image-2.1",
        lines("qwenimage21/pipeline_qwenimage21.py", "0913e2dc7f78", "noise_pred = neg_noise_pred"),
        AFTER,
        parameters=TRUE_CFG,
    ),
    Combination(
        "qwen-image-edit",
        lines("qwenimage/pipeline_qwenimage_edit.py", "0f71ad91489a", *MATCHED),
        AFTER,
        parameters=TRUE_CFG,
    ),
    Combination(
        "qwen-image-edit",
        lines("qwenimage/pipeline_qwenimage_edit_plus.py", "0f71ad91489a", *MATCHED),
        AFTER,
        parameters=TRUE_CFG,
    ),
    Combination(
        "qwen-image-layered",
        lines(
            "qwenimage/pipeline_qwenimage_layered.py", "056902c29f6f", "comb_pred = neg_noise_pred", "if cfg_normalize"
        ),
        AFTER,
        parameters={**TRUE_CFG, "cfg_normalize": st.booleans()},
    ),
    Combination(
        "sana",
        lines(
            "sana/pipeline_sana.py",
            "7fce0f0e3c41",
            "noise_pred_uncond, noise_pred_text =",
            "noise_pred = noise_pred_uncond",
        ),
        _stacked("noise_pred"),
        shapes=pictures,
    ),
    Combination(
        "sd",
        lines(SD, "d09e64ed5460", *SPLIT),
        _with_rescale(SD, "67e53db71294"),
        then=lines(SD, "53a3d8c33632", RESTORE),
        parameters=RESCALED,
        shapes=pictures,
    ),
    Combination(
        "sdxl",
        lines(SDXL, "d09e64ed5460", *SPLIT),
        _with_rescale(SDXL, "67e53db71294"),
        then=lines(SDXL, "53a3d8c33632", RESTORE),
        parameters=RESCALED,
        shapes=pictures,
    ),
]


@pytest.mark.parametrize("case", COMBINATIONS, ids=lambda case: f"{case.recipe} {case.piece.file.rpartition('/')[2]}")
def test_a_recipe_combines_as_the_pipeline_does(case):
    @compared
    @given(seeds, case.shapes, st.fixed_dictionaries(dict(case.parameters)))
    def same(seed, shape, parameters):
        steps = steps_of(seed, shape, "cond", "uncond", steps=2)
        mine = guided(case.recipe, steps, settings=_levels(case.recipe), **parameters)
        for predictions, result in zip(steps, mine, strict=True):
            scale = parameters.get("true_cfg_scale", parameters.get("guidance_scale"))
            expected = predictions["cond"]
            if scale > case.off:
                space = case.piece.run(**case.names(predictions, parameters))
                expected = (case.then.run(**space) if case.then else space)[case.result]
            assert_close(result, expected, scale)

    same()


def _levels(recipe: str) -> dict[str, Any]:
    return {"alphas": 1.0} if recipe_named(recipe).prediction_types[0] == "epsilon" else {}


Z_IMAGE = "z_image/pipeline_z_image.py"
TIMES = lines(Z_IMAGE, "821359188549", "if self.do_classifier_free_guidance and self._cfg_truncation")
CURRENT = lines(Z_IMAGE, "b34ebd4fe2b7", "current_guidance_scale = self.guidance_scale", "apply_cfg =")
CLAMPED = lines(Z_IMAGE, "90a05a67f171", "pos_out = model_out_list", "noise_pred = torch.stack(noise_pred")


@compared
@given(
    seeds,
    pictures,
    from_c,
    st.sampled_from([False, True, 0.0, 0.6, 1.3]),
    st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5]) | st.floats(0, 1),
    counts,
)
@example(0, (1, 4, 4, 6), 4.0, True, 0.5, 8)
def test_z_image_truncates_and_clamps_as_the_pipeline_does(seed, shape, scale, normalization, truncation, count):
    sigmas = falling(count)
    timesteps = torch.tensor(sigmas[:-1]) * 1000
    assume(all(truncation == 1 - each or abs(1 - each - truncation) > 1e-5 for each in sigmas))
    assume(truncation in (0.25, 0.5) or truncation not in [1 - each for each in sigmas[1:-1]])  # not exact in float32
    steps = steps_of(seed, shape, "cond", "uncond", steps=count)
    parameters = {"guidance_scale": scale, "cfg_normalization": normalization, "cfg_truncation": truncation}
    mine = guided("z-image", steps, sigmas=sigmas, **parameters)
    pipe = SimpleNamespace(
        guidance_scale=scale,
        do_classifier_free_guidance=scale > 0,
        _cfg_truncation=truncation,
        _cfg_normalization=normalization,
    )
    times = TIMES.run(self=pipe, timesteps=timesteps)["_precomputed_t_norms"]
    for i, (predictions, result) in enumerate(zip(steps, mine, strict=True)):
        space = CURRENT.run(self=pipe, _precomputed_t_norms=times, i=i)
        expected = predictions["cond"]
        if space["apply_cfg"]:
            both = [*predictions["cond"], *predictions["uncond"]]
            expected = CLAMPED.run(**space | {"model_out_list": both, "actual_batch_size": shape[0]})["noise_pred"]
        assert_close(result, expected, scale)


LUMINA = "lumina2/pipeline_lumina2.py"
TRUNCATED = lines(LUMINA, "f1274d496076", "do_classifier_free_truncation =")
BY_WIDTH = lines(LUMINA, "93f215d8706a", "noise_pred = noise_pred_uncond", "if cfg_normalization")


@compared
@given(
    seeds,
    pictures,
    from_u,
    st.booleans(),
    st.sampled_from([0.0, 0.25, 0.3, 0.5, 0.7, 1.0, 2.0]) | st.floats(0, 1),
    counts,
)
@example(0, (1, 4, 4, 6), 4.0, True, 0.7, 9)
def test_lumina2_truncates_as_the_pipeline_does(seed, shape, scale, normalization, ratio, count):
    steps = steps_of(seed, shape, "cond", "uncond", steps=count)
    parameters = {"guidance_scale": scale, "cfg_normalization": normalization, "cfg_trunc_ratio": ratio}
    mine = guided("lumina2", steps, **parameters)
    for i, (predictions, result) in enumerate(zip(steps, mine, strict=True)):
        space = TRUNCATED.run(i=i, num_inference_steps=count, cfg_trunc_ratio=ratio)
        expected = predictions["cond"]
        if scale > 1 and not space["do_classifier_free_truncation"]:
            names = _named("noise_pred_cond", "noise_pred_uncond")(predictions, parameters)
            expected = BY_WIDTH.run(**names)["noise_pred"]
        assert_close(result, expected, scale)


IDEOGRAM = "ideogram4/pipeline_ideogram4.py"
WEIGHTS = lines(IDEOGRAM, "c0e26d0e07d2", "if guidance_scale is not None:", "gw = torch.as_tensor")
WEIGHTED = lines(IDEOGRAM, "477d8d5ebe87", "gw_i = gw[i]", "v = gw_i")


@compared
@given(seeds, tokens, st.none() | from_u, st.sampled_from([(48, "3x3+7x45"), (5, "3x2+7x3"), (4, "2.5x1+7x9")]))
def test_ideogram_4_takes_its_scales_from_the_end(seed, shape, scale, schedule):
    count, text = schedule
    steps = steps_of(seed, shape, "cond", "weak", steps=count)
    mine = guided("ideogram-4", steps, guidance_scale=scale, guidance_schedule=text)
    parts = [part.split("x") for part in text.split("+")]
    listed = [float(value) for value, times in parts for _ in range(int(times))][:count][::-1]
    if count == 48:
        assert listed == [7.0] * 45 + [3.0] * 3, "the pipeline's default"
    space = WEIGHTS.run(
        guidance_scale=scale, guidance_schedule=listed, num_inference_steps=count, device=torch.device("cpu")
    )
    for i, (predictions, result) in enumerate(zip(steps, mine, strict=True)):
        expected = WEIGHTED.run(**space | {"i": i, "pos_v": predictions["cond"], "neg_v": predictions["weak"]})["v"]
        assert_close(result, expected, 8)


SKIPPED = lines(
    "stable_diffusion_3/pipeline_stable_diffusion_3.py",
    "d3300bb7cdea",
    "noise_pred_uncond, noise_pred_text =",
    "if skip_guidance_layers is not None",
)


@compared
@given(
    seeds,
    pictures,
    from_u,
    st.sampled_from([None, [7, 8, 9], [1]]),
    st.sampled_from([0.0, 1.0, 2.8]),
    st.sampled_from([0.0, 0.01, 0.25, 0.5]),
    st.sampled_from([0.2, 0.5, 0.75, 1.0]),
    counts,
)
@example(0, (1, 4, 4, 6), 4.0, [1], 2.8, 0.25, 0.75, 8)
def test_stable_diffusion_3_skips_layers_as_the_pipeline_does(seed, shape, scale, layers, slg, start, stop, count):
    steps = steps_of(seed, shape, "cond", "uncond", "skipped", steps=count)
    mine = guided(
        "sd3",
        steps,
        guidance_scale=scale,
        skip_guidance_layers=layers,
        skip_layer_guidance_scale=slg,
        skip_layer_guidance_start=start,
        skip_layer_guidance_stop=stop,
    )
    for i, (predictions, result) in enumerate(zip(steps, mine, strict=True)):
        expected = predictions["cond"]
        if scale > 1:
            pipe = SimpleNamespace(
                guidance_scale=scale,
                _skip_layer_guidance_scale=slg,
                joint_attention_kwargs=None,
                transformer=lambda predictions=predictions, **inputs: (predictions["skipped"],),
            )
            expected = SKIPPED.run(
                self=pipe,
                i=i,
                t=torch.tensor(1.0),
                latents=predictions["cond"],
                noise_pred=torch.cat([predictions["uncond"], predictions["cond"]]),
                num_inference_steps=count,
                skip_guidance_layers=layers,
                skip_layer_guidance_start=start,
                skip_layer_guidance_stop=stop,
                original_prompt_embeds=None,
                original_pooled_prompt_embeds=None,
            )["noise_pred"]
        assert_close(result, expected, scale + slg)


Piece(
    "diffusers", "diffusers/guiders/adaptive_projected_guidance_mix.py", "AdaptiveProjectedMixGuidance", "319d1791bde2"
)
Piece("diffusers", "diffusers/guiders/adaptive_projected_guidance_mix.py", "normalized_guidance", "b8c207c17c14")


@compared
@given(
    seeds,
    pictures,
    st.fixed_dictionaries(
        {
            "guidance_scale": st.sampled_from([1.0, 3.5]) | st.floats(1.5, 8),
            "adaptive_projected_guidance_scale": st.floats(1.5, 12),
            "adaptive_projected_guidance_momentum": st.sampled_from([-0.5, 0.0, 0.3]),
            "adaptive_projected_guidance_rescale": st.sampled_from([0.0, 1.0, 10.0]),
            "adaptive_projected_guidance_start_step": st.integers(0, 5),
            "eta": st.sampled_from([0.0, 0.5, 1.0]),
            "guidance_rescale": rescales,
        }
    ),
    counts,
)
def test_hunyuanimage_is_guided_as_its_guider_does(seed, shape, parameters, count):
    steps = steps_of(seed, shape, "cond", "uncond", steps=count)
    mine = guided("hunyuanimage-2.1", steps, **parameters)
    guider = AdaptiveProjectedMixGuidance(**parameters)
    for i, (predictions, result) in enumerate(zip(steps, mine, strict=True)):
        c, u = predictions["cond"], predictions["uncond"]
        guider.set_state(step=i, num_inference_steps=count, timestep=torch.tensor(1.0))
        guider.prepare_inputs({"inputs": (c, u)})
        off = math.isclose(parameters["guidance_scale"], 1.0)
        expected = guider.forward(c, None if off else u).pred
        assert_close(result, c if off else expected, 20)


def _pipelines():
    for recipe in shipped().values():
        for name in recipe.pipelines:
            if recipe.name in PICTURES and hasattr(diffusers, name):
                yield pytest.param(recipe, getattr(diffusers, name), id=f"{recipe.name} {name}")


@pytest.mark.parametrize(("recipe", "pipeline"), list(_pipelines()))
def test_parameters_have_the_names_and_defaults_of_the_pipeline(recipe, pipeline):
    known = inspect.signature(pipeline.__call__).parameters
    own = {name: about["default"] for name, about in recipe.parameters.items() if name in known}
    assert own or recipe.distilled or recipe.name == "hunyuanimage-2.1", "the parameters of its guider"
    for name, default in own.items():
        expected = "none" if known[name].default is None else known[name].default
        if name == "guidance_schedule":  # the test of Ideogram 4 compares it
            continue
        assert default == expected, name


def test_the_guiders_parameters_have_its_defaults():
    known = inspect.signature(AdaptiveProjectedMixGuidance).parameters
    for name, about in shipped()["hunyuanimage-2.1"].parameters.items():
        assert about["default"] == known[name].default, name


def test_what_says_that_it_was_compared_is_in_a_test():
    texts = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    for name in PICTURES:
        assert bool(shipped()[name].compared) == (f'"{name}"' in texts), name
