"""Recipes of models that draw pictures, beside the functions of sglang and vLLM-Omni."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from recipes.comparing import assert_close, compared, falling, guided, seeds, steps_of, tokens
from recipes.engine_code import Piece

Predictions = Mapping[str, torch.Tensor]
scales = st.sampled_from([1.0, 1.5, 4.0, 7.25]) | st.floats(1, 12).map(lambda value: round(value, 2))
"Scales that are off at 1."
least = st.sampled_from([0.0, 0.4, 1.0])
counts = st.integers(1, 8)
windows = st.sampled_from([(0.0, 1.0), (0.25, 0.75), (0.5, 1.0), (0.0, 0.5)]) | st.tuples(
    st.floats(0.01, 0.45), st.floats(0.5, 0.99)
)


def vllm(file: str, name: str, digest: str, first: str = "", last: str = "") -> Piece:
    return Piece("vllm-omni", f"vllm_omni/diffusion/{file}", name, digest, first, last)


def sglang(file: str, name: str, digest: str, first: str = "", last: str = "") -> Piece:
    return Piece("sglang", f"sglang/multimodal_gen/{file}", name, digest, first, last)


def _matches_all(
    steps: list[dict[str, torch.Tensor]], mine: list[torch.Tensor], expected: Callable[..., Any], size: Any
):
    for i, (predictions, result) in enumerate(zip(steps, mine, strict=True)):
        assert_close(result, expected(i, predictions), size)


# sglang: one policy combines, and a model's configuration corrects.

POLICY = "runtime/distributed/cfg_policy.py"
COMBINE = sglang(POLICY, "CFGPolicy.combine", "09d325a4b52a")
POSTPROCESS = sglang(POLICY, "_apply_cfg_postprocess", "7ce16c9b783a")
CLAMP = sglang(POLICY, "_apply_cfg_normalization", "8d66769ae5dc")
RESCALE = sglang(POLICY, "_rescale_noise_cfg", "fa554dfd7411")
CONFIGS = {
    "joyimage-edit": sglang(
        "configs/pipeline_configs/joy_image.py", "JoyImageEditPipelineConfig.postprocess_cfg_noise", "c5a94957554e"
    ),
    "longcat-image": sglang(
        "configs/pipeline_configs/longcat_image.py", "LongCatImagePipelineConfig.postprocess_cfg_noise", "09b58b1fc9d3"
    ),
    "qwen-image": sglang(
        "configs/pipeline_configs/qwen_image.py", "QwenImagePipelineConfig.postprocess_cfg_noise", "5c8afd5cb04f"
    ),
    "sd3": sglang("configs/pipeline_configs/base.py", "postprocess_cfg_noise", "189d99a5b324"),
    "z-image": sglang("configs/pipeline_configs/base.py", "postprocess_cfg_noise", "189d99a5b324"),
}


def combined_by_sglang(recipe: str, c: torch.Tensor, u: torch.Tensor, scale: float, **batch: Any) -> torch.Tensor:
    """Return what sglang makes of two predictions, where guidance is on."""
    correct = CONFIGS[recipe].function()
    config = SimpleNamespace(postprocess_cfg_noise=lambda *given: correct(None, *given))
    postprocess = POSTPROCESS.function(_apply_cfg_normalization=CLAMP.function(), _rescale_noise_cfg=RESCALE.function())
    combine = COMBINE.function(
        _wrap=lambda each: (each,), _unwrap=lambda each: each[0], _apply_cfg_postprocess=postprocess
    )
    usual = {"cfg_normalization": 0, "guidance_rescale": 0.0, "do_classifier_free_guidance": True}
    given = SimpleNamespace(**usual | {"true_cfg_scale": None, "guidance_scale": scale} | batch)
    return combine(None, [c, u], given, scale, config)


SGLANG: Mapping[str, tuple[str, Mapping[str, st.SearchStrategy[Any]]]] = {
    "joyimage-edit": ("guidance_scale", {}),
    "longcat-image": ("guidance_scale", {"enable_cfg_renorm": st.booleans(), "cfg_renorm_min": least}),
    "qwen-image": ("true_cfg_scale", {}),
    "sd3": ("guidance_scale", {}),
    "z-image": ("guidance_scale", {"cfg_normalization": st.sampled_from([False, True, 0.6, 1.3])}),
}


@pytest.mark.parametrize("recipe", SGLANG)
def test_a_recipe_combines_as_sglang_does(recipe):
    scale_name, more = SGLANG[recipe]

    @compared
    @given(seeds, tokens, scales, st.fixed_dictionaries(dict(more)))
    def same(seed, shape, scale, parameters):
        assume(scale > 1)
        steps = steps_of(seed, shape, "cond", "uncond", steps=2)
        own = scale - 1 if recipe == "z-image" else scale  # sglang hands its policy the scale that counts from u
        mine = guided(recipe, steps, **{scale_name: own}, **parameters)

        def expected(_, predictions):
            return combined_by_sglang(recipe, predictions["cond"], predictions["uncond"], scale, **parameters)

        _matches_all(steps, mine, expected, scale)

    same()


# vLLM-Omni: a mixin combines, and a model's pipeline overrides it.

MIXIN = "distributed/cfg_parallel.py"
MIXED = vllm(MIXIN, "CFGParallelMixin.combine_cfg_noise", "f94f51f05314")
NORMALIZED = vllm(MIXIN, "CFGParallelMixin.cfg_normalize_function", "cd33aa171879")
LONGCAT = vllm("models/longcat_image/pipeline_longcat_image.py", "cfg_normalize_function", "23348ee89f15")


@pytest.mark.parametrize("recipe", ["qwen-image", "longcat-image"])
def test_a_recipe_combines_as_vllm_omni_does(recipe):
    @compared
    @given(seeds, tokens, scales)
    def same(seed, shape, scale):
        assume(scale > 1)
        steps = steps_of(seed, shape, "cond", "uncond", steps=2)
        mine = guided(recipe, steps, **{"true_cfg_scale" if recipe == "qwen-image" else "guidance_scale": scale})
        normalize = (NORMALIZED if recipe == "qwen-image" else LONGCAT).function()
        pipeline = SimpleNamespace(cfg_normalize_function=lambda c, g: normalize(None, c, g))
        combine = MIXED.function(_wrap=lambda each: (each,), _unwrap=lambda each: each[0])

        def expected(_, predictions):
            return combine(pipeline, predictions["cond"], predictions["uncond"], scale, cfg_normalize=True)

        _matches_all(steps, mine, expected, scale)

    same()


BAGEL = "models/bagel/bagel_transformer.py"
OF_BAGEL = vllm(BAGEL, "_combine_cfg", "0a047799a961")
BAGEL_WINDOW = vllm(BAGEL, "Bagel.generate_image", "4eff93cf195f", "if t > cfg_interval[0] and t <= cfg_interval[1]")


@compared
@given(
    seeds,
    st.sampled_from([(1, 16, 8), (1, 6, 4)]),
    scales,
    scales,
    st.sampled_from(["global", "channel", "text_channel"]),
    least,
    windows,
    counts,
)
@example(0, (1, 6, 4), 4.0, 1.5, "global", 0.0, (0.5, 0.75), 4)
def test_bagel_combines_and_begins_as_vllm_omni_does(seed, shape, text, image, kind, smallest, window, count):
    steps = steps_of(seed, shape, "cond", "image", "text", steps=count)
    sigmas = falling(count)
    assume(all(each == end or abs(each - end) > 1e-4 for each in sigmas for end in window))
    mine = guided(
        "bagel",
        steps,
        sigmas=sigmas,
        cfg_text_scale=text,
        cfg_img_scale=image,
        cfg_renorm_type=kind,
        cfg_renorm_min=smallest,
        cfg_interval=window,
    )
    combine = OF_BAGEL.function()

    def expected(i, predictions):
        now = BAGEL_WINDOW.run(t=sigmas[i], cfg_interval=window, cfg_text_scale=text, cfg_img_scale=image)
        c, r, v = (predictions[name] for name in ("cond", "image", "text"))
        if now["cfg_text_scale_"] <= 1:
            return c
        return combine(c, r, v, now["cfg_text_scale_"], now["cfg_img_scale_"], kind, smallest)

    _matches_all(steps, mine, expected, text * image)


@attrs.define
class Engine:
    """What vLLM-Omni's loops see of a pipeline: they name the passes by what each is given."""

    predictions: Predictions
    combine_two: Callable[..., torch.Tensor]
    combine_many: Callable[..., torch.Tensor]

    def predict_noise(self, **inputs: Any) -> torch.Tensor:
        return self.predictions[self.pass_of(inputs)]

    def pass_of(self, inputs: Mapping[str, Any]) -> str:
        if "branch" in inputs:
            return {"cond": "cond", "img_cond": "image", "uncond": "uncond"}[inputs["branch"]]
        has_text = inputs.get("prompt_embeds", inputs.get("instruction_embeds")) == "text"
        has_picture = inputs["ref_image_hidden_states"] is not None
        return {(True, True): "cond", (False, True): "image", (True, False): "text", (False, False): "uncond"}[
            has_text, has_picture
        ]

    def predict_noise_maybe_with_cfg(
        self, do_true_cfg, true_cfg_scale, positive_kwargs, negative_kwargs, cfg_normalize, kwargs=None
    ):
        c = self.predict_noise(**positive_kwargs)
        if not do_true_cfg:
            return c
        u = self.predict_noise(**negative_kwargs)
        return self.combine_two(c, u, true_cfg_scale, cfg_normalize, kwargs)

    def predict_noise_with_multi_branch_cfg(self, do_true_cfg, true_cfg_scale, branches_kwargs, cfg_normalize=False):
        passes = [self.predict_noise(**inputs) for inputs in branches_kwargs]
        return self.combine_many(passes, true_cfg_scale, cfg_normalize)

    def _get_cfg_kwargs(self, *_, branch, **__):
        return {"branch": branch}


BOOGU = "models/boogu_image/pipeline_boogu_image.py"
BOOGU_TWO = vllm(BOOGU, "BooguImagePipeline.combine_cfg_noise", "1ea14888d1cf")
BOOGU_MANY = vllm(BOOGU, "BooguImagePipeline.combine_multi_branch_cfg_noise", "d5a718abd0da")
BOOGU_STEP = vllm(BOOGU, "BooguImagePipeline.forward", "a63a117230e7", "in_cfg_range =", "if task_type ==")


@pytest.mark.parametrize("task", ["ti2i", "t2i"])
def test_boogu_chooses_its_passes_as_vllm_omni_does(task):
    @compared
    @given(seeds, tokens, scales, scales)
    def same(seed, shape, text, image):
        edits = task == "ti2i"
        image = image if edits else 1.0
        names = ("cond", "image", "text", "uncond") if edits else ("cond", "uncond")
        steps = steps_of(seed, shape, *names, steps=2)
        recipe, more = ("boogu-image-edit", {"image_guidance_scale": image}) if edits else ("boogu-image", {})
        mine = guided(recipe, steps, text_guidance_scale=text, **more)

        def expected(i, predictions):
            shown = predictions if edits else {**predictions, "text": predictions["cond"]}
            two, many = BOOGU_TWO.function(), BOOGU_MANY.function()
            engine = Engine(
                shown,
                lambda c, u, scale, normalize, _: two(None, c, u, scale, normalize),
                lambda passes, scale, normalize: many(None, passes, scale, normalize),
            )
            return BOOGU_STEP.run(
                self=engine,
                i=i,
                t=None,
                latents=None,
                task_type=task,
                num_timesteps=2,
                cfg_range=(0.0, 1.0),
                text_guidance_scale=text,
                image_guidance_scale=image,
                instruction_embeds="text",
                instruction_attention_mask=None,
                negative_instruction_embeds="none",
                negative_instruction_attention_mask=None,
                freqs_real=None,
                ref_latents="picture" if edits else None,
            )["model_pred"]

        _matches_all(steps, mine, expected, text + image)

    same()


OMNIGEN = "models/omnigen2/pipeline_omnigen2.py"
OMNIGEN_MANY = vllm(OMNIGEN, "OmniGen2Pipeline.combine_multi_branch_cfg_noise", "74fedd8e07ac")
OMNIGEN_STEP = vllm(
    OMNIGEN, "OmniGen2Pipeline.processing", "464dfb2e2e99", "text_guidance_scale =", "if text_guidance_scale > 1.0"
)


@compared
@given(seeds, tokens, scales, scales, windows, counts)
@example(0, (1, 6, 4), 4.0, 1.5, (0.25, 0.5), 4)
def test_omnigen2_chooses_its_passes_as_vllm_omni_does(seed, shape, text, image, window, count):
    steps = steps_of(seed, shape, "cond", "image", "uncond", steps=count)
    mine = guided("omnigen2", steps, text_guidance_scale=text, image_guidance_scale=image, cfg_range=window)
    many = OMNIGEN_MANY.function()

    def expected(i, predictions):
        engine = Engine(predictions, lambda *_: None, lambda passes, scale, _: many(None, passes, scale))
        pipeline = SimpleNamespace(
            text_guidance_scale=text,
            image_guidance_scale=image,
            cfg_range=window,
            predict_noise=engine.predict_noise,
            predict_noise_with_multi_branch_cfg=engine.predict_noise_with_multi_branch_cfg,
        )
        return OMNIGEN_STEP.run(
            self=pipeline,
            i=i,
            t=None,
            timesteps=range(count),
            latents=None,
            prompt_embeds="text",
            prompt_attention_mask=None,
            negative_prompt_embeds="none",
            negative_prompt_attention_mask=None,
            freqs_cis=None,
            ref_latents="picture",
        )["model_pred"]

    _matches_all(steps, mine, expected, text + image)


NEXTSTEP = "models/nextstep_1_1/"
VELOCITY = vllm(f"{NEXTSTEP}modeling_nextstep_heads.py", "get_velocity_from_cfg", "47445419ed8c")
LAYOUT = vllm(f"{NEXTSTEP}pipeline_nextstep_1_1.py", "_resolve_cfg_layout", "38cdc2037620")


@compared
@given(seeds, tokens, scales, scales | st.sampled_from([0.5, 0.0]))
def test_nextstep_chooses_its_passes_as_vllm_omni_does(seed, shape, text, image):
    steps = steps_of(seed, shape, "cond", "image", "uncond", steps=2)
    mine = guided("nextstep-1.1", steps, cfg=text, cfg_img=image)
    passes, image = LAYOUT.function()(text, image, True)
    names = {1: ("cond",), 2: ("cond", "uncond"), 3: ("cond", "image", "uncond")}[passes]

    def expected(_, predictions):
        stacked = torch.cat([predictions[name] for name in names])
        return VELOCITY.function()(None, stacked, text, image, passes)

    _matches_all(steps, mine, expected, text + image)


SENSENOVA = "models/sensenova_u1/pipeline_sensenova_u1.py"
DENOISE = vllm(SENSENOVA, "_denoise", "92b56f349c84")
TWO = vllm(SENSENOVA, "combine_cfg_noise", "6f95e2ff4141")
MANY = vllm(SENSENOVA, "combine_multi_branch_cfg_noise", "eb09b29fab27")
CORRECTED = vllm(SENSENOVA, "_apply_cfg_norm", "1b42af374447")
OPTIMIZED = vllm(SENSENOVA, "_optimized_scale", "abecbc993722")


def denoised_by_sensenova(
    predictions: Predictions, i: int, t: float, *, edits: bool, **parameters: Any
) -> torch.Tensor:
    pipeline = SimpleNamespace(_apply_cfg_norm=CORRECTED.function())
    two = TWO.function(_optimized_scale=OPTIMIZED.function(), logger=logging.getLogger("sensenova"))
    many = MANY.function()
    engine = Engine(
        predictions,
        lambda c, u, scale, norm, more: two(pipeline, (c,), (u,), scale, norm, more),
        lambda passes, scale, norm: many(pipeline, passes, scale, norm),
    )
    settings = SimpleNamespace(**{"img_cfg_scale": 1.0, **parameters})
    return DENOISE.function()(engine, None, None, t, None, None, None, settings, i, edits)


@compared
@given(seeds, tokens, scales, st.sampled_from(["none", "cfg_zero_star", "global", "channel"]), windows, counts)
@example(0, (1, 6, 4), 4.0, "global", (0.25, 0.75), 8)
def test_sensenova_is_guided_as_in_vllm_omni(seed, shape, scale, norm, window, count):
    steps = steps_of(seed, shape, "cond", "uncond", steps=count)
    parameters = {"cfg_scale": scale, "cfg_norm": norm, "cfg_interval": window}
    mine = guided("sensenova-u1", steps, sigmas=falling(count), **parameters)

    def expected(i, predictions):
        return denoised_by_sensenova(predictions, i, i / count, edits=False, **parameters)

    assume(all(i / count == end or abs(i / count - end) > 1e-4 for i in range(count) for end in window))
    _matches_all(steps, mine, expected, scale)


@compared
@given(
    seeds,
    tokens,
    scales | st.just(0.5),
    scales | st.just(0.5),
    st.booleans(),
    st.sampled_from(["none", "global", "channel"]),
    windows,
    counts,
)
@example(0, (1, 6, 4), 4.0, 1.5, False, "global", (0.25, 0.75), 8)
def test_sensenova_edits_as_in_vllm_omni(seed, shape, scale, image, equal, norm, window, count):
    image = scale if equal else image
    steps = steps_of(seed, shape, "cond", "image", "uncond", steps=count)
    parameters = {"cfg_scale": scale, "img_cfg_scale": image, "cfg_norm": norm, "cfg_interval": window}
    mine = guided("sensenova-u1-edit", steps, sigmas=falling(count), **parameters)

    def expected(i, predictions):
        return denoised_by_sensenova(predictions, i, i / count, edits=True, **parameters)

    _matches_all(steps, mine, expected, scale + image)


HUNYUAN = vllm("models/hunyuan_image3/hunyuan_image3_transformer.py", "ClassifierFreeGuidance.__call__", "82634ecc03b7")


@compared
@given(seeds, tokens, scales)
def test_hunyuanimage_3_combines_as_vllm_omni_does(seed, shape, scale):
    steps = steps_of(seed, shape, "cond", "uncond", steps=2)
    mine = guided("hunyuanimage-3", steps, guidance_scale=scale)
    operator = SimpleNamespace(use_original_formulation=False)

    def expected(i, predictions):
        return HUNYUAN.function()(operator, predictions["cond"], predictions["uncond"], scale, i)

    _matches_all(steps, mine, expected, scale)


MOSS = "runtime/pipelines_core/stages/model_specific_stages/moss_image.py"
MOSS_STEP = sglang(MOSS, "MOSSImageDenoisingStage._predict_noise_with_cfg", "288bd46b1a29")
MOSS_EXTRA = sglang(MOSS, "MOSSImageDenoisingStage._has_extra_slg", "bba81bc21b24")
MOSS_WITH = sglang(MOSS, "MOSSImageDenoisingStage._with_uncond_skip_layers", "6157540f2b54")
MOSS_LAYERS = sglang("configs/sample/moss_image.py", "resolve_uncond_skip_layers", "dedcf7ad230b")


@dataclasses.dataclass(frozen=True)
class MossPass:
    is_conditional: bool
    kwargs: dict[str, Any]

    def configure_batch(self, batch: Any) -> None: ...


@dataclasses.dataclass(frozen=True)
class MossPolicy:
    branches: list[MossPass]

    def combine(self, predictions, batch, scale, config, *, cfg_parallel):
        if len(predictions) == 1:
            return predictions[0]
        return combined_by_sglang("sd3", *predictions, scale)


@compared
@given(
    seeds,
    tokens,
    scales | st.just(0.5),
    st.sampled_from([None, [], [22], [3, 4]]),
    st.sampled_from([None, [], [9, 10]]),
    st.sampled_from([0.0, 2.5]),
    st.sampled_from([0.0, 0.01, 0.25, 0.5]),
    st.sampled_from([0.25, 0.5, 1.0]),
    counts,
)
@example(0, (1, 6, 4), 4.0, None, None, 0.0, 0.25, 0.5, 8)
def test_moss_skips_layers_as_sglang_does(seed, shape, scale, uncond, layers, slg, start, stop, count):
    params = SimpleNamespace(
        uncond_skip_layers=uncond, slg_layers=layers, slg_scale=slg, slg_start=start, slg_stop=stop
    )
    steps = steps_of(seed, shape, "cond", "uncond", "weak", "skipped", steps=count)
    mine = guided("moss-image", steps, guidance_scale=scale, **vars(params))
    resolve = MOSS_LAYERS.function()
    has_extra, with_layers = MOSS_EXTRA.function(), MOSS_WITH.function(replace=dataclasses.replace)

    def expected(i, predictions):
        def run(one):
            skipped = tuple(one.kwargs.get("skip_layers", ()))
            assert skipped in ((), tuple(layers or ()), resolve(params))
            if one.is_conditional:
                return predictions["skipped" if skipped else "cond"]
            return predictions["weak" if skipped else "uncond"]

        policy = MossPolicy([MossPass(True, {}), *([MossPass(False, {})] if scale != 1 else [])])
        config = SimpleNamespace(
            slice_noise_pred=lambda prediction, _: prediction,
            get_classifier_free_guidance_scale=lambda _, given: given,
        )
        stage = SimpleNamespace(
            _has_extra_slg=has_extra,
            _has_dynamic_guidance=lambda given: False,
            _with_uncond_skip_layers=with_layers,
            _predict_noise=lambda **inputs: run(
                MossPass(inputs["is_conditional"], {"skip_layers": inputs.get("skip_layers", ())})
            ),
        )
        for each in policy.branches:
            each.kwargs["is_conditional"] = each.is_conditional
        usual = SimpleNamespace(
            _predict_noise_with_cfg=lambda *, cfg_policy, **_: cfg_policy.combine(
                [run(each) for each in cfg_policy.branches], None, scale, None, cfg_parallel=False
            )
        )
        step = MOSS_STEP.function(
            super=lambda: usual,
            replace=dataclasses.replace,
            resolve_uncond_skip_layers=resolve,
            set_forward_context=lambda **_: contextlib.nullcontext(),
        )
        batch = SimpleNamespace(sampling_params=params, timesteps=range(count), do_classifier_free_guidance=scale != 1)
        server = SimpleNamespace(pipeline_config=config, enable_cfg_parallel=False)
        names = "current_model latent_model_input timestep attn_metadata target_dtype cfg_gate_state guidance latents"
        return step(
            stage,
            **dict.fromkeys(names.split()),
            batch=batch,
            timestep_index=i,
            current_guidance_scale=scale,
            cfg_policy=policy,
            server_args=server,
        )

    _matches_all(steps, mine, expected, scale + slg)
