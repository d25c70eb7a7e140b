"""The site has an entry for everything that ships: methods, recipes, names, errors and commands."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

from guidance_core import Guidance, GuidanceError
from guidance_core.discovery.shipped import EXECUTORS, PLUGINS, SHIPPED
from guidance_core.recipes.finding import shipped as recipes

pytest.importorskip("griffe", reason="the extra `docs` is not installed")
pytest.importorskip("latex2mathml", reason="the extra `docs` is not installed")

from _pages import commands, methods, pages, reference
from _pages.links import with_links
from latex2mathml.converter import convert

import guidance_core

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def site() -> dict[str, str]:
    return pages(DOCS)


def errors() -> set[str]:
    """Return every class of error that the library raises on purpose, in whichever module."""
    for module in pkgutil.walk_packages(guidance_core.__path__, "guidance_core."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # of a host that is not installed
                importlib.import_module(module.name)
    found, left = set(), [GuidanceError]
    while left:
        each = left.pop()
        if each.__module__.startswith("guidance_core.") and not each.__name__.startswith("_"):
            found.add(each.__name__)
            left += each.__subclasses__()
    return found


@pytest.mark.parametrize("name", sorted(SHIPPED[PLUGINS]))
def test_every_method_has_a_page_with_all_its_parts(site, name):
    page = site[f"methods/{name}.md"]
    for part in ("Formula", "Parameters", "Use", "What it costs", "What it composes with", "How it is checked"):
        assert f"\n## {part}\n" in page
    assert "**Reference**: –" not in page
    assert "{py:class}" in page


@pytest.mark.parametrize("name", sorted(SHIPPED[PLUGINS]))
def test_every_formula_can_be_typeset(name):
    made = convert(methods.FORMULAS[name], display="block")
    assert "\\" not in made
    assert not re.search("<m[io]>&<", made), "an alignment outside a table"


def test_the_specs_of_the_pages_are_valid(site):
    specs = methods.examples(DOCS)
    assert len(specs) >= len(SHIPPED[PLUGINS]) - 2, "only methods that take a function have none"
    for spec in {each for some in specs.values() for each in some}:
        Guidance.from_spec(spec)


def test_every_recipe_has_an_entry(site):
    text = "\n".join(text for name, text in site.items() if name.startswith("recipes/"))
    for name in recipes():
        assert f"## `@{name}`\n" in text


def test_a_letter_that_a_formula_defines_is_not_explained_as_another(site):
    assert "$g$ what" not in site["methods/ltx2.md"]
    assert "$g$ what" in site["methods/rescale.md"]


def test_tables_lead_to_the_pages_of_methods_and_recipes(site):
    methods_table = with_links("methods", (DOCS / "methods.md").read_text())
    recipes_table = with_links("recipes", (DOCS / "recipes.md").read_text())
    for name in SHIPPED[PLUGINS]:
        assert f"| [`{name}`](methods/{name}.md) |" in methods_table
    linked = dict(re.findall(r"^\| \[`@([^`]+)`\]\(([^#]+)#", recipes_table, re.M))
    assert linked.keys() == recipes().keys()
    assert all(f"## `@{name}`\n" in site[page] for name, page in linked.items())


def test_every_public_name_has_an_entry_with_its_type(site):
    entries = set(re.findall(r"^:+\{py:\w+\} (\w+)", "\n".join(site.values()), re.M))
    expected = {name for name in guidance_core.__all__ if not name.startswith("__")}
    expected |= {path.partition(":")[2] for group in (PLUGINS, EXECUTORS) for path in SHIPPED[group].values()}
    assert expected <= entries, sorted(expected - entries)


def test_the_reference_is_split_by_room_without_noise(site):
    rooms = {name for name in site if name.startswith("reference/")} - {"reference/index.md"}
    assert rooms == {f"reference/{room}.md" for room in reference.public()}
    listed = (DOCS / "api.md").read_text()
    assert all(room.removesuffix(".md") in listed for room in rooms)
    for name in rooms:
        assert not re.search(r"__\w+__\(|NOTHING|_CountingAttr|object at 0x", site[name])


def test_every_error_is_in_troubleshooting_and_in_the_reference(site):
    page = (DOCS / "troubleshooting.md").read_text()
    headings = set(re.findall(r"^## (\w+Error)$", page, re.M))
    assert headings == errors()
    for name in errors() & set(guidance_core.__all__):
        assert f"{{py:exception}} {name}" in site["reference/errors.md"]


def test_every_command_and_its_options_have_a_page(site):
    program = commands.typer.main.get_command(commands.app)
    for path, command in commands.walk(program):
        if path != commands.PROGRAM:
            page = site[f"commands/{path.split()[1]}.md"]
            assert f" `{path}`\n" in page
            for option in (each for each in command.params if each.param_type_name == "option" and not each.hidden):
                assert option.opts[0] in page


def test_the_gallery_fills_the_pages_of_methods(site):
    apg = site["methods/apg.md"]
    assert "![apg, below plain cfg](../gallery/pictures/apg.png)" in apg
    assert "(../gallery/pictures/apg-sweep.png)" in apg
    assert "| scale | effective scale |" in apg
    assert "### Picture and sound: keypad-cfg" in site["methods/cfg.md"]
    assert "## In pictures" not in site["methods/nag.md"], "no embedded model has cross-attention"


def test_a_method_without_a_gallery_has_a_page(tmp_path):
    for name in ("methods.md", "oracles.md", "composition.md"):
        (tmp_path / name).write_text((DOCS / name).read_text())
    assert "## In pictures" not in methods.pages(tmp_path)["apg"]
