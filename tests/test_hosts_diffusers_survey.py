"""Every pipeline of diffusers that guides works, or is refused by name with a reason."""

from __future__ import annotations

import pytest
import torch

from guidance_core import ConfigurationError, DenoiserError

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import diffusers
import diffusers_judged as judge
import diffusers_survey as survey
from every_pipeline import CASES
from picture_pipelines import assembled

from guidance_core.hosts.diffusers import guide
from guidance_core.hosts.diffusers.pipelines import PATTERNS
from guidance_core.hosts.diffusers.placeholder import Placeholder
from guidance_core.hosts.diffusers.refused import REASONS, UNTRIED

pytestmark = pytest.mark.filterwarnings("ignore")  # of diffusers


def case_named(name):
    return next(case for case in CASES if case.name == name)


def test_every_pipeline_that_guides_works_or_is_refused_with_a_reason():
    found = {each.name: each for each in survey.surveyed()}
    unknown = [each.name for each in found.values() if each.name not in {*PATTERNS, *REASONS, *UNTRIED}]
    assert unknown == []
    assert sorted({*PATTERNS, *REASONS, *UNTRIED} - set(found)) == [], "every name is one of diffusers"
    assert set(UNTRIED.values()) <= set(PATTERNS)


def test_every_pipeline_that_is_said_to_work_is_judged():
    judged = {
        next(kind.__name__ for kind in type(case.pipeline()).__mro__ if kind.__module__.startswith("diffusers."))
        for case in CASES
    }
    assert judged == set(PATTERNS)
    assert len(judged) >= 25


@pytest.mark.parametrize("name", [*REASONS, *UNTRIED])
def test_a_pipeline_that_is_not_guided_is_refused_by_name(name):
    kind = getattr(diffusers, name)
    pipe = object.__new__(kind)
    with pytest.raises(ConfigurationError, match=f"{name} (cannot be guided: |was not tried)"):
        guide(pipe, "cfg:scale=5")


def test_a_pipeline_that_was_not_tried_takes_the_pattern_of_another():
    case = case_named("Stable Diffusion XL, rescale")
    base = case.pipeline()
    pipe = assembled(diffusers.StableDiffusionXLPAGPipeline, unet=base.unet, scheduler=base.scheduler)
    pipe.set_progress_bar_config(disable=True)
    expected = judge.made_with(pipe, **case.inputs(1), guidance_scale=5.0, pag_scale=0.0)
    found = judge.made_with(guide(pipe, "cfg:scale=5", pattern="StableDiffusionPAGPipeline"), **case.inputs(1))
    assert judge.apart(found, expected) <= 1e-5
    with pytest.raises(ConfigurationError, match=r"no pipeline 'FluxPipelin' .*Did you mean 'FluxPipeline'"):
        guide(pipe, "cfg:scale=5", pattern="FluxPipelin")


def test_a_pipelines_guider_and_methods_are_its_own_again_after_a_call():
    case = case_named("HunyuanImage 2.1")
    pipe = case.pipeline()
    guider, held = pipe.guider, set(vars(pipe))
    guide(pipe, case.spec)(**case.inputs(1))
    assert pipe.guider is guider
    assert set(vars(pipe)) - held <= {name for name in vars(pipe) if name.startswith("_")}
    assert "prepare_latents" not in vars(pipe)


def test_a_guider_that_is_off_does_not_turn_a_guided_call_off():
    case = case_named("HunyuanVideo 1.5")
    pipe, expected = case.pipeline(), judge.made_by(case, case.spec)
    pipe.guider.disable()
    assert judge.apart(judge.made_with(guide(pipe, case.spec), **case.inputs(1)), expected) == 0.0


def test_a_model_that_predicts_towards_the_signal_needs_a_scheduler_for_it():
    case = case_named("Mochi")
    pipe = case.pipeline()
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ConfigurationError, match="needs invert_sigmas=True"):
        guide(pipe, case.spec)(**case.inputs(1))


def test_what_a_pipeline_does_to_its_first_prediction_waits_for_the_second():
    first = Placeholder.pending("not made yet", defers=True)
    x = torch.ones(2, 3)
    derived = (2 * x + 3 * first.float())[:, :2].to(torch.float64)
    for read in (lambda: derived.shape, lambda: derived.dtype, lambda: bool(derived.sum()), lambda: x.add_(first)):
        with pytest.raises(DenoiserError, match="not made yet"):
            read()
    first.fill(torch.full((2, 3), 2.0))
    assert torch.equal(derived * 1, torch.full((2, 2), 8.0, dtype=torch.float64))


def test_the_page_lists_every_refusal():
    text = survey.PAGE.read_text()
    assert survey.table() in text
