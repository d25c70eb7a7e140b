"""`guidance-core dashboard`: packages of others, installed apart, and their own tests."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from guidance_core import ConfigurationError
from guidance_core.commands.app import app
from guidance_core.scaffold import library_from, new_package, write_package
from guidance_core.scaffold.dashboard import read_list

ROOT = Path(__file__).parents[1]


def dashboard(*words):
    return CliRunner().invoke(app, ["dashboard", *map(str, words)])


def packages(folder, *names):
    """Write packages beside each other; their library is this checkout."""
    library = library_from(str(ROOT))
    return [write_package(new_package(name, author="Ada", library=library), folder) for name in names]


@pytest.fixture
def here(monkeypatch):
    """Everything is installed here: nothing is fetched, and wheels are built with what is here."""
    for name, value in {"NO_INDEX": "1", "NO_BUILD_ISOLATION": "0", "FIND_LINKS": "", "EXTRA_INDEX_URL": ""}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("PYTHONPATH", raising=False)


def test_a_package_whose_tests_fail_is_told_apart_from_one_whose_tests_pass(tmp_path, here):
    sound, broken = packages(tmp_path, "sound-method", "broken-method")
    module = broken / "src/broken_method/__init__.py"
    text = module.read_text()
    assert "self.scale" in text
    module.write_text(text.replace("self.scale", "(self.scale + 1)"))
    for folder in (sound, broken):  # the conformance suite has its own tests; here the formula is enough
        tests = folder / "tests/test_conformance.py"
        tests.write_text(
            tests.read_text().replace("@parametrize_with_checks", "@pytest.mark.skip\n@parametrize_with_checks")
        )
        if "import pytest" not in tests.read_text():
            tests.write_text(tests.read_text().replace("import torch", "import pytest\nimport torch", 1))
    archive = tmp_path / "broken-method.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(broken, "broken-method-0.1.0")
    listed = tmp_path / "plugins.txt"
    listed.write_text(f"# two packages\nsound-method  # a folder beside this file\n\n{archive}\n")

    done = dashboard(listed, "--library", ROOT, "--share", "--json")
    assert done.exit_code == 1, done.output
    first, second = json.loads(done.stdout)["packages"]
    assert (first["name"], first["version"], first["status"]) == ("sound-method", "0.1.0", "passed"), first
    assert "1 passed" in first["tests"]
    assert (second["name"], second["status"]) == ("broken-method", "failed"), second
    assert "1 failed" in second["tests"]
    assert "test_the_formula_on_numbers" in second["log"]
    assert not (sound / ".pytest_cache").exists(), "the package itself is left alone"


def test_what_cannot_be_installed_is_a_row_too(tmp_path, here):
    (tmp_path / "no-package").mkdir()
    (tmp_path / "no-package/pyproject.toml").write_text("not toml at all")
    listed = tmp_path / "plugins.txt"
    listed.write_text("no-package\n")
    done = dashboard(listed, "--library", ROOT, "--share", "--keep", tmp_path / "kept")
    assert done.exit_code == 1
    assert "not installed" in done.output
    assert (tmp_path / "kept/1/source/pyproject.toml").exists()
    again = dashboard(listed, "--library", ROOT, "--keep", tmp_path / "kept")
    assert isinstance(again.exception, ConfigurationError)


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "lists no packages"), ("# only a remark\n", "lists no packages"), ("-r other.txt\n", "an option of pip")],
)
def test_a_list_that_lists_nothing_is_refused(tmp_path, text, says):
    listed = tmp_path / "plugins.txt"
    listed.write_text(text)
    with pytest.raises(ConfigurationError, match=says):
        read_list(listed)


def test_a_list_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_list(tmp_path / "none.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_list(tmp_path / "binary.txt")


def test_a_list_keeps_its_order_and_finds_folders_beside_it(tmp_path):
    (tmp_path / "mine").mkdir()
    listed = tmp_path / "plugins.txt"
    listed.write_text("theirs>=1 # remark\nmine\ngit+https://host.example/x.git@main#egg=x\ntheirs>=1\n")
    assert read_list(listed) == ["theirs>=1", str(tmp_path / "mine"), "git+https://host.example/x.git@main#egg=x"]
