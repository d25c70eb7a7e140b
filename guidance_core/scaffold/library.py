"""Where a new package gets guidance-core from."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import attrs

import guidance_core
from guidance_core.errors import ConfigurationError
from guidance_core.version import __version__

NAME = "guidance-core"


@attrs.frozen
class Library:
    """A requirement on guidance-core: versions from an index, or the place to install it from."""

    versions: str = ""
    "Such as `>=0.2`."
    url: str = ""
    "Of a checkout, an archive or a repository; empty for an index."

    @property
    def is_local(self) -> bool:
        """Whether it is a folder or an archive of this machine, which no other can install from."""
        return self.url.startswith("file:")

    @property
    def indexed(self) -> str:
        """The versions to ask an index for: those given, or this one and later ones."""
        return self.versions or f">={__version__}"

    def requirement(self, extras: Sequence[str] = ()) -> str:
        """Return the requirement as pyproject.toml writes it (PEP 508)."""
        name = f"{NAME}[{','.join(extras)}]" if extras else NAME
        return f"{name} @ {self.url}" if self.url else f"{name}{self.versions}"


def installed_library() -> Library:
    """Return where the running guidance-core was installed from: an index, a folder, an archive or a repository.

    What is installed from a place of its own has it written down beside its metadata (PEP 610). One that is not
    installed, but runs from its sources, is taken from there.

    Raises:
        ConfigurationError: it was installed from a folder or an archive that is not there any more.
    """
    try:
        text = importlib.metadata.distribution(NAME).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        sources = Path(guidance_core.__file__).parents[1]
        if (sources / "pyproject.toml").is_file():
            return Library(url=sources.resolve().as_uri())
        text = None
    if not text:
        return Library(versions=f">={__version__}")
    origin = json.loads(text)
    place = file_of(str(origin["url"]))
    if place is not None and not place.exists():
        raise ConfigurationError(
            f"guidance-core was installed from {place}, which is not there any more. Say where to get it from: "
            f"--library '>={__version__}', a folder, an archive, or a URL such as git+https://host/guidance-core@main."
        )
    url, source = str(origin["url"]), origin.get("vcs_info")
    if source:
        url = f"{source['vcs']}+{url}@{source['commit_id']}"
    return Library(url=f"{url}#subdirectory={origin['subdirectory']}" if "subdirectory" in origin else url)


def file_of(url: str) -> Path | None:
    """Return the folder or file of this machine that a URL names, or None."""
    parts = urllib.parse.urlsplit(url)
    return Path(urllib.request.url2pathname(parts.path)) if parts.scheme == "file" else None


def library_from(given: str) -> Library:
    """Return the library that an option names.

    Args:
        given: versions (`>=0.2,<1`), a folder or an archive, or a URL (`git+https://...@main`).

    Raises:
        ConfigurationError: it is none of these.
    """
    given = given.strip()
    clause = r"(?:==|~=|!=|>=|<=|>|<)\s*\d+(?:\.\d+)*(?:(?:a|b|rc|\.post|\.dev)\d+)*(?:\.\*)?"
    if re.fullmatch(rf"{clause}(?:\s*,\s*{clause})*", given):
        return Library(versions=re.sub(r"\s+", "", given))
    if re.match(r"[a-z][a-z0-9+.-]*://\S+$", given):
        return Library(url=given)
    path = Path(os.path.expanduser(given))
    if path.is_dir() and not (path / "pyproject.toml").is_file():
        raise ConfigurationError(f"{path} holds no pyproject.toml; give the folder of guidance-core's sources.")
    if not given or not path.exists():
        raise ConfigurationError(
            f"guidance-core cannot be installed from {given!r}; give versions such as '>=0.2', a folder or an archive "
            "that exists, or a URL such as git+https://host/guidance-core@main."
        )
    return Library(url=path.resolve().as_uri())
