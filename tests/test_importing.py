"""Importing the library stays quick: it brings in nothing that only some need, and starts no collection."""

from __future__ import annotations

import subprocess
import sys

from typer.testing import CliRunner

LATE = (
    "cattrs",
    "tomli_w",
    "typer",
    "rich",
    "numpy",
    "PIL",
    "safetensors",
    "diffusers",
    "pytest",
    "hypothesis",
    "matplotlib",
)


def run(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_brings_in_nothing_that_few_need():
    before = set(run("import sys, torch; print(*sys.modules)"))
    after = set(run("import sys, guidance_core; print(*sys.modules)"))
    assert "guidance_core.guidance" in after
    assert {name.partition(".")[0] for name in after - before}.isdisjoint(LATE)


def test_importing_collects_no_garbage_and_leaves_the_collector_as_it_was():
    script = (
        "import gc, torch; {}; was = gc.isenabled(); before = gc.get_stats()[2]['collections'];"
        "import guidance_core; print(gc.isenabled() == was, gc.get_stats()[2]['collections'] - before)"
    )
    assert run(script.format("pass")) == ["True", "0"]
    assert run(script.format("gc.disable()")) == ["True", "0"]


def test_the_benchmark_measures_fresh_processes():
    from guidance_core.bench import importing

    report = importing.measure(1)
    assert len(report.torch) == len(report.added) == 1
    assert report.added[0] > 0
    assert report.sizes["guidance_core"] > 500_000
    assert "guidance_core" in str(report)
    assert {"torch", "guidance_core", "bytes"} <= report.to_dict().keys()
    from guidance_core.commands.app import app

    assert "--rounds" in CliRunner().invoke(app, ["bench", "import", "--help"]).output
