"""What is packed for others: the source distribution can do what the README says, and the metadata is whole."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Return the files of a source distribution of this checkout, by name."""
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        files = {each.name.partition("/")[2]: file.extractfile(each) for each in file.getmembers() if each.isfile()}
        return {name: b"" if content is None else content.read() for name, content in files.items()}


def test_the_source_distribution_holds_every_file_of_the_repository(packed):
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is not a git checkout")
    assert set(listed.stdout.split()) - set(packed) == set()


def test_the_source_distribution_holds_what_the_commands_of_the_readme_need(packed):
    assert set(packed) >= {"Makefile", "constraints.txt", "docs/conf.py", ".ci/run", "tests/conftest.py", "README.md"}


def test_the_metadata_names_every_supported_python():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [each.rpartition(" ")[2] for each in project["classifiers"] if "Python :: 3." in each]
    assert named, "no minor version is named"
    assert all(version in SpecifierSet(project["requires-python"]) for version in named)
    assert f"{sys.version_info[0]}.{sys.version_info[1]}" in named


def test_a_package_index_shows_the_readme_without_links_that_lead_nowhere(packed):
    metadata, _, page = packed["PKG-INFO"].decode().partition("\n\n")
    assert "Description-Content-Type: text/markdown" in metadata
    links = re.findall(r"\]\(([^)]*)\)", page)
    assert all(link.startswith("https://") for link in links), links
    assert "<!--" not in page
    assert "## Write a method" in page, "the text stays"
