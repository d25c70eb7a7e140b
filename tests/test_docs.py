"""Every Python example of the documentation runs, page by page, and every spec it shows is valid."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from guidance_core import Guidance
from guidance_core.conformance import all_checks
from guidance_core.conformance.report import with_checks

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page, monkeypatch):
    module = ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", module)
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)):
        exec(compile(block, f"{page.name}, example {number + 1}", "exec"), vars(module))


def test_specs_of_the_methods_page_are_valid():
    methods, schedules = re.findall(
        r"^```text\n(.*?)^```", (ROOT / "docs/methods.md").read_text(), re.MULTILINE | re.DOTALL
    )
    for spec in (*methods.splitlines(), *schedules.splitlines()):
        Guidance.from_spec(spec).describe(10)


def test_the_recipe_of_rectified_cfg_plus_plus_makes_the_papers_step():
    """v(x) + λ·(c − u)(x̃), where x̃ is half a step ahead: the page's own code against the formula."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/runs.md").read_text(), re.MULTILINE | re.DOTALL)
    made: dict = {}
    exec(blocks[0], made)
    (recipe,) = [block for block in blocks if "def flow(" in block]
    sample = torch.randn(2, 4, generator=torch.Generator().manual_seed(3))
    made["start_sample"] = sample
    exec(recipe.replace("torch.randn(2, 4)", "start_sample"), made)
    flow, (positive, negative) = made["flow"], (made["conditions"][name]["text"] for name in ("positive", "negative"))
    for sigma, following in zip(made["flow_sigmas"], made["flow_sigmas"][1:], strict=False):
        here, middle = flow(sample, sigma, positive), (sigma + following) / 2
        ahead = sample + (following - sigma) / 2 * here
        apart = flow(ahead, middle, positive) - flow(ahead, middle, negative)
        sample = sample + (following - sigma) * (here + 3.0 * apart)
    torch.testing.assert_close(made["sample"], sample)


def test_the_conformance_page_lists_the_checks():
    page = ROOT / "docs/conformance.md"
    fresh = with_checks(page.read_text(), all_checks())
    assert page.read_text() == fresh, "run: python -m guidance_core.conformance docs/conformance.md"


@pytest.mark.parametrize(
    ("language", "path"),
    [
        ("python", "src/guidance_trust_region.py"),
        ("toml", "pyproject.toml"),
    ],
)
def test_the_tutorial_builds_the_example(language, path):
    blocks = re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / "docs/tutorial.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert (ROOT / "docs/examples/guidance-trust-region" / path).read_text() in blocks


def test_the_test_file_of_the_tutorial_begins_that_of_the_example():
    (block,) = re.findall(r"^```{.python .no-run}\n(.*?)^```", (ROOT / "docs/tutorial.md").read_text(), re.M | re.S)
    file = (ROOT / "docs/examples/guidance-trust-region/tests/test_conformance.py").read_text()
    for line in filter(None, block.splitlines()):
        assert line in file
