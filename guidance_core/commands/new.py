"""The command `guidance-core new`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from guidance_core.commands.options import AsJson, print_json
from guidance_core.scaffold.library import library_from
from guidance_core.scaffold.package import KINDS, LICENSES, NOBODY, new_package, write_package


def new(
    name: Annotated[str, typer.Argument(help="Name of the package and of the method in a spec, such as my-method.")],
    kind: Annotated[
        str,
        typer.Option(
            help=f"What to start from: {', '.join(KINDS)}. A linear method names passes with strengths; one with "
            "combine looks at predictions; a correction changes the guided result."
        ),
    ] = "combine",
    license: Annotated[str, typer.Option(help=f"One of {', '.join(LICENSES)}.")] = "apache-2.0",
    author: Annotated[
        str | None,
        typer.Option(help=f"Copyright holder (default: your Git name, or {NOBODY!r})."),
    ] = None,
    library: Annotated[
        str | None,
        typer.Option(
            help="Where the package gets guidance-core from: versions such as '>=0.2', a folder, or a URL. "
            "If not given: the place from which the running one was installed."
        ),
    ] = None,
    into: Annotated[Path, typer.Option(help="The folder to write the package's own folder in.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Write a package for a method of your own: a method that works, its tests, and the files to publish it."""
    source = None if library is None else library_from(library)
    package = new_package(name, kind=kind, license=license, author=author, library=source)
    folder = write_package(package, into)
    commands = [
        f"cd {shlex.quote(str(folder))}",
        "pip install -e '.[test]'",
        f"guidance-core check {package.names.name}",
        f"guidance-core sample -g {package.drawing}",
    ]
    remark = ""
    if package.library.url:
        remark = (
            "before you publish: an index refuses a package that depends on a place. Write "
            f'"guidance-core{package.library.indexed}" in pyproject.toml, once that is on the index.'
        )
    if as_json:
        facts = {"name": package.names.name, "kind": package.kind, "license": LICENSES[package.license]}
        facts["library"] = package.library.requirement()
        print_json({**facts, "folder": str(folder), "files": list(package.files), "next": commands, "remark": remark})
        return
    print(f"{folder}: a method of the kind {package.kind}")
    for path in package.files:
        print(f"  {path}")
    print(f"guidance-core: {package.library.url or package.library.requirement()}")
    if package.library.is_local:
        print("  only this machine can install from there")
    print("next:")
    for command in commands:
        print(f"  {command}")
    if remark:
        print(remark)
