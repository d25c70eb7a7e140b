"""The engines are those in which the recipes were read, and the lines that were compared are the same."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from guidance_core.recipes.finding import shipped
from recipes.engine_code import PIECES, READ, source, version, versions_in

HERE = Path(__file__).parent
for module in sorted(HERE.glob("test_*.py")):
    if module.name != Path(__file__).name:
        importlib.import_module(f"recipes.{module.stem}")


TESTS = "\n".join(test.read_text(encoding="utf-8") for test in HERE.glob("test_*.py") if test.name != "test_drift.py")


@pytest.mark.parametrize("name", [name for name, recipe in shipped().items() if recipe.compared])
def test_what_is_said_to_be_compared_is_compared(name):
    assert f'"{name}"' in TESTS, f"no test of this folder compares {name}"


@pytest.mark.parametrize("engine", READ)
def test_the_engine_is_the_one_that_was_read(engine):
    there = version(engine)
    if there is None:
        pytest.skip(f"{engine} {READ[engine]} is not here; `make engines` fetches it")
    assert there == READ[engine], f"{engine} {there} is installed; recipes were read in {READ[engine]}"


@pytest.mark.parametrize("piece", PIECES, ids=str)
def test_the_lines_that_were_compared_have_not_changed(piece):
    source(piece.engine, piece.file)
    changed = f"{piece} has changed: read it again, then note the digest {piece.found_digest}"
    assert piece.found_digest == piece.digest, changed


@pytest.mark.parametrize("name", shipped())
def test_a_recipe_names_the_version_that_was_read(name):
    recipe = shipped()[name]
    for engine, read in versions_in(f"{recipe.source}; {recipe.compared}").items():
        assert read == READ[engine], f"{name} names {engine} {read}; recipes were read in {READ[engine]}"
    assert bool(recipe.compared) <= bool(versions_in(recipe.compared)), "it says which version it was compared with"


def test_the_wheels_to_fetch_are_those_versions():
    wanted = (HERE / "engines.txt").read_text(encoding="utf-8").split("\n")
    pinned = dict(line.split("==") for line in wanted if "==" in line)
    assert pinned == {engine: read for engine, read in READ.items() if engine != "diffusers"}
