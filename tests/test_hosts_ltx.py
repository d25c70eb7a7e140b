"""ltx-pipelines' own samplers, stages and pipelines, guided: its native guidance is what ours is compared with."""

from __future__ import annotations

import dataclasses
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import ltx_jobs as jobs
import pytest
import torch
from ltx_engine import loaded

from guidance_core import ConfigurationError, PerOutput
from guidance_core.hosts.ltx import GuidedStage, StackDenoiser, guide, stack_of
from guidance_core.hosts.ltx.own import FIELDS
from guidance_core.ranks import Ranks
from guidance_plugins import LTX2

DOCS = Path(__file__).parents[1] / "docs"
ROUNDING = 1e-5
"Of the largest latent, over six steps of a model whose passes differ by as much as they are large."

STANDARD = {"cfg_scale": 3.0, "stg_scale": 1.0, "stg_blocks": [1], "rescale_scale": 0.7, "modality_scale": 3.0}
HQ = {"cfg_scale": 3.0, "stg_scale": 0.0, "stg_blocks": [], "rescale_scale": 0.45, "modality_scale": 3.0}
RULES = {
    "standard": (STANDARD, STANDARD | {"cfg_scale": 7.0}),
    "hq": (HQ, HQ | {"cfg_scale": 7.0, "rescale_scale": 1.0}),
    "skipped": (STANDARD | {"skip_step": 1}, STANDARD | {"skip_step": 1}),
    "video skipped": (STANDARD | {"skip_step": 1}, STANDARD),
    "video guided": (STANDARD | {"stg_blocks": None}, {}),
}


@pytest.fixture(params=["1.0.0", "1.2.0"])
def theirs(request):
    return loaded(request.param)


@pytest.fixture
def newer():
    return loaded("1.2.0")


@pytest.fixture(scope="module")
def four():
    with Ranks(4, outlives_failures=True, patience=120) as ranks:
        yield ranks


def assert_close(mine, own):
    for one, other in zip(mine, own, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert float((one - other).abs().max() / other.abs().max()) < ROUNDING


def params_of(theirs, rule):
    return [theirs.guiders.MultiModalGuiderParams(**values) for values in RULES[rule]]


def both(theirs, kind, rule, sampler, factory=False, wrap=lambda params: params, options=(), **begun):
    """Return the latents of their guidance and of ours, with what the model was asked for."""
    sigmas = jobs.schedule(theirs)
    video, audio = (wrap(params) for params in params_of(theirs, rule))
    model, log = jobs.transformer(theirs, kind)
    own = jobs.native(theirs, model, kind, video, audio, factory=factory, **dict(options))
    wanted = jobs.sampled(theirs, sampler, model, own, jobs.states(theirs, **begun), sigmas)
    if factory:
        video, audio = (theirs.guiders.create_multimodal_guider_factory(each) for each in (video, audio))
    mine_of, mine_log = jobs.transformer(theirs, kind)
    given, _ = jobs.ours(theirs, mine_of, kind, stack_of(video, audio, sigmas.tolist()))
    mine = jobs.sampled(theirs, sampler, mine_of, given, jobs.states(theirs, **begun), sigmas)
    return mine, wanted, mine_log, log


@pytest.mark.parametrize("clean", [None, 1.0, 0.6], ids=["text", "clean first frame", "partly clean first frame"])
@pytest.mark.parametrize("sampler", ["euler", "res2s"])
@pytest.mark.parametrize("rule", ["standard", "hq", "skipped"])
@pytest.mark.parametrize("kind", ["2.0", "2.3"])
def test_a_stack_equals_ltx_pipelines_guidance(theirs, kind, rule, sampler, clean):
    mine, wanted, log, own_log = both(theirs, kind, rule, sampler, clean=clean)
    assert_close(mine, wanted)
    assert (log.passes, log.computed) == (own_log.passes, own_log.computed)


@pytest.mark.parametrize("sampler", ["euler", "res2s", "gradient", "ancestral", "cfg++"])
def test_one_modality_may_be_held_in_every_sampler(newer, sampler):
    mine, wanted, log, own_log = both(newer, "2.3", "video skipped", sampler, clean=1.0)
    assert_close(mine, wanted)
    assert log.computed == own_log.computed
    assert log.computed["video"] < log.computed["audio"] == log.passes


def test_what_is_held_is_not_computed(newer):
    model, log = jobs.transformer(newer, "2.3")
    stack = [LTX2(stg_blocks=1, skip_step={"video": 2, "audio": 1})]
    given, denoiser = jobs.ours(newer, model, "2.3", stack)
    jobs.sampled(newer, "euler", model, given, jobs.states(newer), jobs.schedule(newer))
    assert log.computed == {"video": 4 * 2, "audio": 4 * 3}
    assert log.passes == denoiser.run.passes == 4 * 4


@pytest.mark.parametrize("sampler", ["euler", "gradient"])
def test_parameters_may_depend_on_sigma(theirs, sampler):
    table = theirs.guiders.MultiModalGuiderFactory.from_dict

    def by_sigma(params):
        off = dataclasses.replace(params, cfg_scale=1.0, stg_scale=0.0)
        return table({1.0: dataclasses.replace(params, rescale_scale=0.0), 0.95: params, 0.6: off})

    sigmas = jobs.schedule(theirs)
    positive, negative = jobs.texts(), jobs.texts(seed=7)
    model, log = jobs.transformer(theirs)
    factories = [by_sigma(params) for params in params_of(theirs, "standard")]
    own = [dataclasses.replace(each, negative_context=text) for each, text in zip(factories, negative, strict=True)]
    if theirs.version == "1.0.0":
        native = theirs.helpers.multi_modal_guider_factory_denoising_func(*own, *positive, model)
    else:
        native = theirs.denoisers.FactoryGuidedDenoiser(*positive, *own)
    wanted = jobs.sampled(theirs, sampler, model, native, jobs.states(theirs), sigmas)
    passes, log.passes = log.passes, 0
    given, _ = jobs.ours(theirs, model, "2.0", stack_of(*factories, sigmas.tolist()))
    assert_close(jobs.sampled(theirs, sampler, model, given, jobs.states(theirs), sigmas), wanted)
    assert log.passes == passes < 24


@pytest.mark.parametrize(
    ("preset", "name"), [("2.0", "LTX_2_PARAMS"), ("2.3", "LTX_2_3_PARAMS"), ("2.3-hq", "LTX_2_3_HQ_PARAMS")]
)
def test_the_presets_are_those_of_ltx_pipelines(theirs, preset, name):
    params = getattr(theirs.constants, name)
    (own,) = stack_of(params.video_guider_params, params.audio_guider_params).plugins
    mine = LTX2(preset=preset)
    for output in ("video", "audio"):
        for field in FIELDS:
            value, ours = own.values[field], mine.values[field]
            assert value[output] == (ours[output] if isinstance(ours, PerOutput) else ours), (output, field)


def test_the_newest_preset_is_that_of_ltx_pipelines(newer):
    assert newer.constants.LTX_2_4_PARAMS.video_guider_params == newer.constants.LTX_2_3_PARAMS.video_guider_params
    older, newest = LTX2(preset="2.3").values, LTX2(preset="2.4").values
    assert [newest[field] for field in FIELDS] == [older[field] for field in FIELDS]


def test_a_distilled_model_runs_one_pass_bit_for_bit(newer):
    sigmas = newer.constants.DISTILLED_SIGMAS
    model, log = jobs.transformer(newer, "2.3")
    simple = newer.denoisers.SimpleDenoiser(*jobs.texts("2.3"))
    wanted = jobs.sampled(newer, "euler", model, simple, jobs.states(newer), sigmas)
    passes, log.passes = log.passes, 0
    denoiser = StackDenoiser("ltx2:preset=distilled", {"positive": jobs.texts("2.3")})
    mine = jobs.sampled(newer, "euler", model, denoiser, jobs.states(newer), sigmas)
    assert all(map(torch.equal, mine, wanted))
    assert log.passes == passes == len(sigmas) - 1


def test_a_frozen_modality_keeps_its_positive_text(newer):
    params = params_of(newer, "video guided")
    positive, negative = jobs.texts("2.3"), jobs.texts("2.3", 7)
    model, _ = jobs.transformer(newer, "2.3")
    guiders = newer.guiders.MultiModalGuider(params[0], negative[0]), newer.guiders.MultiModalGuider(params[1])
    own = newer.denoisers.GuidedDenoiser(*positive, *guiders)
    begun, sigmas = partial(jobs.states, newer, frozen=True), jobs.schedule(newer)
    wanted = jobs.sampled(newer, "euler", model, own, begun(), sigmas)
    denoiser = StackDenoiser(stack_of(*params), {"positive": positive, "negative": (negative[0], None)})
    mine = jobs.sampled(newer, "euler", model, denoiser, begun(), sigmas)
    assert_close(mine, wanted)
    assert torch.equal(mine[1], begun()[1].latent)


@pytest.mark.parametrize("outputs", ["video", "audio"])
def test_one_modality_alone(newer, outputs):
    model, _ = jobs.transformer(newer, "2.3")
    begun, sigmas = partial(jobs.states, newer, outputs=outputs), jobs.schedule(newer)
    guider = newer.guiders.MultiModalGuider
    positive, negative = jobs.texts("2.3"), jobs.texts("2.3", 7)
    params = params_of(newer, "standard")
    guiders = [guider(each, text) for each, text in zip(params, negative, strict=True)]
    own = newer.denoisers._guided_denoise  # GuidedDenoiser reads `denoised` of an absent modality

    def native(transformer, video_state, audio_state, sigmas, step_index):
        return own(
            transformer,
            video_state,
            audio_state,
            sigmas[step_index],
            guiders[0] if outputs == "video" else newer.denoisers._ensure_guider(None),
            guiders[1] if outputs == "audio" else newer.denoisers._ensure_guider(None),
            *positive,
            last_denoised_video=None,
            last_denoised_audio=None,
            step_index=step_index,
        )

    wanted = jobs.sampled(newer, "euler", model, native, begun(), sigmas)
    denoiser = StackDenoiser(stack_of(*params), {"positive": positive, "negative": negative})
    mine = jobs.sampled(newer, "euler", model, denoiser, begun(), sigmas)
    index = 0 if outputs == "video" else 1
    assert_close([mine[index]], [wanted[index]])
    assert mine[1 - index] is None


def test_single_predictions_are_handed_on(newer):
    model, _ = jobs.transformer(newer)
    own = jobs.native(newer, model, "2.0", *params_of(newer, "standard"))
    _, denoiser = jobs.ours(newer, model, "2.0", stack_of(*params_of(newer, "standard")))
    given = model, *jobs.states(newer), jobs.schedule(newer), 0
    for mine, wanted in zip(denoiser(*given), own(*given), strict=True):
        for name in ("denoised", "cond", "uncond", "ptb", "mod"):
            assert_close([getattr(mine, name)], [getattr(wanted, name)])


@pytest.mark.parametrize("executor", ["serial", "batched"])
def test_passes_may_share_a_call_of_the_transformer(theirs, executor):
    model, log = jobs.transformer(theirs, "2.3")
    stack = stack_of(*params_of(theirs, "standard"))
    made = []
    for each in ("serial", executor):
        log.calls = 0
        given, _ = jobs.ours(theirs, model, "2.3", stack, executor=each)
        made.append(jobs.sampled(theirs, "euler", model, given, jobs.states(theirs, clean=1.0), jobs.schedule(theirs)))
    assert_close(*made)
    assert log.calls == (24 if executor == "serial" else 6)


@pytest.mark.parametrize("stack", ["apg:scale=3", "cfg-zero-star:scale=4", "tcfg", "smc-cfg", "icg:scale=2"])
def test_other_methods_keep_a_clean_frame(newer, stack):
    model, _ = jobs.transformer(newer, "2.3")
    begun = jobs.states(newer, clean=1.0)
    given, _ = jobs.ours(newer, model, "2.3", stack, seeds=1)
    video, audio = jobs.sampled(newer, "euler", model, given, begun, jobs.schedule(newer))
    assert torch.isfinite(video).all()
    assert torch.isfinite(audio).all()
    clean = begun[0].denoise_mask.squeeze(-1) == 0
    assert torch.equal(video[clean], begun[0].clean_latent[clean])
    assert not torch.equal(video[~clean], begun[0].latent[~clean])


def test_each_schedule_begins_a_run_of_its_own(newer):
    model, _ = jobs.transformer(newer)
    stack = "apg:scale=4,momentum=-0.5"
    _, denoiser = jobs.ours(newer, model, "2.0", stack)
    made = []
    for steps in (6, 6, 4):
        sigmas = jobs.schedule(newer, steps)
        made.append(jobs.sampled(newer, "euler", model, denoiser, jobs.states(newer), sigmas))
        _, fresh = jobs.ours(newer, model, "2.0", stack)
        again = jobs.sampled(newer, "euler", model, fresh, jobs.states(newer), sigmas)
        assert all(map(torch.equal, made[-1], again))


@pytest.mark.parametrize(
    ("name", "constants", "passes"),
    [
        ("ti2vid_one_stage", "LTX_2_PARAMS", 16),
        ("ti2vid_two_stages", "LTX_2_3_PARAMS", 16 + 3),
        ("ti2vid_two_stages_hq", "LTX_2_3_HQ_PARAMS", 3 * 9 + 7),
    ],
)
def test_a_guided_pipeline_equals_its_own_guidance(newer, name, constants, passes):
    params = getattr(newer.constants, constants)
    made, log = jobs.pipeline(newer, name)
    wanted = jobs.generated(made, params)
    assert log.passes == passes
    mine, log = jobs.pipeline(newer, name)
    assert_close(jobs.generated(guide(mine), params), wanted)
    assert log.passes == passes
    log.passes = 0
    jobs.generated(guide(mine, "cfg:scale=1"), params)
    assert log.passes == {16: 4, 16 + 3: 4 + 3, 3 * 9 + 7: 9 + 7}[passes]


def test_a_substituted_stage_stays_guided_and_shows_what_it_wraps(newer):
    made, log = jobs.pipeline(newer, "ti2vid_one_stage")
    guide(made, "cfg:scale=3")
    made.stage = made.stage.with_loras(()).with_builder(jobs.Builder(jobs.velocity(newer, "2.3", 128), log))
    assert isinstance(made.stage, GuidedStage)
    assert made.stage.video_scale_factors == newer.blocks.VIDEO_SCALE_FACTORS
    assert not made.stage.supports_generated_keyframes
    jobs.generated(made, newer.constants.LTX_2_3_PARAMS)
    assert log.passes == 8


# Several ranks.


@pytest.mark.parametrize(("kind", "sampler"), [("2.3", "euler"), ("2.0", "res2s")])
@pytest.mark.parametrize("version", ["1.0.0", "1.2.0"])
def test_all_gather_equals_serial_bitwise(version, kind, sampler, four):
    loaded(version)
    stack = [LTX2(stg_blocks=1, skip_step={"video": 1, "audio": 0})]
    serial, passes, _ = jobs.on_ranks(None, version, kind, stack, sampler)
    for count in (2, 4):
        made = four.run(jobs.on_ranks, version, kind, stack, sampler, ranks=count)
        assert {digest for digest, _, _ in made} == {serial}
        assert sum(own for _, own, _ in made) == passes
        assert max(own for _, own, _ in made) == passes // count


def test_one_pass_on_ranks_needs_no_broadcast(newer, four):
    serial, passes, _ = jobs.on_ranks(None, "1.2.0", "2.3", "ltx2:preset=distilled", "euler")
    made = four.run(jobs.on_ranks, "1.2.0", "2.3", "ltx2:preset=distilled", "euler", True, ranks=2)
    assert [(digest, own) for digest, own, _ in made] == [(serial, passes)] * 2


def test_a_recipe_is_a_stack(newer):
    model, log = jobs.transformer(newer, "2.3")
    given, _ = jobs.ours(newer, model, "2.3", "@ltx-2.3:spatio_temporal_guidance_blocks=[1]")
    mine = jobs.sampled(newer, "euler", model, given, jobs.states(newer), jobs.schedule(newer))
    given, _ = jobs.ours(newer, model, "2.3", "ltx2:preset=2.3,stg_blocks=1")
    assert_close(mine, jobs.sampled(newer, "euler", model, given, jobs.states(newer), jobs.schedule(newer)))
    assert log.passes == 2 * 24


def test_a_pipeline_of_two_stages_on_ranks(newer, four):
    serial, passes = jobs.pipeline_on_ranks(None, "ti2vid_two_stages")
    made = four.run(jobs.pipeline_on_ranks, "ti2vid_two_stages", ranks=2)
    assert {digest for digest, _ in made} == {serial}
    assert [own for _, own in made] == [8 + 3, 8 + 3]  # the second stage has one pass, which every rank runs
    assert passes == 16 + 3


# Bad input.


def refused(newer, stack, conditions=None, *, match, begun=None, sigmas=None, index=0):
    model, log = jobs.transformer(newer)
    conditions = conditions or {"positive": jobs.texts(), "negative": jobs.texts(seed=7)}
    begun = jobs.states(newer) if begun is None else begun
    with pytest.raises(ConfigurationError, match=match):
        StackDenoiser(stack, conditions)(model, *begun, jobs.schedule(newer) if sigmas is None else sigmas, index)
    assert log.calls == 0


def test_what_cannot_be_guided_is_refused_before_the_first_pass(newer):
    refused(newer, "ltx2:preset=2.3", match="acts on block 28, but the model has 3 blocks")
    refused(newer, "pag:scale=1,blocks=1", match="cannot make the change")
    refused(newer, "cfg:scale=3", {"positive": jobs.texts()}, match="negative")
    refused(newer, "cfg:scale=3", {"positive": jobs.texts(), "negative": (None, None)}, match="negative")
    refused(newer, "cfg:scale=3", {"positive": (jobs.texts()[0], None), "negative": jobs.texts()}, match="the audio is")
    refused(newer, "cfg:scale=3", {"negative": jobs.texts()}, match="with 'positive' at least; got")
    refused(newer, "cfg:scale=3", {"positive": jobs.texts()[0]}, match="is a pair")
    refused(newer, "cfg:scale=3", {"positive": ("a cat", None)}, match="a text is a tensor or None; got 'a cat'")
    refused(newer, "cfg:scale=3", begun=(None, None), match="both are None")
    refused(newer, "cfg:scale=3", sigmas=torch.tensor([0.5]), match="needs the sampler's schedule")


def test_a_generation_keeps_its_modalities(newer):
    model, _ = jobs.transformer(newer)
    _, denoiser = jobs.ours(newer, model, "2.0", "cfg:scale=3")
    video, audio = jobs.states(newer)
    denoiser(model, video, audio, sigmas := jobs.schedule(newer), 0)
    with pytest.raises(ConfigurationError, match="began with video and audio; its step 0 has video"):
        denoiser(model, video, None, sigmas, 1)


def test_what_is_no_pipeline_or_parameter_is_named(newer):
    with pytest.raises(ConfigurationError, match="SimpleNamespace holds no DiffusionStage"):
        guide(SimpleNamespace(stage=1))
    with pytest.raises(ConfigurationError, match="has no cfg_scale"):
        stack_of(SimpleNamespace(scale=3.0))
    made, _ = jobs.pipeline(newer, "ti2vid_one_stage")
    forced = newer.denoisers.GuidedDenoiser(*jobs.texts(), force_uncond_pass=True)
    with pytest.raises(ConfigurationError, match="force_uncond_pass is not taken over"):
        guide(made).stage(forced, jobs.schedule(newer))


def test_the_code_of_the_page_runs(newer):
    made, log = jobs.pipeline(newer, "ti2vid_two_stages")
    text = jobs.texts("2.3"), jobs.texts("2.3", 7)
    v_context, a_context, v_negative, a_negative = *text[0], *text[1]
    model, _ = jobs.transformer(newer, "2.3")
    stage = partial(jobs.staged, newer, model)
    names = {"v_context": v_context, "a_context": a_context, "v_negative": v_negative, "a_negative": a_negative}
    space = {"pipeline": made, "stage": stage, "sigmas": jobs.schedule(newer), "transformer": model, **names}
    blocks = re.findall(r"^```{.python .no-run}\n(.*?)^```", (DOCS / "ltx.md").read_text(), re.M | re.S)
    for block in blocks:
        exec(block.replace("blocks=28", "blocks=1").replace("preset=2.3", "preset=2.3,stg_blocks=1"), space)
    assert len(blocks) >= 3
    jobs.generated(made, newer.constants.LTX_2_3_PARAMS)
    assert log.passes
