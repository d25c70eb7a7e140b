"""vLLM-Omni's guidance code, guided: its own loop and model stay, the stack decides which passes there are."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import torch
from engines.loading import with_engine

from guidance_core import ConfigurationError
from guidance_core.hosts.vllm_omni import GuidedCFG, GuidedLTX
from guidance_core.ranks import Ranks

pytest.importorskip("diffusers")
DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def jobs():
    with_engine("vllm_omni")
    return importlib.import_module("vllm_omni_jobs")


@pytest.fixture(scope="module")
def four():
    with Ranks(4, outlives_failures=True, patience=120) as ranks:
        yield ranks


def difference(mine, other):
    if isinstance(mine, tuple):
        return max(map(difference, mine, other))
    return float((mine - other).abs().max() / other.abs().max())


@pytest.mark.parametrize(
    ("stack", "own"),
    [
        ("cfg:scale=4", {}),
        ("cfg:scale=4,normalize:form=match", {"normalize": True}),
        ("cfg:scale=4", {"edit": True}),
    ],
)
def test_a_stack_equals_the_pipelines_own_guidance(jobs, stack, own):
    mine, theirs = jobs.Guided(stack), jobs.Small()
    wanted = theirs.generate(**own)
    for _ in range(2):  # requests one after another
        assert difference(mine.generate(edit=own.get("edit", False)), wanted) < 2e-6


@pytest.mark.parametrize(
    ("stack", "passes"),
    [("cfg:scale=4", 32), ("cfg:scale=4,interval:lo=0.2,hi=0.7,by=fraction", 24), ("cfg:scale=4,gate", 24)],
)
def test_a_step_runs_the_passes_of_its_plan(jobs, stack, passes):
    pipeline = jobs.Guided(stack)
    pipeline.generate()
    assert pipeline.passes == passes


def test_a_request_without_guidance_is_left_to_the_pipeline(jobs):
    mine, theirs = jobs.Guided(), jobs.Small()
    assert torch.equal(mine.generate(1.0), theirs.generate(1.0))


def test_cfg_ranks_give_the_bits_of_one_process_and_run_no_pass_in_vain(jobs, four):
    for dtype in (torch.float32, torch.bfloat16):
        for stack in ("cfg:scale=4,normalize:form=match", "cfg:scale=4,gate"):
            mine = jobs.Guided(stack)
            serial = jobs.bits(mine.generate(dtype=dtype))
            for count in (2, 3):
                made = four.run(jobs.on_ranks, stack, 4.0, dtype, ranks=count)
                assert {digest for digest, _ in made} == {serial}
                assert sum(passes for _, passes in made) == mine.passes


def test_a_request_without_guidance_works_on_cfg_ranks(jobs, four):
    serial = jobs.bits(jobs.Small().generate(1.0))
    made = four.run(jobs.on_ranks, "cfg:scale=4", 1.0, torch.float32, ranks=2)
    assert {digest for digest, _ in made} == {serial}


def test_a_stack_may_follow_from_the_request(jobs):
    class Pipeline(jobs.Guided):
        def stack_for(self, scale, normalize):
            return f"cfg:scale={scale}"

    assert torch.equal(Pipeline().generate(6.0), jobs.Guided("cfg:scale=6").generate(6.0))


def test_what_cannot_be_guided_is_refused_before_the_first_pass(jobs):
    pipeline = jobs.Guided("stg:blocks=3")
    with pytest.raises(ConfigurationError, match="stg"):
        pipeline.generate()
    assert pipeline.passes == 0
    with pytest.raises(ConfigurationError, match="request-level execution"):
        pipeline.denoise_step(None)
    with pytest.raises(ConfigurationError, match="name it first: class Pipeline"):
        type("Pipeline", (jobs.Small, GuidedCFG), {})
    with pytest.raises(ConfigurationError, match="name it first: class Executor"):
        type("Executor", (jobs.ltx.LTXGuidanceExecutor, GuidedLTX), {})
    ltx = jobs.Pipeline(jobs.Executor("stg:blocks=1,skip=blocks"))
    with pytest.raises(ConfigurationError, match="has no flag for"):
        ltx.generate()
    assert ltx.rows == 0


@pytest.mark.parametrize("clean", [False, True], ids=["text to video", "clean first frame"])
@pytest.mark.parametrize("samples", [1, 2])
def test_a_stack_equals_the_ltx_executor(jobs, samples, clean):
    mine, theirs = jobs.Pipeline(jobs.Executor(), clean=clean), jobs.Pipeline(clean=clean)
    assert difference(mine.generate(samples=samples), theirs.generate(samples=samples)) < 5e-6
    assert mine.rows == theirs.rows == 4 * jobs.LTX_STEPS * samples


def test_an_ltx_phase_of_one_pass_is_left_to_the_pipeline(jobs):
    single = jobs.ltx.LTXGuidanceSpec.positive_only()
    mine, theirs = jobs.Pipeline(jobs.Executor()), jobs.Pipeline()
    assert all(map(torch.equal, mine.generate(single), theirs.generate(single)))


def test_ltx_ranks_give_the_bits_of_one_process_and_run_no_pass_in_vain(jobs, four):
    mine = jobs.Pipeline(jobs.Executor())
    serial = jobs.bits(*mine.generate())
    for count in (2, 3, 4):
        made = four.run(jobs.ltx_on_ranks, jobs.SPEC, ranks=count)
        assert {digest for digest, _ in made} == {serial}
        assert sum(rows for _, rows in made) == mine.rows


def test_fewer_ltx_passes_run_where_the_stack_wants_fewer(jobs):
    held = jobs.Pipeline(jobs.Executor(f"{jobs.SPEC},skip_step=1"))
    held.generate()
    assert held.rows == 4 * jobs.LTX_STEPS // 2


def test_the_code_of_the_page_runs(jobs):
    class LTXPipeline(jobs.Pipeline):
        def __init__(self):
            super().__init__(type(self).guidance_executor)

    space = {"Pipeline": jobs.Small, "LTXPipeline": LTXPipeline}
    blocks = re.findall(r"^```{.python .no-run}\n(.*?)^```", (DOCS / "vllm-omni.md").read_text(), re.M | re.S)
    for block in blocks:
        exec(block, space)
    assert len(blocks) == 3
    pipelines = space["Guided"](), space["PerRequest"]()
    for pipeline in pipelines:
        pipeline.generate()
        assert pipeline.passes < 32
    space["Executor"].stack = jobs.SPEC  # the small model has fewer blocks
    space["GuidedLTXPipeline"]().generate()


def test_the_pipelines_own_rounding_is_there_by_name(jobs):
    stack = "rounded-cfg:scale=4,order=difference,dtype=bfloat16"
    wanted = jobs.Small().generate(dtype=torch.bfloat16)
    assert torch.equal(jobs.Guided(stack).generate(dtype=torch.bfloat16), wanted)
