"""The files of a new package: rendered first, then written all or none."""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from string import Template

import attrs

from guidance_core.errors import ConfigurationError, UnknownNameError, suggest
from guidance_core.scaffold.library import Library, installed_library
from guidance_core.scaffold.names import Names, check_name

VERSION = "0.1.0"
"Of a new package."
NOBODY = "The authors"
"Whose a package is where nobody says so."


@attrs.frozen
class Kind:
    """A form of method to start from; its templates lie in the folder of its name."""

    summary: str
    "One line, for the package's description."
    formula: str
    spec: str
    "An example in a spec, with `$name` for the method."
    drawing: str
    "What to draw first, likewise."


KINDS: Mapping[str, Kind] = {
    "linear": Kind(
        "Guidance whose strength grows from step to step, for guidance-core.",
        "guided = c + (s − 1)·w·(c − u)",
        "$name:scale=3",
        "$name",
    ),
    "combine": Kind(
        "Guidance that turns a prediction more than it lengthens it, for guidance-core.",
        "d = c − u,   ĉ = c/‖c‖,   d∥ = ⟨d, ĉ⟩·ĉ\nguided = c + (s − 1)·(d − d∥ + η·d∥)",
        "$name:scale=3",
        "$name",
    ),
    "correction": Kind(
        "A bound on the spread of a guided prediction, for guidance-core.",
        "guided = g·(φ·min(1, k·std(c)/std(g)) + 1 − φ)",
        "cfg:scale=3,$name:limit=1",
        "cfg:scale=3,$name",
    ),
}

LICENSES: Mapping[str, str | None] = {
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "bsd-3-clause": "BSD-3-Clause",
    "none": None,
}
"The SPDX expression of each licence."

_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "CHANGELOG.md": "CHANGELOG.md",
    ".gitignore": "gitignore",
    ".github/workflows/test.yml": "test.yml",
    "src/$module/__init__.py": "$kind/method.py",
    "tests/test_conformance.py": "$kind/test_conformance.py",
}
"The template of each file."


@attrs.frozen
class Package:
    """A package that is not written yet."""

    names: Names
    kind: str
    license: str
    library: Library
    "Where it gets guidance-core from."
    files: Mapping[str, str]
    "The text of each file, by its path in the package's folder."

    @property
    def drawing(self) -> str:
        """The spec to draw first."""
        return Template(KINDS[self.kind].drawing).substitute(name=self.names.name)


def new_package(
    name: str,
    *,
    kind: str = "combine",
    license: str = "apache-2.0",
    author: str | None = None,
    year: int | None = None,
    library: Library | None = None,
) -> Package:
    """Return the package for a method called `name`; writes nothing.

    Args:
        name: of the package and the method, such as `my-method`.
        kind: the form of method to start from, a name in `KINDS`.
        license: a name in `LICENSES`, in any case.
        author: who holds the copyright; what git knows, if not given.
        year: of the copyright; this one if not given.
        library: where the package gets guidance-core from; where the running one came from, if not given.

    Raises:
        ConfigurationError: the name cannot be used (see `check_name`), or the author is not a line of text.
        UnknownNameError: no such kind or licence.
    """
    names = check_name(name)
    if kind not in KINDS:
        raise UnknownNameError(f"there is no kind {kind!r} of method.{suggest(kind, KINDS)}")
    if license.lower() not in LICENSES:
        raise UnknownNameError(
            f"there is no text of the licence {license!r} here; 'none' leaves it to you.{suggest(license, LICENSES)}"
        )
    license = license.lower()
    author = (git_user() or NOBODY) if author is None else author.strip()
    if not author or not author.isprintable():
        raise ConfigurationError(f"the author must be a name on one line; got {author!r}.")
    library = library or installed_library()
    facts = _facts(names, KINDS[kind], license, author, year or datetime.date.today().year, library)
    paths = {**names_of(names), "kind": kind}
    files = {
        Template(path).substitute(paths): _rendered(f"templates/{Template(template).substitute(paths)}", facts)
        for path, template in _FILES.items()
    }
    files[f"src/{names.module}/py.typed"] = ""
    if LICENSES[license]:
        files["LICENSE"] = _rendered(f"licenses/{license}", facts)
    return Package(names, kind, license, library, dict(sorted(files.items())))


def names_of(names: Names) -> dict[str, str]:
    """Return the names as placeholders."""
    return attrs.asdict(names)


def _facts(names: Names, kind: Kind, license: str, author: str, year: int, library: Library) -> dict[str, str]:
    spdx = LICENSES[license]
    return {
        **names_of(names),
        "version": VERSION,
        "library": json.dumps(library.requirement()),
        "library_for_tests": json.dumps(library.requirement(EXTRAS)),
        "hatch_fields": "\n[tool.hatch.metadata]\nallow-direct-references = true\n" if library.url else "",
        "library_section": _LIBRARY_SECTION.format(url=library.url, versions=library.indexed) if library.url else "",
        "library_comment": f"    # {_REFUSED}: {json.dumps(Library(versions=library.indexed).requirement())}\n"
        if library.url
        else "",
        "test_comment": f"# {_REFUSED}: {json.dumps(Library(versions=library.indexed).requirement(EXTRAS))}\n"
        if library.url
        else "",
        "library_remark": _LIBRARY_REMARK if library.is_local else "",
        "summary": kind.summary,
        "formula": kind.formula,
        "spec": Template(kind.spec).substitute(name=names.name),
        "drawing": Template(kind.drawing).substitute(name=names.name),
        "author": author,
        "quoted_author": json.dumps(author, ensure_ascii=False),  # of printable text: a string of TOML too
        "year": str(year),
        "license_fields": f'license = "{spdx}"\nlicense-files = ["LICENSE"]\n' if spdx else "",
        "license_section": f"\n## Licence\n\n{spdx}; see [LICENSE](LICENSE).\n" if spdx else "",
    }


_LIBRARY_SECTION = """
This also installs guidance-core, from the place that `pyproject.toml` names:

```text
{url}
```

Package indexes refuse a package that depends on a place: `twine upload` ends with an error, although `twine check`
passes. Once guidance-core is on the index, write versions instead, in both lines of `pyproject.toml`:

```toml
"guidance-core{versions}"
```
"""

_REFUSED = "a package index refuses a place; before you publish, write"
EXTRAS = ("cli", "demo", "testing")
"What the tests of a package need."


_LIBRARY_REMARK = """\
# pyproject.toml takes guidance-core from a folder or an archive of one machine. For runners elsewhere, name versions
# or a Git URL there.
"""


def _rendered(template: str, facts: Mapping[str, str]) -> str:
    text = resources.files(__package__).joinpath(f"{template}.tmpl").read_text(encoding="utf-8")
    return Template(text).substitute(facts)


def git_user() -> str | None:
    """Return the name that git signs commits with in this folder, if it knows one."""
    try:
        done = subprocess.run(["git", "config", "user.name"], capture_output=True, text=True, check=False)
    except OSError:
        return None
    name = done.stdout.strip()
    return name if name.isprintable() and name else None


def write_package(package: Package, into: Path) -> Path:
    """Write the package as a new folder inside `into`, and return the folder.

    Raises:
        ConfigurationError: the folder exists already, or cannot be written. Nothing is left behind then.
    """
    folder = into / package.names.name
    try:
        into.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except FileExistsError:
        taken = folder if into.is_dir() else into
        raise ConfigurationError(
            f"{taken} exists already, and nothing is overwritten: remove it, or give another folder with --into."
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be written: {error.strerror or error}.") from error
    try:
        for path, text in package.files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise ConfigurationError(f"{folder} cannot be written: {error.strerror or error}.") from error
    return folder
