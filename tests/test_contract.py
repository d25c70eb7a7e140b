"""What is public does not change unnoticed (promise 10)."""

from __future__ import annotations

import copy
import json
import re

from contract import FILE, lost, surface

import guidance_core


def test_public_names_are_those_written_down():
    written, found = json.loads(FILE.read_text()), surface()
    gone = lost(written, found)
    assert not gone, f"deprecate first (docs/contract.md): {', '.join(gone)}"
    assert found == written, "public names changed: run python tests/contract.py --write, and look at CONTRACT_VERSION"


def test_a_name_that_goes_is_noticed():
    found = surface()
    changed = copy.deepcopy(found)
    del changed["names"]["guidance_core.Branch"]
    del changed["plugins"]["apg"]
    del changed["names"]["guidance_core.Run"]["members"]["finish"]
    changed["plugins"]["cfg"].remove("positional or keyword: scale=")
    assert lost(found, changed) == [
        "names: guidance_core.Branch",
        "names: guidance_core.Run: members: finish",
        "plugins: apg",
        "plugins: cfg: positional or keyword: scale=",
    ]


def test_a_parameter_that_goes_is_noticed():
    found = surface()
    start = found["names"]["guidance_core.Guidance"]["members"]["start"]
    assert "keyword-only: executor=" in start
    assert "positional or keyword: scale=" in found["plugins"]["cfg"]


def test_the_page_names_the_version():
    page = (FILE.parents[1] / "docs" / "contract.md").read_text()
    (shown,) = re.findall(r"`(\(\d+, \d+\))` is the version", page)
    assert shown == str(guidance_core.CONTRACT_VERSION)
