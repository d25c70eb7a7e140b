"""What commands print in every terminal and encoding, and what they say of names."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from guidance_core import UnknownNameError
from guidance_core.commands.app import app
from guidance_core.recipes import find_recipes

runner = CliRunner()


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_the_list_of_recipes_breaks_no_word_and_keeps_its_width(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = runner.invoke(app, ["recipes"]).stdout
    words = {word for each in find_recipes() for word in f"{each.recipe.title} {each.recipe.checked}".split()}
    assert words <= set(shown.split())
    assert {f"@{each.name}" for each in find_recipes()} <= set(shown.split())
    assert max(map(len, shown.splitlines())) <= max(columns, 4 + max(map(len, shown.split())))


COMMANDS = [
    ["plugins"],
    ["plugins", "apg", "all_gather"],
    ["recipes"],
    ["recipes", "show", "wan2.1"],
    ["describe", "@ltx-2.3"],
    ["env"],
    ["check", "--list"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_narrow_terminal_without_letters_beyond_ascii_is_fine(words):
    surroundings = os.environ | {"COLUMNS": "40", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "guidance_core", *words]
    done = subprocess.run(command, env=surroundings, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert b"\\u" not in done.stdout
    quiet = subprocess.run([*command, "--quiet"], env=surroundings, capture_output=True, check=False)
    assert (quiet.returncode, quiet.stdout) == (0, b"")
    assert json.loads(subprocess.run([*command, "--json"], env=surroundings, capture_output=True, check=True).stdout)


def test_plugins_shows_those_that_are_named_in_full():
    shown = runner.invoke(app, ["plugins", "cfg", "serial"]).stdout
    assert "guided = c + (s − 1)·(c − u)" in shown
    assert "serial  Runs the branches" in shown
    assert "apg" not in shown
    found = json.loads(runner.invoke(app, ["plugins", "cfg", "--json"]).stdout)
    assert [row["name"] for row in found["plugins"]] == ["cfg"]
    assert "Ho & Salimans" in found["plugins"][0]["description"]
    assert not found["executors"]


def test_plugins_keeps_the_lines_of_formulas_and_joins_those_of_prose():
    shown = runner.invoke(app, ["plugins", "apg", "rescale"], env={"COLUMNS": "100"}).stdout
    lines = [line.rstrip() for line in shown.splitlines()]
    formula = [line for line in lines if line.lstrip().startswith(("d = ", "guided = c + (s"))]
    assert len(formula) == 4
    assert {len(line) - len(line.lstrip()) for line in formula} == {4}
    assert "The authors' code uses [-1, -2, -3], which" in " ".join(shown.split())
    assert all(len(line) > 40 for line in lines if line.endswith("uses"))
    assert "0 is off (allowed: [0, 1])" in " ".join(shown.split())


def test_plugins_names_the_nearest_of_a_name_that_is_none():
    for name, near in (("cgf", "cfg"), ("all_gathr", "all_gather")):
        result = runner.invoke(app, ["plugins", name])
        assert isinstance(result.exception, UnknownNameError)
        assert f"no method and no executor {name!r}. Did you mean {near!r}?" in str(result.exception)


@pytest.mark.parametrize("name", ["none", "None", "off", "none:scale=3"])
@pytest.mark.parametrize("command", [["describe"], ["sample", "-g"]])
def test_a_name_for_no_guidance_leads_to_the_empty_spec(command, name):
    result = runner.invoke(app, [*command, name])
    assert isinstance(result.exception, UnknownNameError)
    assert "For no guidance, give an empty spec: ''." in str(result.exception)
