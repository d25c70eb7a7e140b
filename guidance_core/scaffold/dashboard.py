"""Published packages, each installed into an environment of its own, and their own tests run against this library."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs

from guidance_core.errors import ConfigurationError, GuidanceError, brief, shortened
from guidance_core.scaffold.library import NAME, Library

EXTRAS = ("cli", "demo", "testing")
"Of guidance-core, that the tests of packages need."
PASSED, FAILED, NO_TESTS, NOT_INSTALLED, OTHER_LIBRARY = (
    "passed",
    "failed",
    "no tests",
    "not installed",
    "other library",
)


@attrs.frozen
class Verdict:
    """How one package fares with this library."""

    requirement: str
    status: str
    "`passed`, `failed`, `no tests`, `not installed`, or `other library`: it replaced this one."
    name: str = ""
    version: str = ""
    tests: str = ""
    "What pytest counted, such as `3 passed`."
    seconds: float = 0.0
    log: str = ""
    "The end of what the step that failed printed."

    @property
    def holds(self) -> bool:
        """Whether it works with this library, as far as its tests tell."""
        return self.status == PASSED


class _StepError(GuidanceError):
    """A command of one package failed, with what it printed."""

    def __init__(self, status: str, log: str) -> None:
        super().__init__(status)
        self.status, self.log = status, log


def read_list(file: Path) -> list[str]:
    """Return the requirements that a file lists, one a line; what follows `#` after a space is a remark.

    A requirement is what pip takes: a name with versions, a folder (relative to the file's), an archive, or a URL.

    Raises:
        ConfigurationError: the file cannot be read, or lists nothing.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the list {file} cannot be read: {error}.") from None
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines()]
    found = [_located(line, file.parent) for line in lines if line]
    if not found:
        raise ConfigurationError(f"{file} lists no packages; write one a line: a name, a folder, an archive or a URL.")
    for each in found:
        if each.startswith("-"):
            raise ConfigurationError(f"{file}: {brief(each)} is an option of pip; write one package a line.")
    return list(dict.fromkeys(found))


def _located(requirement: str, folder: Path) -> str:
    path = folder / Path(requirement).expanduser()
    return str(path.resolve()) if path.exists() else requirement


def run_dashboard(
    requirements: Sequence[str],
    library: Library,
    folder: Path,
    *,
    share: bool = False,
    timeout: float = 1800.0,
    begun: Callable[[str], object] = lambda _: None,
) -> Iterator[Verdict]:
    """Yield a verdict for each package.

    Args:
        requirements: of the packages, as `read_list` returns them.
        library: what to install as guidance-core.
        folder: where the environments and sources are put; it stays.
        share: let the environments see the packages that are installed here, which saves fetching torch for each.
        timeout: seconds that each step of a package may take.
        begun: called with each requirement when its turn comes.
    """
    for number, requirement in enumerate(requirements, 1):
        begun(requirement)
        start = time.monotonic()
        place = folder / str(number)
        place.mkdir(parents=True)
        try:
            verdict = _Package(requirement, library, place, share, timeout).judged()
        except _StepError as error:
            verdict = Verdict(requirement, error.status, log=error.log)
        yield attrs.evolve(verdict, seconds=round(time.monotonic() - start, 1))


@attrs.frozen
class _Package:
    requirement: str
    library: Library
    folder: Path
    share: bool
    timeout: float

    def judged(self) -> Verdict:
        """Install it, look at what came of that, and run its tests."""
        self._run(NOT_INSTALLED, sys.executable, "-m", "venv", self.folder / "venv")
        if self.share:
            self._share()
        own = ("--ignore-installed", "--no-deps") if self.share else ()
        self._pip("install", *own, self.library.requirement(EXTRAS))
        wanted = self._versions()[NAME]
        source = self._source()
        self._pip("install", f"{source}[test]")
        name, version = self._published(source)
        if self._versions().get(NAME) != wanted:
            return Verdict(self.requirement, OTHER_LIBRARY, name, version, log="Its requirements exclude this version.")
        tests = [each for each in ("tests", "test") if (source / each).is_dir()]
        if not tests:
            return Verdict(self.requirement, NO_TESTS, name, version, log="Its source distribution has no tests.")
        done = self._call(self._python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, cwd=source)
        last = next((line for line in reversed(done.stdout.splitlines()) if re.search(r"\d+ \w+", line)), "")
        counted = re.sub(r" in [\d.]+s.*|[=]+", "", last).strip()
        log = "" if done.returncode == 0 else shortened(done.stdout[-4000:] + done.stderr[-1000:], 5000)
        return Verdict(self.requirement, FAILED if done.returncode else PASSED, name, version, counted, log=log)

    @property
    def _python(self) -> Path:
        return self.folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"

    def _source(self) -> Path:
        """Return a copy of the package's source, which has its tests."""
        given, copy = Path(self.requirement), self.folder / "source"
        if given.is_dir():
            left_out = shutil.ignore_patterns(".git", ".venv", "__pycache__", "dist", "build", "*.egg-info")
            shutil.copytree(given, copy, ignore=left_out)
            return copy
        archives = self.folder / "archives"
        if given.is_file():
            archives.mkdir()
            shutil.copy(given, archives)
        else:
            self._pip("download", "--no-deps", "--no-binary", ":all:", "-d", archives, self.requirement)
        for archive in archives.iterdir():
            if archive.name.endswith(".tar.gz"):
                with tarfile.open(archive) as packed:
                    packed.extractall(copy, filter="data")
            elif archive.suffix == ".zip":
                with zipfile.ZipFile(archive) as zipped:
                    zipped.extractall(copy)
        folders = [path.parent for path in copy.glob("**/pyproject.toml")]
        if not folders:
            raise _StepError(NOT_INSTALLED, "There is no source distribution of it, with its tests.")
        return min(folders, key=lambda path: len(path.parts))

    def _published(self, source: Path) -> tuple[str, str]:
        """Return name and version of the distribution that was installed from a folder."""
        for name, version, url in self._installed():
            if url and Path(url.removeprefix("file://")).name == source.name and source.as_uri() == url:
                return name, version
        return "", ""

    def _versions(self) -> dict[str, str]:
        return {name: version for name, version, _ in reversed(self._installed())}

    def _installed(self) -> list[tuple[str, str, str]]:
        script = (
            "import importlib.metadata as m, json;"
            "print(json.dumps([(d.name.lower().replace('_', '-'), d.version,"
            " json.loads(d.read_text('direct_url.json') or '{}').get('url', '')) for d in m.distributions()]))"
        )
        return [tuple(each) for each in json.loads(self._run(FAILED, self._python, "-c", script))]

    def _share(self) -> None:
        """Let the environment see what is installed here, after what it has itself."""
        (site,) = (self.folder / "venv").glob("**/site-packages")
        for each in site.glob("setuptools*"):  # Python 3.11 brings one too old for torch
            shutil.rmtree(each, ignore_errors=True)
        here = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
        (site / "shared.pth").write_text("\n".join(here) + "\n", encoding="utf-8")

    def _pip(self, *words: object) -> None:
        self._run(NOT_INSTALLED, self._python, "-m", "pip", "--disable-pip-version-check", *words)

    def _run(self, status: str, *words: object) -> str:
        """Run a command; if it fails, that is the package's status."""
        done = self._call(*words)
        if done.returncode:
            raise _StepError(status, shortened(done.stderr[-4000:] or done.stdout[-4000:], 5000))
        return done.stdout

    def _call(self, *words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        left_out = ("PYTHONPATH", "PYTHONHOME", "PYTEST_", "GUIDANCE_CORE_", "VIRTUAL_ENV")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        # pip keeps the wheel of a folder whose name looks like an archive's, such as guidance-core, and reuses it.
        variables = {**kept, "PIP_NO_CACHE_DIR": "1"} if self.library.url.startswith("file:") else kept
        try:
            return subprocess.run(
                list(map(str, words)),
                cwd=cwd or self.folder,
                env=variables,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self.timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise _StepError(FAILED, f"It took longer than {self.timeout:g} seconds.") from None
