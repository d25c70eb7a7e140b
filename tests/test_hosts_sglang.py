"""sglang's denoising stage, guided: its own code runs every pass, the stack decides which there are."""

from __future__ import annotations

import importlib
import re
import unittest
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from engines.loading import with_engine

from guidance_core import ConfigurationError, Guidance
from guidance_core.hosts.diffusers import levels_of
from guidance_core.hosts.sglang import GuidedDenoising, guide
from guidance_core.ranks import Ranks

pytest.importorskip("diffusers")
DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def jobs():
    with_engine("sglang")
    return importlib.import_module("sglang_jobs")


def difference(mine: torch.Tensor, other: torch.Tensor) -> float:
    return float((mine - other).abs().max() / other.abs().max())


@pytest.mark.parametrize(
    ("stack", "own"),
    [
        ("cfg:scale=4", {}),
        ("cfg:scale=4,rescale:phi=0.7", {"rescale": 0.7}),
        ("cfg:scale=4,normalize:limit=1.1", {"normalization": 1.1}),
        ("cfg:scale=4,gate", {"gate": 0.5}),
    ],
)
def test_a_stack_equals_the_engines_own_guidance(jobs, stack, own):
    mine, theirs = jobs.Guided(stack), jobs.Small()
    assert difference(mine.generate(), theirs.generate(**own)) < 2e-6


@pytest.mark.parametrize(
    ("stack", "passes"),
    [("cfg:scale=4", 32), ("cfg:scale=4,interval:lo=0.2,hi=0.7,by=fraction", 24), ("cfg:scale=4,gate", 24)],
)
def test_a_step_runs_the_passes_of_its_plan(jobs, stack, passes):
    stage = jobs.Guided(stack)
    stage.generate()
    assert len(stage.passes) == passes


def test_a_request_without_guidance_is_left_to_the_engine(jobs):
    mine, theirs = jobs.Guided(), jobs.Small()
    assert torch.equal(mine.generate(1.0), theirs.generate(1.0))
    assert mine.passes == ["pos"] * 16


@pytest.fixture(scope="module")
def two():
    with Ranks(2, outlives_failures=True, patience=120) as ranks:
        yield ranks


@pytest.fixture(scope="module")
def three():
    with Ranks(3, outlives_failures=True, patience=120) as ranks:
        yield ranks


def test_cfg_ranks_give_the_bits_of_one_process(jobs, two, three):
    for dtype in (torch.float32, torch.bfloat16):
        for stack in ("cfg:scale=4,rescale:phi=0.7", "cfg:scale=4,gate"):
            mine = jobs.Guided(stack)
            serial, passes = jobs.bits(mine.generate(dtype=dtype)), len(mine.passes)
            for ranks in (two, three):
                made = ranks.run(jobs.on_ranks, stack, 4.0, dtype)
                assert {digest for digest, _ in made} == {serial}
                assert sum(count for _, count in made) == passes, "no rank runs a pass in vain"


def test_a_request_without_guidance_works_on_cfg_ranks(jobs, two, three):
    serial = jobs.bits(jobs.Small().generate(1.0))
    for ranks in (two, three):
        assert {digest for digest, _ in ranks.run(jobs.on_ranks, "cfg:scale=4", 1.0)} == {serial}


def test_the_engines_own_two_ranks_round_otherwise_and_ours_do_not(jobs, two):
    """What the adapter is compared with is the engine's own code, also on ranks."""
    own = two.run(jobs.on_ranks, None, 4.0, torch.bfloat16)
    assert {digest for digest, _ in own} != {jobs.bits(jobs.Small().generate(dtype=torch.bfloat16))}


def test_pieces_of_a_sequence_are_measured_as_one(jobs, ranks):
    whole = jobs.Guided("cfg:scale=4,rescale:phi=0.7,normalize:limit=1.05").generate()
    made = ranks.run(jobs.in_pieces, "cfg:scale=4,rescale:phi=0.7,normalize:limit=1.05", ranks=4)
    pieces = torch.cat([made[0], made[1]], dim=1)
    assert torch.equal(made[0], made[2])
    assert torch.equal(made[1], made[3])
    assert difference(pieces, whole) < 2e-6
    apart = [jobs.Guided("cfg:scale=4,rescale:phi=0.7").generate(piece=part) for part in jobs.PIECES]
    assert difference(torch.cat(apart, dim=1), whole) > 1e-4, "pieces by themselves have other statistics"


def test_the_engines_unit_tests_pass_with_a_guided_stage(jobs):
    suite = unittest.TestSuite()
    for name in ("test_cfg_policy", "test_cfg_gating"):
        module = importlib.import_module(f"sglang.multimodal_gen.test.unit.{name}")
        if hasattr(module, "DenoisingStage"):
            module.DenoisingStage = type("Stage", (GuidedDenoising, module.DenoisingStage), {"stack": "cfg:scale=4"})
        suite.addTests(unittest.defaultTestLoader.loadTestsFromModule(module))
    found = unittest.TestResult()
    suite.run(found)
    assert found.testsRun >= 11
    assert not found.errors, found.errors[0][1]
    assert not found.failures, found.failures[0][1]


def test_a_stack_may_follow_from_the_request(jobs):
    class Stage(jobs.Guided):
        def stack_for(self, batch):
            return f"cfg:scale={batch.guidance_scale}"

    assert torch.equal(Stage().generate(6.0), jobs.Guided("cfg:scale=6").generate(6.0))


def test_a_pipeline_is_guided_in_one_line(jobs):
    class Pipeline:
        stages = (object(), jobs.Small())

    pipeline = guide(Pipeline(), "cfg:scale=4,gate")
    pipeline.stages[1].generate()
    assert len(pipeline.stages[1].passes) == 24
    guide(pipeline, Guidance.from_spec("cfg:scale=4"))
    pipeline.stages[1].generate()
    assert len(pipeline.stages[1].passes) == 32
    Pipeline.stages = (object(),)
    with pytest.raises(ConfigurationError, match="has no denoising stage that can be guided; its stages are object"):
        guide(Pipeline(), "cfg")


def test_what_cannot_be_guided_is_refused_before_the_first_pass(jobs):
    def refused(stack, match, **change):
        stage = jobs.Guided(stack)
        for name, value in change.items():
            setattr(stage, name, value)
        with pytest.raises(ConfigurationError, match=match):
            stage.generate()
        assert stage.passes == []

    refused("stg:blocks=3", "stg.*")
    refused("cfg:scale=4", "Cache-DiT counts the passes", _cache_dit_enabled=True)
    with pytest.raises(ConfigurationError, match="name it first: class Stage"):
        type("Stage", (jobs.Small, GuidedDenoising), {})


def test_the_schedulers_of_the_engine_are_known(jobs):
    module = importlib.import_module("sglang.multimodal_gen.runtime.models.schedulers.scheduling_flow_unipc_multistep")
    scheduler = module.FlowUniPCMultistepScheduler()
    scheduler.set_timesteps(8, device="cpu", shift=3.0)
    levels = levels_of(scheduler)
    assert levels.prediction_type == "flow"
    assert len(levels.evaluations) == 8
    for (_, sigma, _), timestep in zip(levels.evaluations, scheduler.timesteps, strict=True):
        assert abs(sigma * 1000 - float(timestep)) <= 1


def test_both_of_the_engines_orders_are_there_by_name(jobs, two):
    """Bit for bit: one device, and two CFG ranks, whose results differ from each other."""
    kinds = {"difference": jobs.bits(jobs.Small().generate(dtype=torch.bfloat16))}
    ((kinds["weights"], _), (other, _)) = two.run(jobs.on_ranks, None, 4.0, torch.bfloat16)
    assert kinds["weights"] == other != kinds["difference"]
    for order, wanted in kinds.items():
        stack = f"rounded-cfg:scale=4,order={order},dtype=bfloat16"
        assert jobs.bits(jobs.Guided(stack).generate(dtype=torch.bfloat16)) == wanted
        assert {digest for digest, _ in two.run(jobs.on_ranks, stack, 4.0, torch.bfloat16)} == {wanted}


def test_the_code_of_the_page_runs(jobs):
    importlib.import_module("sglang_ltx2_jobs")
    space = {"pipeline": SimpleNamespace(stages=(jobs.Small(),))}
    blocks = re.findall(r"^```{.python .no-run}\n(.*?)^```", (DOCS / "sglang.md").read_text(), re.M | re.S)
    for block in blocks:
        exec(block, space)
    assert len(blocks) == 4
    stage = type("Stage", (space["PerRequest"], jobs.Small), {})()
    stage.generate()
    space["pipeline"].stages[0].generate()
    assert len(stage.passes) == len(space["pipeline"].stages[0].passes) == 24
