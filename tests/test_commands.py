"""What the commands print about methods."""

from __future__ import annotations

import json

import attrs
from typer.testing import CliRunner

from guidance_core import ConfigurationError, number

runner = CliRunner()


def test_the_command_lists_every_shipped_method():
    from guidance_core.commands.app import app

    listed = json.loads(runner.invoke(app, ["plugins", "--json"]).stdout)["plugins"]
    names = {row["name"] for row in listed if row["failure"] is None}
    assert names >= {"apg", "cfg", "cfg-zero-star", "gate", "interval", "ltx2", "normalize", "rescale", "stg"}
    assert all(row["parameters"] and row["summary"] for row in listed)
    assert "the noise level is in [lo, hi]; outside" in " ".join(runner.invoke(app, ["plugins"]).stdout.split())


def test_the_command_lists_what_a_parameter_may_be(monkeypatch):
    from guidance_core.commands.app import app

    monkeypatch.setenv("COLUMNS", "80")
    listed = json.loads(runner.invoke(app, ["plugins", "--json"]).stdout)["plugins"]
    by_name = {row["name"]: {each["name"]: each for each in row["parameters"]} for row in listed}
    apg, stg, ltx2 = by_name["apg"], by_name["stg"], by_name["ltx2"]
    assert (apg["scale"]["default"], stg["scale"]["default"], stg["blocks"]["default"]) == (7.5, 1.0, None)
    assert apg["form"] == {
        "name": "form",
        "required": False,
        "default": "paper",
        "options": ["paper", "diffusers"],
        "help": "whether s counts from c or from u",
    }
    assert None in apg["space"]["options"], "an optional choice may be none"
    assert ltx2["cfg_scale"]["default"] == "unset"
    text = runner.invoke(app, ["plugins"]).stdout
    assert "[epsilon, v, x0, flow, none]" in " ".join(text.split())
    wrapped = text.splitlines()[[line.startswith("  momentum=0") for line in text.splitlines()].index(True) + 1]
    assert wrapped.startswith(" " * 29), "a second line of help stands under the first"


def test_the_command_lists_a_required_parameter(monkeypatch):
    from guidance_core import discovery
    from guidance_core.commands import plugins
    from guidance_core.commands.app import app

    @attrs.frozen
    class Needy:
        scale: float = number(help="how far")

    found = discovery.Found("needy", "needy:Needy", "theirs", "1.0", Needy)
    monkeypatch.setattr(plugins, "find_plugins", lambda: [found])
    (row,) = json.loads(runner.invoke(app, ["plugins", "--json"]).stdout)["plugins"]
    assert row["parameters"] == [{"name": "scale", "required": True, "help": "how far"}]
    assert "scale=required" in runner.invoke(app, ["plugins"]).stdout


def test_the_command_says_its_version():
    from guidance_core import __version__
    from guidance_core.commands.app import app

    assert runner.invoke(app, ["--version"]).stdout == f"guidance-core {__version__}\n"


def test_the_command_describes_named_outputs_only():
    from guidance_core.commands.app import app

    result = runner.invoke(app, ["describe", "cfg", "--outputs", "video, audio", "--json"])
    assert json.loads(result.stdout)["steps"][0]["passes"][1]["strengths"] == {"video": "6.5", "audio": "6.5"}
    for outputs in ("video,,audio", "video,", " "):
        assert isinstance(runner.invoke(app, ["describe", "cfg", "--outputs", outputs]).exception, ConfigurationError)


def test_the_command_describes_ltx2():
    from guidance_core.commands.app import app

    result = runner.invoke(app, ["describe", "ltx2:preset=2.3", "--json"])
    description = json.loads(result.stdout)
    (group,) = description["steps"]
    assert [each["branch"] for each in group["passes"]] == ["cond", "neg", "perturbed", "modality"]
    assert description["total_passes"] == 120
    placed = runner.invoke(app, ["describe", "ltx2:preset=2.3", "--ranks", "3"]).stdout
    assert "rank 0: cond, modality; rank 1: neg; rank 2: perturbed (expected speedup 2.00)" in placed
