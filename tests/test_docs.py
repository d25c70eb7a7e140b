"""Every Python example of the documentation runs, page by page, and every spec it shows is valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from guidance_core import Guidance

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page):
    namespace: dict[str, object] = {"__name__": "example"}
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)):
        exec(compile(block, f"{page.name}, example {number + 1}", "exec"), namespace)


def test_specs_of_the_methods_page_are_valid():
    (block,) = re.findall(r"^```text\n(.*?)^```", (ROOT / "docs/methods.md").read_text(), re.MULTILINE | re.DOTALL)
    for spec in block.splitlines():
        Guidance.from_spec(spec).describe(10)
