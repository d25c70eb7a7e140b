"""Every Python example of the documentation runs, page by page, and every spec it shows is valid."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

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
    (block,) = re.findall(r"^```text\n(.*?)^```", (ROOT / "docs/methods.md").read_text(), re.MULTILINE | re.DOTALL)
    for spec in block.splitlines():
        Guidance.from_spec(spec).describe(10)


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
