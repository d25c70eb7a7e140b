"""`guidance-core new`: what it writes, what it refuses, and the life of what it wrote."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
from pathlib import Path

import attrs
import pytest
from typer.testing import CliRunner

from guidance_core import ConfigurationError, GuidanceError, UnknownNameError, __version__
from guidance_core.commands.app import app
from guidance_core.conformance import Options, run_checks, subject_of
from guidance_core.scaffold import (
    KINDS,
    LICENSES,
    Library,
    check_name,
    installed_library,
    library_from,
    new_package,
    write_package,
)

ROOT = Path(__file__).parents[1]
FILES = {
    ".github/workflows/test.yml",
    ".gitignore",
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "src/my_method/__init__.py",
    "src/my_method/py.typed",
    "tests/test_conformance.py",
}
kinds = pytest.mark.parametrize("kind", KINDS)


def new(*words, cwd=None):
    """Run the command in this process, in a folder."""
    here = Path.cwd()
    try:
        os.chdir(cwd or here)
        return CliRunner().invoke(app, ["new", *map(str, words)])
    finally:
        os.chdir(here)


# What it writes.


def test_it_writes_a_package_into_the_current_folder_and_says_what_next(tmp_path):
    done = new("my-method", cwd=tmp_path)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "my-method"
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert written == FILES
    commands = ["cd my-method", "pip install -e", "guidance-core check my-method", "guidance-core sample -g my-method"]
    places = [done.output.index(command) for command in commands]
    assert places == sorted(places)


def test_json_lists_the_files(tmp_path):
    done = new("my-method", "--into", tmp_path / "deep" / "er", "--license", "none", "--json")
    printed = json.loads(done.output)
    assert set(printed["files"]) == FILES - {"LICENSE"}
    assert all((Path(printed["folder"]) / file).is_file() for file in printed["files"])
    assert (printed["name"], printed["kind"], printed["license"]) == ("my-method", "combine", None)
    assert printed["next"][0].endswith("my-method")


@kinds
@pytest.mark.parametrize("license", LICENSES)
def test_pyproject_says_what_the_package_is(kind, license):
    library = Library(versions=">=0.2")
    package = new_package("my-method", kind=kind, license=license, library=library, author='Zoë “Z” "O\'" \\ $name')
    project = tomllib.loads(package.files["pyproject.toml"])["project"]
    assert project["name"] == "my-method"
    assert project["version"] == "0.1.0"
    assert project["description"]
    assert project["authors"] == [{"name": 'Zoë “Z” "O\'" \\ $name'}]
    assert project["requires-python"] == ">=3.11"
    assert project["dependencies"] == ["attrs", "guidance-core>=0.2", "torch"]
    assert project["optional-dependencies"] == {"test": ["guidance-core[cli,demo,testing]>=0.2"]}
    assert project["entry-points"] == {"guidance_core.plugins": {"my-method": "my_method:MyMethod"}}
    assert project.get("license") == LICENSES[license]
    assert project.get("license-files") == (["LICENSE"] if LICENSES[license] else None)
    assert ("LICENSE" in package.files) is (LICENSES[license] is not None)


@pytest.mark.parametrize(
    ("given", "requirement"),
    [
        (">=0.2", "guidance-core[cli]>=0.2"),
        (" ~=0.2.1, <1 ", "guidance-core[cli]~=0.2.1,<1"),
        (
            "git+https://host.example/guidance-core@main",
            "guidance-core[cli] @ git+https://host.example/guidance-core@main",
        ),
        (str(ROOT), f"guidance-core[cli] @ {ROOT.as_uri()}"),
    ],
)
def test_the_library_can_be_named(given, requirement):
    assert library_from(given).requirement(["cli"]) == requirement


@pytest.mark.parametrize(
    "given",
    [
        "",
        "latest",
        "0.2",
        ">=0.2 <1",
        ">=0.2<1",
        ">=abc",
        "~nobody/x",
        "no/such/folder",
        str(ROOT / "docs"),
        ">=0.2; rm -rf",
    ],
)
def test_what_names_no_library_is_refused(given):
    with pytest.raises(ConfigurationError, match="guidance-core"):
        library_from(given)


@pytest.mark.parametrize(
    ("origin", "requirement"),
    [
        (None, f"guidance-core>={__version__}"),
        ({"url": "file:///src/core", "dir_info": {"editable": True}}, "guidance-core @ file:///src/core"),
        ({"url": "file:///a/guidance_core.whl", "archive_info": {}}, "guidance-core @ file:///a/guidance_core.whl"),
        (
            {"url": "https://host.example/core.git", "vcs_info": {"vcs": "git", "commit_id": "abc123"}},
            "guidance-core @ git+https://host.example/core.git@abc123",
        ),
        (
            {
                "url": "https://host.example/all.git",
                "vcs_info": {"vcs": "git", "commit_id": "abc123"},
                "subdirectory": "core",
            },
            "guidance-core @ git+https://host.example/all.git@abc123#subdirectory=core",
        ),
    ],
)
def test_a_package_takes_the_library_from_where_the_running_one_came(monkeypatch, origin, requirement):
    class Distribution:
        def read_text(self, name):
            return json.dumps(origin) if origin and name == "direct_url.json" else None

    monkeypatch.setattr("importlib.metadata.distribution", lambda name: Distribution())
    monkeypatch.setattr(Path, "exists", lambda path: True)
    assert installed_library().requirement() == requirement


def test_a_place_that_is_gone_is_told_instead_of_written(tmp_path, monkeypatch):
    wheel = tmp_path / "guidance core.whl"

    class Distribution:
        def read_text(self, name):
            return json.dumps({"url": wheel.as_uri(), "archive_info": {}})

    monkeypatch.setattr("importlib.metadata.distribution", lambda name: Distribution())
    wheel.write_bytes(b"")
    assert installed_library().url == wheel.as_uri()
    wheel.unlink()
    with pytest.raises(ConfigurationError, match=r"guidance core\.whl, which is not there any more.*--library"):
        installed_library()


def test_a_library_that_runs_from_its_sources_is_taken_from_there(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", missing)
    assert installed_library().url == ROOT.as_uri()


def test_where_only_this_machine_can_install_from_is_stated(tmp_path):
    here = new("my-method", "--library", ROOT, "--into", tmp_path / "a")
    assert f"guidance-core: {ROOT.as_uri()}\n  only this machine" in here.output
    elsewhere = new("my-method", "--library", ">=0.2", "--into", tmp_path / "b")
    assert "guidance-core: guidance-core>=0.2\nnext:" in elsewhere.output
    assert f'Write "guidance-core>={__version__}" in pyproject.toml' in here.output
    assert "before you publish" not in elsewhere.output
    for folder, count in (("a", 2), ("b", 0)):
        text = (tmp_path / folder / "my-method/pyproject.toml").read_text()
        assert text.count("a package index refuses a place; before you publish, write") == count
        tomllib.loads(text)
        readme = (tmp_path / folder / "my-method/README.md").read_text()
        assert ("`twine upload` ends with an error" in readme) == (count > 0)
    for folder, remarks in (("a", 1), ("b", 0)):
        text = (tmp_path / folder / "my-method/.github/workflows/test.yml").read_text()
        assert text.count("# pyproject.toml takes guidance-core from a folder") == remarks


@pytest.mark.parametrize("license", [name for name in LICENSES if name != "none"])
def test_the_licence_is_whole_and_names_author_and_year(license):
    text = new_package("my-method", license=license.upper(), author="Ada $ Lovelace", year=1843).files["LICENSE"]
    assert "1843" in text
    assert "Ada $ Lovelace" in text
    ends = {"apache-2.0": "limitations under the License.", "mit": "SOFTWARE.", "bsd-3-clause": "SUCH DAMAGE."}
    assert text.rstrip().endswith(ends[license])
    assert "[yyyy]" not in text


@kinds
def test_no_placeholder_is_left(kind):
    for path, text in new_package("my-method", kind=kind, author="Ada").files.items():
        left = text.replace("${{ matrix.python-version }}", "")
        assert "$" not in left, path
        assert text == "" or text.endswith("\n"), path
        assert not text.endswith("\n\n"), path


@kinds
def test_the_specs_of_the_readme_are_the_methods(kind):
    text = new_package("my-method", kind=kind).files["README.md"]
    assert text.count("my-method:") >= 3
    assert KINDS[kind].formula in text
    assert all(
        line.strip() in new_package("my-method", kind=kind).files["src/my_method/__init__.py"]
        for line in KINDS[kind].formula.splitlines()
    )


def test_the_author_is_whom_git_knows(tmp_path, monkeypatch):
    config = tmp_path / "config"
    config.write_text("[user]\n\tname = Grace Hopper\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    assert "Grace Hopper" in new_package("my-method", license="mit").files["LICENSE"]
    config.write_text("")
    assert "The authors" in new_package("my-method", license="mit").files["LICENSE"]
    monkeypatch.setenv("PATH", "")
    assert "The authors" in new_package("my-method", license="mit").files["LICENSE"]


# What it refuses.


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("My_Method", "Did you mean 'my-method'?"),
        ("MyMethod", "Did you mean 'my-method'?"),
        ("my.method", "Did you mean 'my-method'?"),
        ("my--method", "Did you mean 'my-method'?"),
        ("-my-method-", "Did you mean 'my-method'?"),
        ("2-fast", "Did you mean 'fast'?"),
        ("../escape", "Did you mean 'escape'?"),
        ("my-method\n", "Did you mean 'my-method'?"),
        ("", "begins with a letter"),
        ("42", "begins with a letter"),
        ("méthode", "lower-case letters"),
        ("m" * 41, "41 characters"),
        ("lambda", "a keyword of Python"),
        ("json", "one of Python's own"),
        ("torch", "which is taken"),
        ("tests", "which is taken"),
        ("guidance-core", "which is taken"),
        ("guidance-plugins", "which is taken"),
        ("branch", "the class would be called Branch"),
        ("value-error", "the class would be called ValueError"),
        ("none", "the class would be called None"),
        ("cfg", "guidance-core already publishes a method called 'cfg'"),
        ("pytest", "a package pytest"),
        ("typing-extensions", "a package typing-extensions"),
    ],
)
def test_names_that_would_not_work_are_refused(name, says):
    with pytest.raises(ConfigurationError) as caught:
        check_name(name)
    assert says in str(caught.value)


def test_the_module_of_an_installed_package_is_refused():
    with pytest.raises(ConfigurationError, match="as that of scikit-learn, which is installed"):
        check_name("sklearn")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"kind": "lineer"}, "no kind 'lineer' of method. Did you mean 'linear'?"),
        ({"kind": "Combine"}, "Did you mean 'combine'?"),
        ({"license": "apache"}, "Did you mean 'apache-2.0'?"),
        ({"license": "bsd"}, "There is: apache-2.0, bsd-3-clause, mit, none."),
        ({"license": "gpl-3.0"}, "'none' leaves it to you"),
    ],
)
def test_unknown_kinds_and_licences_are_refused_with_the_nearest(given, says):
    with pytest.raises(UnknownNameError) as caught:
        new_package("my-method", **given)
    assert says in str(caught.value)


@pytest.mark.parametrize("author", ["", "  ", "two\nlines", "\x1b[31m"])
def test_an_author_that_is_no_line_is_refused(author):
    with pytest.raises(ConfigurationError, match="author"):
        new_package("my-method", author=author)


def test_nothing_is_overwritten(tmp_path):
    package = new_package("my-method")
    kept = tmp_path / "my-method" / "README.md"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(ConfigurationError, match="exists already, and nothing is overwritten"):
        write_package(package, tmp_path)
    assert [path.name for path in kept.parent.iterdir()] == ["README.md"]
    assert kept.read_text() == "mine"
    with pytest.raises(ConfigurationError, match=r"README\.md exists already"):
        write_package(package, kept)


def test_what_cannot_be_written_whole_is_not_written(tmp_path):
    package = attrs.evolve(new_package("my-method"), files={"a": "1", "a/b": "2"})
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_package(package, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_it_in_one_line(tmp_path):
    done = new("My_Method", "--into", tmp_path)
    assert isinstance(done.exception, GuidanceError)
    assert list(tmp_path.iterdir()) == []


# What it wrote.


@kinds
def test_each_method_is_short_and_keeps_the_promises(kind, tmp_path, monkeypatch):
    name = f"scaffolded-{kind}"
    folder = write_package(new_package(name, kind=kind), tmp_path)
    monkeypatch.syspath_prepend(folder / "src")
    module = importlib.import_module(name.replace("-", "_"))
    (cls,) = (getattr(module, each) for each in module.__all__)
    assert len(Path(module.__file__).read_text().splitlines()) <= 60
    subject = subject_of(cls)
    bad = [
        each
        for each in run_checks(subject, options=Options(max_examples=5, seed=0, ranks=0, replay=False))
        if each.is_bad
    ]
    assert bad == []
    hooks = {"linear": {"build_branches"}, "combine": {"build_branches", "combine"}}
    assert set(subject.hooks) == hooks.get(kind, {"build_branches", "postprocess"})

    spec = importlib.util.spec_from_file_location(f"test_{kind}", folder / "tests/test_conformance.py")
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    tests.test_the_formula_on_numbers()


@pytest.fixture(scope="module")
def all_kinds(tmp_path_factory):
    """One package of each kind, in one folder."""
    folder = tmp_path_factory.mktemp("kinds")
    for kind in KINDS:
        write_package(new_package(f"scaffolded-{kind}", kind=kind), folder)
    return folder


@pytest.mark.parametrize("config", [["--config", str(ROOT / "pyproject.toml"), "--config", "src = ['src']"], []])
@pytest.mark.parametrize("command", [["check"], ["format", "--check", "--diff"]])
@kinds
def test_the_linter_has_nothing_to_say(kind, command, config, all_kinds):
    ruff(*command, *config, "--no-cache", ".", cwd=all_kinds / f"scaffolded-{kind}")


def ruff(*words, cwd):
    found = shutil.which("ruff", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    done = subprocess.run([found, *words], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_type_checker_has_nothing_to_say(all_kinds):
    sources = [str(all_kinds / f"scaffolded-{kind}" / "src") for kind in KINDS]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", *sources],  # here, where an earlier run left what it knows of torch
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": os.pathsep.join(sources)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_templates_are_no_python_of_the_project():
    templates = [path for path in (ROOT / "guidance_core/scaffold").rglob("*") if path.is_file()]
    assert {path.suffix for path in templates if path.parent.name not in ("scaffold", "__pycache__")} == {".tmpl"}
    for path in (ROOT / "guidance_core/scaffold").glob("*.py"):
        ast.parse(path.read_text())


# Its whole life: built, installed beside the library, used, checked and removed.


class Environment:
    """A fresh virtual environment that sees the packages of the running one, guidance-core apart."""

    def __init__(self, folder):
        self.folder = folder
        self.bin = folder / "venv" / "bin"
        kept = {
            name: each for name, each in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "GUIDANCE"))
        }
        # pip keeps the wheel of a folder whose name looks like one of an archive, such as guidance-core, and reuses it.
        self.variables = {**kept, "OMP_NUM_THREADS": "1", "PIP_NO_CACHE_DIR": "1"}
        self.call(sys.executable, "-m", "venv", str(folder / "venv"))
        (site,) = (folder / "venv").glob("lib/python*/site-packages")
        shutil.rmtree(site / "setuptools", ignore_errors=True)  # Python 3.11 brings one too old for torch
        for metadata in site.glob("setuptools-*"):
            shutil.rmtree(metadata)
        Path(site, "neighbours.pth").write_text(f"{self._neighbours()}\n")  # comes after the environment's own

    def _neighbours(self):
        """Make a folder of links to what is installed here: no guidance-core, and no .pth file that brings it in."""
        links = self.folder / "neighbours" / "site-packages"  # hypothesis reads the source of what lies elsewhere
        links.mkdir(parents=True)
        for site in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
            for each in Path(site).iterdir():
                own = each.name.lstrip("_").startswith(("guidance", "pycache", "editable"))
                if not own and each.suffix != ".pth":
                    (links / each.name).symlink_to(each)
        return links

    def call(self, *words, status=0):
        done = subprocess.run(
            words, cwd=self.folder, env=self.variables, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == status, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done

    def run(self, command, *words):
        return self.call(str(self.bin / command), *words).stdout

    def python(self, *words):
        return self.run("python", *words)

    def command(self, *words):
        return self.run("guidance-core", *words)

    def install(self, wheel):
        self.python("-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel))

    def plugins(self):
        return {row["name"]: row for row in json.loads(self.command("plugins", "--json"))["plugins"]}


def built(source, folder):
    """Build a wheel with what is installed here."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, source]
    environment = {**os.environ, "PIP_NO_CACHE_DIR": "1"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_installed(environment, name):
    """Run the suite on an installed method, by its name: with the command, and as a pytest plugin."""
    (subject,) = json.loads(
        environment.command("check", name, "--json", "--ranks", "2", "--max-examples", "5", "--seed", "0")
    )["subjects"]
    assert subject["ok"]
    loads = next(row for row in subject["checks"] if row["check"] == "loads-beside-a-broken-neighbour")
    assert loads["status"] == "passed"
    quickly = ("--guidance-ranks", "0", "--guidance-max-examples", "2", "--guidance-seed", "0")
    assert "passed" in environment.python("-m", "pytest", "-q", "--guidance-plugin", name, *quickly)


def test_a_package_installs_where_the_library_is_not_and_its_ci_file_runs(tmp_path):
    environment = Environment(tmp_path)
    folder = write_package(new_package("my-method", author="Ada", library=library_from(str(ROOT))), tmp_path)
    environment.variables |= {
        "PATH": f"{environment.bin}{os.pathsep}{os.environ['PATH']}",
        **{"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"},  # all else is there already: nothing is fetched
        "PYTEST_ADDOPTS": "--guidance-ranks=0 --guidance-max-examples=2 --guidance-seed=0",
    }
    steps = re.findall(r"- run: (.*)", (folder / ".github/workflows/test.yml").read_text())
    install, tests, check = steps
    assert install == "pip install -e '.[test]'"
    environment.call("bash", "-ec", f"cd my-method && {install.replace('-e ', '')}")  # -e fetches another package
    assert environment.plugins()["my-method"]["failure"] is None
    assert "guidance-core" in environment.python("-m", "pip", "list")
    assert tests == "pytest"
    assert "passed" in environment.call("bash", "-ec", "cd my-method && python -m pytest").stdout  # of the neighbours
    quickly = "--ranks 0 --max-examples 2 --seed 0"
    said = environment.call("bash", "-ec", f"{check} {quickly}").stdout
    assert (
        "\n  guidance-core check my-method  # without --ranks 0 or 1: all_gather and all_reduce were not tried\n"
        in said
    )
    assert environment.command("check", "my-method", *quickly.split(), "--only", "works", "--quiet") == ""
    environment.command("sample", "-g", "my-method", "--steps", "2", "--per-class", "1", "--out", "a.png")

    built = "import os, hatchling.build as h; os.chdir('my-method'); print(h.build_sdist('..'))"
    with tarfile.open(tmp_path / environment.python("-c", built).strip()) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= {"tests/test_conformance.py", "src/my_method/__init__.py", "LICENSE", "README.md", "CHANGELOG.md"}


def test_what_the_library_ships_has_nothing_to_publish():
    done = CliRunner().invoke(app, ["check", "cfg", "--only", "works", "--ranks", "0", "--seed", "0"])
    assert done.exit_code == 0, done.output
    assert "next:" not in done.output


def test_a_package_lives_from_its_wheel_to_its_removal(tmp_path):
    environment = Environment(tmp_path)
    environment.install(built(ROOT, tmp_path / "core"))
    environment.command("new", "my-method", "--author", "Ada Lovelace")
    environment.install(built(tmp_path / "my-method", tmp_path / "wheels"))

    *places, count = environment.python(
        "-c",
        "import guidance_core, guidance_plugins, my_method, importlib.metadata as metadata;"
        "print(guidance_core.__file__, guidance_plugins.__file__, my_method.__file__, sep='\\n');"
        "print(sum(each.name == 'guidance-core' for each in metadata.distributions()))",
    ).splitlines()
    assert all(Path(place).is_relative_to(tmp_path / "venv") for place in places)
    assert count == "1"

    row = environment.plugins()["my-method"]
    assert (row["distribution"], row["version"], row["failure"]) == ("my-method", "0.1.0", None)
    assert {parameter["name"] for parameter in row["parameters"]} == {"scale", "parallel"}

    assert "passed" in environment.python("-m", "pytest", "-q", "my-method")
    check_installed(environment, "my-method")

    example = ROOT / "docs/examples/guidance-trust-region"
    environment.install(built(example, tmp_path / "example"))
    check_installed(environment, "trust-region")
    some = ("-k", "as_long_as or neutral or batch", "-p", "no:cacheprovider")
    environment.python("-m", "pytest", "-q", str(example / "tests"), *some)
    assert environment.plugins()["trust-region"]["distribution"] == "guidance-trust-region"

    environment.command(
        "sample",
        "-g",
        "my-method,trust-region:scale=2",
        "-g",
        "my-method:scale=5",
        "--steps",
        "4",
        "--per-class",
        "1",
        "--out",
        "x.png",
    )
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")

    again = environment.call(str(environment.bin / "guidance-core"), "new", "my-method", "--into", "again", status=2)
    assert again.stderr.startswith("error: my-method already publishes a method called 'my-method'")
    assert not (tmp_path / "again").exists()

    environment.python("-m", "pip", "uninstall", "-q", "-y", "my-method")
    left = json.loads(environment.python("-m", "guidance_core", "plugins", "--json"))["plugins"]
    names = {row["name"] for row in left}
    assert "cfg" in names
    assert "my-method" not in names
