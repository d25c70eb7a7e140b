"""sglang's LTX-2 stage, guided: its own code prepares every pass, the stack decides which there are."""

from __future__ import annotations

import importlib
import unittest

import pytest
import torch
from engines.loading import with_engine

from guidance_core import ConfigurationError
from guidance_core.hosts.sglang import GuidedLTX2Denoising
from guidance_core.ranks import Ranks

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def jobs():
    with_engine("sglang")
    return importlib.import_module("sglang_ltx2_jobs")


@pytest.fixture(scope="module")
def four():
    with Ranks(4, outlives_failures=True, patience=120) as ranks:
        yield ranks


def difference(mine, other):
    return float((mine - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("exact", [False, True], ids=["one call", "a call each"])
def test_a_stack_equals_the_stages_own_guider(jobs, exact):
    mine, theirs = jobs.Guided(), jobs.Small()
    assert difference(mine.generate(exact=exact), theirs.generate(exact=exact)) < 3e-6
    assert mine.model.rows == theirs.model.rows == 4 * jobs.STEPS


def test_a_sample_does_not_depend_on_its_batch(jobs):
    """The stage's own guider takes the spread of the whole batch."""
    both = jobs.Guided().generate(samples=2)
    assert torch.isfinite(both).all()
    assert difference(jobs.Guided().generate(samples=2, exact=True), both) < 3e-6
    apart = jobs.Small()
    assert difference(apart.generate(samples=2), both) > 1e-4


def test_a_request_without_a_guider_of_its_own_equals_plain_guidance(jobs):
    mine, theirs = jobs.Guided("cfg:scale=4"), jobs.Small()
    assert difference(mine.generate(None, stage="one_stage"), theirs.generate(None, stage="one_stage")) < 3e-6


def test_fewer_passes_run_where_the_stack_wants_fewer(jobs):
    stage = jobs.Guided(f"{jobs.SPEC},interval:lo=0.3,hi=0.7,by=fraction")
    stage.generate()
    assert stage.model.rows < 4 * jobs.STEPS
    held = jobs.Guided(f"{jobs.SPEC},skip_step=1")
    held.generate()
    assert held.model.rows == 4 * jobs.STEPS // 2


def test_ranks_give_the_bits_of_one_process_and_run_no_pass_in_vain(jobs, four):
    for exact in (False, True):
        for dtype in (torch.float32, torch.bfloat16):
            mine = jobs.Guided()
            serial = jobs.bits(mine.generate(dtype=dtype, exact=exact))
            for count in (2, 3, 4):
                made = four.run(jobs.on_ranks, jobs.SPEC, jobs.OWN, dtype, exact, ranks=count)
                assert {digest for digest, _ in made} == {serial}
                assert sum(rows for _, rows in made) == mine.model.rows


def test_more_ranks_than_passes_work(jobs, four):
    serial = jobs.bits(jobs.Guided("cfg:scale=4").generate())
    made = four.run(jobs.on_ranks, "cfg:scale=4", jobs.OWN, torch.float32, False)
    assert {digest for digest, _ in made} == {serial}
    assert [rows for _, rows in made] == [jobs.STEPS, jobs.STEPS, 0, 0]


def test_a_request_without_guidance_and_a_distilled_stage_are_left_to_the_engine(jobs):
    mine, theirs = jobs.Guided(), jobs.Small()
    assert torch.equal(
        mine.generate(None, scale=1.0, stage="one_stage"), theirs.generate(None, scale=1.0, stage="one_stage")
    )
    assert torch.equal(mine.generate(None, stage="stage2"), theirs.generate(None, stage="stage2"))


def test_what_the_model_cannot_do_is_refused_before_the_first_pass(jobs):
    stage = jobs.Guided("stg:blocks=1,skip=blocks")
    with pytest.raises(ConfigurationError, match=r"has no flag for .*; it can skip self-attention in blocks"):
        stage.generate()
    assert stage.model.rows == 0


def test_the_engines_unit_tests_pass_with_a_guided_stage(jobs):
    importlib.import_module("sglang.test.test_utils").CustomTestCase = unittest.TestCase
    module = importlib.import_module("sglang.multimodal_gen.test.unit.test_ltx2_cfg_parallel_guidance")
    module.LTX2DenoisingStage = type("Stage", (GuidedLTX2Denoising, module.LTX2DenoisingStage), {})
    found = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromModule(module).run(found)
    assert found.testsRun == 1
    assert found.wasSuccessful(), (found.errors + found.failures)[0][1]


@pytest.mark.parametrize("exact", [False, True], ids=["one call", "a call each"])
def test_a_samplers_midpoint_is_a_second_evaluation(jobs, exact):
    made = []
    for stage in (jobs.Guided(sampler="res2s"), jobs.Small(sampler="res2s")):
        torch.manual_seed(3)  # the sampler's noise
        made.append(stage.generate(exact=exact))
        assert stage.model.rows == 4 * (2 * jobs.STEPS - 1)
    assert difference(*made) < 3e-6
