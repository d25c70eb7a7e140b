"""Documented calls pass mypy and pyright, and misspelt ones do not (promise 9)."""

from __future__ import annotations

import inspect
import json
import pydoc
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args, get_type_hints

import attrs
import pytest

import guidance_plugins
from guidance_core import ConfigurationError, Guidance, Scale, choice, documented, number, numbers
from guidance_core.scaffold import KINDS, new_package

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TRUST_REGION = ROOT / "docs/examples/guidance-trust-region"
CALLS = ROOT / "tests/typed"

MYPY = """
[mypy]
strict = true
[mypy-diffusers.*]
follow_imports = skip
"""
PYRIGHT = {"typeCheckingMode": "standard", "reportUnusedExpression": False}


def program(page: str) -> str:
    """Return the Python examples of a page as one program, every line where it stands on the page."""
    lines, is_code = [], False
    for line in page.splitlines():
        was_code, is_code = is_code, line == "```python" or (is_code and line != "```")
        is_kept = was_code and is_code and line != "from __future__ import annotations"
        lines.append(line if is_kept else "")
    return "\n".join(["from __future__ import annotations", *lines[1:], ""])


@pytest.fixture(scope="module")
def checked(tmp_path_factory) -> dict[str, dict[str, dict[int, str]]]:
    """Return the errors that each checker finds, by file, then by line."""
    folder = tmp_path_factory.mktemp("typed")
    for page in PAGES:
        if "```python\n" in (text := page.read_text(encoding="utf-8")):
            (folder / f"{page.stem.replace('-', '_')}_page.py").write_text(program(text), encoding="utf-8")
    sources = [*CALLS.glob("*.py"), *TRUST_REGION.glob("*/*.py"), ROOT / "docs/examples/guide_a_pipeline.py"]
    for source in [*sources, *(ROOT / "plugins/guidance_plugins").glob("[a-z]*.py")]:
        shutil.copy(source, folder)
    for kind in KINDS:
        package = new_package(f"new-{kind}", kind=kind, author="Ada Lovelace")
        (folder / f"new_{kind}.py").write_text(package.files[f"src/new_{kind}/__init__.py"], encoding="utf-8")
        (folder / f"test_new_{kind}.py").write_text(package.files["tests/test_conformance.py"], encoding="utf-8")
    files = sorted(path.name for path in folder.glob("*.py"))
    (folder / "mypy.ini").write_text(MYPY)
    (folder / "pyrightconfig.json").write_text(json.dumps({**PYRIGHT, "include": files}))
    python = ["--python-executable", sys.executable]
    cache = ["--cache-dir", str(ROOT / ".mypy_cache/documentation")]
    mypy = [sys.executable, "-m", "mypy", *python, *cache, "--config-file", "mypy.ini", *files]
    pyright = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, "--outputjson", "-p", "."]
    running = {
        name: subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name, command in (("mypy", mypy), ("pyright", pyright))
    }
    told = {name: process.communicate(timeout=300) for name, process in running.items()}
    found = {name: {file: {} for file in files} for name in running}
    for file, line, message in re.findall(r"^([^:\n]+):(\d+): error: (.*)$", told["mypy"][0], re.MULTILINE):
        found["mypy"][file][int(line)] = message
    for each in json.loads(told["pyright"][0])["generalDiagnostics"]:
        if each["severity"] == "error":
            line = each["range"]["start"]["line"] + 1
            found["pyright"][Path(each["file"]).name][line] = each["message"].replace("\n", " ")
    assert sum(map(len, found["mypy"].values())), told["mypy"]  # or it did not run
    return found


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_documented_calls_pass(checked, checker):
    errors = [
        f"{file}:{line}: {message}"
        for file, by_line in checked[checker].items()
        if file != "wrong_calls.py"
        for line, message in by_line.items()
    ]
    assert not errors, "\n".join(errors)


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_every_wrong_call_is_found_and_nothing_else(checked, checker):
    lines = (CALLS / "wrong_calls.py").read_text().splitlines()
    start = next(number for number, line in enumerate(lines, 1) if "Everything from here on is wrong" in line)
    found = checked[checker]["wrong_calls.py"]
    missed = [line.strip() for number, line in enumerate(lines, 1) if number > start and number not in found]
    assert not missed
    assert min(found) > start, found[min(found)]


def test_right_calls_are_right_when_they_run():
    text = (CALLS / "right_calls.py").read_text()
    exec(compile(text[: text.index("# Runs.")], "right_calls.py", "exec"), {"__name__": "right_calls"})


SHIPPED = [getattr(guidance_plugins, name) for name in guidance_plugins.__all__]
shipped = pytest.mark.parametrize("plugin", SHIPPED, ids=lambda plugin: plugin.__name__)


@shipped
def test_a_choice_is_annotated_with_its_options(plugin):
    hints = get_type_hints(plugin, localns=vars(inspect.getmodule(plugin)))
    for field in attrs.fields(plugin):
        options = [each for each in field.metadata.get("options", ()) if each is not None]
        if set(options) == {True, False}:
            assert hints[field.name] is bool, field.name
        elif options:
            allowed = {each for part in (hints[field.name], *get_args(hints[field.name])) for each in get_args(part)}
            named = {each for each in allowed if isinstance(each, str)}
            assert named - {"tensor"} <= set(options) <= named, field.name  # some statistics leave the batch apart


@shipped
def test_help_shows_types_and_help_texts(plugin):
    shown = " ".join(re.sub(r"^ \|", "", pydoc.plain(pydoc.render_doc(plugin)), flags=re.MULTILINE).split())
    for field in attrs.fields(plugin):
        if field.init:
            default = "" if field.default is attrs.NOTHING else " = "
            assert f"{field.name}: {field.type!r}{default}" in shown
            assert f"{field.name}: {field.metadata['help']}" in shown


def test_help_shows_what_a_parameter_of_a_stranger_may_be():
    @documented
    @attrs.frozen
    class Mine:
        """Mine.

        guided = c
        """

        required: Scale = number(gt=0, help="how much")
        form: Literal["a", "b"] | None = choice("a", ("a", "b"), optional=True, help="which")
        plain: float = 1.0
        made: int = attrs.field(init=False, default=3)

    assert str(inspect.signature(Mine)) == (
        "(required: 'Scale', form: \"Literal['a', 'b'] | None\" = 'a', plain: 'float' = 1.0) -> None"
    )
    assert inspect.getdoc(Mine) == (
        "Mine.\n\nguided = c\n\nArgs:\n    required: how much (in (0, inf))\n    form: which (a, b, none)\n    plain:"
    )
    assert Mine(required=3).required == 3.0


def test_documented_stands_above_the_decorator_that_makes_the_fields():
    with pytest.raises(ConfigurationError, match=r"above @attrs\.frozen"):

        @documented
        class Mine:
            scale: Scale = number(3.0)


def test_the_help_leaves_the_docstring_of_a_class_without_one_alone():
    @documented
    @attrs.frozen
    class Bare:
        scale: Scale = number(3.0)

    assert Bare.__doc__ is None


def test_a_list_may_be_any_sequence_as_its_type_says():
    @attrs.frozen
    class Mine:
        weights: object = numbers((1.0,))

    assert Mine(range(3)).weights == (0.0, 1.0, 2.0)
    for text in ("12", b"12", bytearray(b"12")):
        with pytest.raises(ConfigurationError, match="list of numbers"):
            Mine(text)
        with pytest.raises(ConfigurationError, match="over must be one of"):
            guidance_plugins.Rescale(over=text)
    assert guidance_plugins.Rescale(over=range(1, 3)) == guidance_plugins.Rescale(over=(1, 2))
    assert Guidance([guidance_plugins.Interval(methods=["cfg"])]).plugins[0].methods == ("cfg",)
