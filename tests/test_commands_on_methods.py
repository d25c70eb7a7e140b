"""What the commands print about methods."""

from __future__ import annotations

import json
import sys

import attrs
import pytest
from typer.testing import CliRunner

from guidance_core import ConfigurationError, Guidance, GuidanceError, number

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
        "help": "whether the formula starts from c or from u",
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


# Methods that are not installed.

PLACES = '''
import attrs
from guidance_core import Branch, Scale, hookimpl, number

print("this is no answer of the command")


@attrs.frozen
class Away:
    """Away from the negative condition."""

    scale: Scale = number(2.0)

    @hookimpl
    def build_branches(self, step):
        return [Branch("uncond", condition="negative", strength=step.value(self.scale) - 1)]


class Outer:
    Inner = Away


function = len
one = Away()
'''


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A folder with a module that no other test has imported."""
    name = f"places_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(PLACES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(tmp_path)])
    return name


def described(spec, *words):
    from guidance_core.commands.app import app

    return runner.invoke(app, ["describe", spec, "--json", *words])


@pytest.mark.parametrize(
    ("spec", "strength"),
    [
        ("{}:Away", "1"),
        ("{}:Away:scale=4", "3"),
        ("{}:Outer.Inner:scale=4,rescale:phi=0.5", "3"),
        ("interval:lo=0.0,hi=1.0,{}:Away:scale=linear(4, 4)", "3"),
        ("guidance_plugins.cfg:CFG:scale=4", "3"),
    ],
)
def test_a_method_that_is_not_installed_is_named_by_its_place(places, spec, strength):
    result = described(spec.format(places))
    assert result.exit_code == 0, result.output
    (group,) = json.loads(result.stdout)["steps"]
    assert [each["branch"] for each in group["passes"]] == ["cond", "uncond"]
    assert group["passes"][1]["strengths"] == {"output": strength}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("nowhere_to_be_found:Away", "the module 'nowhere_to_be_found' cannot be imported"),
        ("{}:Awai", "has no 'Awai'. Did you mean 'Away'?"),
        ("{}:Away:scael=3", "has no parameter 'scael'. Did you mean 'scale'?"),
        ("{}:function", "not a method"),
        ("{}:one", "Name the class"),
        ("{}:Outer", "is not an attrs class"),
        ("{}.py:Away", "is a file; give the module"),
        ("./here/{}.py:Away:scale=3", "give the module, as in an import: here."),
        ("cfg:scale", "expected '=' after the parameter 'scale'"),
    ],
)
def test_what_is_not_a_place_is_a_clear_error(places, spec, says):
    result = described(spec.format(places))
    assert isinstance(result.exception, GuidanceError), result.output
    assert says in str(result.exception)


def test_a_spec_outside_the_commands_imports_nothing(places):
    with pytest.raises(GuidanceError, match="expected '='"):
        Guidance.from_spec(f"{places}:Away")
    assert places not in sys.modules


def test_ranks_draw_with_a_method_that_is_not_installed(places, tmp_path):
    from guidance_core.commands.app import app

    pictures = []
    for ranks, spec in (("1", "cfg:scale=3"), ("1", f"{places}:Away:scale=3"), ("2", f"{places}:Away:scale=3")):
        words = ["--ranks", ranks, "--steps", "2", "--per-class", "1", "--characters", "AB", "--json"]
        result = runner.invoke(app, ["sample", "-g", spec, *words, "--out", str(tmp_path / "a.png")])
        assert result.exit_code == 0, result.output
        (row,) = json.loads(result.stdout)["rows"]
        pictures.append((row["passes_per_step"], row["scores"]))
    assert pictures[0] == pictures[1] == pictures[2]


# Steps that differ in their strengths alone.


def lines_of(description):
    """The lines of steps and of what is added, without what else there is."""
    text = [line.split("  <-")[0].split() for line in str(description).splitlines()]
    return [" ".join(words) for words in text if words[0] == "steps" or "strength" in words]


@pytest.mark.parametrize(
    ("spec", "lines"),
    [
        (
            "cfg:scale=linear(7, 2)",
            ["steps 0 to 5: 2 passes", "uncond negative, strength 6 -> 1"],
        ),
        (
            "cfg:scale=table({0.2: 5, 1: 2})",  # what holds for several steps stays a range
            [
                *("steps 0 to 4: 2 passes", "uncond negative, strength 1"),
                *("steps 5: 2 passes", "uncond negative, strength 4"),
            ],
        ),
        (
            "cfg:scale=2x1+4x1+5x1+6x1+3x1+2x1",  # counted from the end; a range never turns
            [
                *("steps 0 to 2: 2 passes", "uncond negative, strength 1 -> 5"),
                *("steps 3 to 5: 2 passes", "uncond negative, strength 4 -> 1"),
            ],
        ),
        (
            "cfg:scale=beta(7, 2, 2)",
            [
                *("steps 0 to 1: 2 passes", "uncond negative, strength -1 -> 5.72"),
                *("steps 2 to 3: 2 passes", "uncond negative, strength 9.08"),
                *("steps 4 to 5: 2 passes", "uncond negative, strength 5.72 -> -1"),
            ],
        ),
        (
            "cfg:scale={video: linear(7, 2), audio: 6}",
            ["steps 0 to 5: 2 passes", "uncond negative, strength video 6 -> 1, audio 5"],
        ),
    ],
)
def test_steps_are_described_in_ranges_that_rise_or_fall(spec, lines):
    found = Guidance.from_spec(spec).describe(6)
    assert lines_of(found) == lines
    assert found.total_passes == 12
