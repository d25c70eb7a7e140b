"""sglang's denoising stage, guided: its own code runs every pass, the stack decides which there are."""

from __future__ import annotations

import importlib
import unittest

import pytest
import torch
from engines.loading import with_engine

from guidance_core import ConfigurationError, Guidance
from guidance_core.hosts.sglang import GuidedDenoising
from guidance_core.ranks import Ranks

pytest.importorskip("diffusers")


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
