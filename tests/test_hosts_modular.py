"""diffusers' Modular pipelines with a guider that runs a stack; and split sequences beside shared-out branches."""

from __future__ import annotations

import json

import pytest
import torch

from guidance_core import ConfigurationError, GuidanceError

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import diffusers_jobs
import diffusers_judged as judge
import modular_jobs
from diffusers import ClassifierFreeGuidance, SkipLayerGuidance
from every_pipeline import CASES
from small_pipelines import STEPS

from guidance_core.hosts.diffusers.modular import StackGuidance
from guidance_core.ranks import Ranks

pytestmark = pytest.mark.filterwarnings("ignore")  # of diffusers
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def pipe():
    return modular_jobs.modular_wan()


@pytest.fixture(scope="module")
def ranks():
    with Ranks(4, outlives_failures=True, patience=120, imports=["diffusers", "transformers"]) as pool:
        yield pool


def apart(one, other):
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    ("spec", "own"),
    [
        ("cfg:scale=5", {"guidance_scale": 5.0}),
        ("cfg:scale=5,rescale:phi=0.7", {"guidance_scale": 5.0, "guidance_rescale": 0.7}),
        ("cfg:scale=5,interval:lo=0.2,hi=0.6,by=fraction", {"guidance_scale": 5.0, "start": 0.2, "stop": 0.6}),
    ],
)
def test_a_stack_makes_what_diffusers_guiders_make(pipe, spec, own, batch):
    expected = modular_jobs.made(pipe, ClassifierFreeGuidance(**own), batch)
    found = modular_jobs.made(pipe, StackGuidance(spec).follow(pipe.scheduler), batch)
    assert apart(found, expected) <= ROUNDING
    assert apart(found, modular_jobs.made(pipe, ClassifierFreeGuidance(guidance_scale=2.0), batch)) > 1e-3


def test_a_window_runs_fewer_passes(pipe):
    forwards = []
    hook = pipe.transformer.register_forward_pre_hook(lambda *_: forwards.append(1))
    modular_jobs.made(pipe, StackGuidance("cfg:scale=5,gate:lo=0.5").follow(pipe.scheduler))
    hook.remove()
    assert len(forwards) < 2 * STEPS


def test_a_method_in_x0_space_is_that_of_the_classic_pipeline(pipe):
    (case,) = (case for case in CASES if case.name == "Wan 2.1")
    spec = "apg:scale=6"
    given = {**case.inputs(1), "latents": torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(5))}
    expected = judge.made_with(judge.guide(case.pipeline(), spec), **given)[0]
    names = ("prompt_embeds", "negative_prompt_embeds", "latents")
    named = {name: given[name] for name in names}
    pipe.update_components(guider=StackGuidance(spec).follow(pipe.scheduler))
    found = pipe(**named, height=32, width=32, num_frames=5, num_inference_steps=STEPS, output="latents")
    assert apart(found, expected) <= ROUNDING


def test_a_perturbed_pass_runs_and_leaves_nothing(pipe):
    plain = modular_jobs.made(pipe, ClassifierFreeGuidance(guidance_scale=5.0))
    found = modular_jobs.made(pipe, StackGuidance("cfg:scale=5,stg:scale=1,blocks=0").follow(pipe.scheduler))
    assert apart(found, plain) > 1e-3
    assert apart(modular_jobs.made(pipe, ClassifierFreeGuidance(guidance_scale=5.0)), plain) == 0.0


def test_flow_matching_needs_no_scheduler_where_its_timesteps_say_the_noise_levels(pipe):
    expected = modular_jobs.made(pipe, StackGuidance("cfg:scale=5").follow(pipe.scheduler))
    assert apart(modular_jobs.made(pipe, StackGuidance("cfg:scale=5", prediction_type="flow")), expected) <= ROUNDING


def test_each_call_is_a_run_of_its_own(pipe):
    guider = StackGuidance("apg:scale=6,momentum=-0.5").follow(pipe.scheduler)
    first = modular_jobs.made(pipe, guider)
    assert torch.equal(modular_jobs.made(pipe, guider), first)


def test_a_disabled_guider_runs_the_positive_condition_alone(pipe):
    guider = StackGuidance("cfg:scale=5", enabled=False)
    assert torch.equal(modular_jobs.made(pipe, guider), modular_jobs.made(pipe, ClassifierFreeGuidance(enabled=False)))


def test_a_guider_is_saved_loaded_copied_and_shown(tmp_path):
    guider = StackGuidance("apg:scale=6", executor="all_gather")
    guider.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "guider_config.json").read_text())["spec"] == "apg:scale=6"
    loaded = StackGuidance.from_pretrained(tmp_path)
    for each in (loaded, guider.new()):
        assert (each.config["spec"], each.config["executor"]) == ("apg:scale=6", "all_gather")
        assert each.guidance == guider.guidance
    assert guider.new(spec="cfg:scale=3").config["spec"] == "cfg:scale=3"
    assert '"spec": "apg:scale=6"' in repr(guider)


def test_a_configuration_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="has 'scale'; one of StackGuidance has spec, prediction_type"):
        StackGuidance.from_config({"spec": "cfg:scale=5", "scale": 5})
    SkipLayerGuidance(skip_layer_guidance_layers=[0]).save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="one of StackGuidance has"):
        StackGuidance.from_pretrained(tmp_path)
    with pytest.raises(GuidanceError, match="cfgg"):
        StackGuidance("cfgg:scale=5")
    with pytest.raises(ConfigurationError, match="is 'flow' or None; got 'epsilon'"):
        StackGuidance(prediction_type="epsilon")


def test_a_guider_that_is_not_told_the_noise_levels_says_so(pipe):
    with pytest.raises(ConfigurationError, match=r"does not know the noise levels. Call follow\(pipe.scheduler\)"):
        modular_jobs.made(pipe, StackGuidance("cfg:scale=5"))
    with pytest.raises(ConfigurationError, match="does not show its latents to its guider"):
        StackGuidance("cfg:scale=5").prepare_inputs({})


def test_two_ranks_give_the_bits_of_one_with_half_the_forwards_each(ranks, pipe):
    spec = "cfg:scale=5"
    expected = diffusers_jobs.bits([modular_jobs.made(pipe, StackGuidance(spec).follow(pipe.scheduler))])
    assert ranks.run(modular_jobs.on_ranks, spec, ranks=2) == [(expected, STEPS)] * 2


def test_more_ranks_than_passes_give_the_same_bits(ranks, pipe):
    spec = "cfg:scale=5"
    expected = diffusers_jobs.bits([modular_jobs.made(pipe, StackGuidance(spec).follow(pipe.scheduler))])
    assert ranks.run(modular_jobs.on_ranks, spec, ranks=3) == [(expected, STEPS), (expected, STEPS), (expected, 0)]


def test_a_failure_on_one_rank_inside_the_guiders_block_is_told_to_all(ranks):
    found = ranks.run(modular_jobs.failing, ranks=2)
    assert found[0] == found[1]
    assert "rank 1, step 0: RuntimeError: out of memory" in found[0]


@pytest.mark.parametrize("spec", ["cfg:scale=5", "apg:scale=6"])
def test_split_sequences_beside_shared_out_branches_give_what_one_process_gives(ranks, spec):
    (case,) = (case for case in CASES if case.name == "Wan 2.1")
    expected = judge.made_by(case, spec)
    for found, tokens, forwards in ranks.run(modular_jobs.split, spec):
        assert judge.apart(found, expected) <= ROUNDING
        assert set(tokens) == {4}, "half of the eight"
        assert forwards == STEPS, "half of the passes"
