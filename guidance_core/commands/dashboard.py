"""`guidance-core dashboard`: whether published plugins work with this version."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import attrs
import typer
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from guidance_core.commands.options import AsJson, Console, print_json
from guidance_core.commands.statuses import BROKEN
from guidance_core.commands.terminal import is_quiet
from guidance_core.errors import ConfigurationError
from guidance_core.scaffold.dashboard import Verdict, read_list, run_dashboard
from guidance_core.scaffold.library import installed_library, library_from


def dashboard(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A list of packages, one per line: a name with versions, a folder, an archive or a URL.",
        ),
    ],
    library: Annotated[
        str | None,
        typer.Option(
            help="The guidance-core to try them with: versions such as '>=0.2', a folder, an archive or a URL. "
            "If not given: the place from which the running one was installed."
        ),
    ] = None,
    share: Annotated[
        bool,
        typer.Option(
            "--share",
            help="Let the environments see the packages installed here, so that torch is not fetched for each.",
        ),
    ] = False,
    keep: Annotated[
        Path | None, typer.Option(help="Keep the environments and sources in this folder, which must not exist yet.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that one step of a package may take.")] = 1800.0,
    as_json: AsJson = False,
) -> None:
    """Install published plugins, each into a separate environment, and run their own tests with this version.

    Exit status: 0 if all tests pass, 1 if not.
    """
    requirements = read_list(file)
    source = installed_library() if library is None else library_from(library)
    with _folder(keep) as folder:
        verdicts = []
        for verdict in run_dashboard(requirements, source, folder, share=share, timeout=timeout, begun=_say):
            verdicts.append(verdict)
    if as_json:
        print_json({"library": source.requirement(), "packages": [attrs.asdict(verdict) for verdict in verdicts]})
    else:
        _show(verdicts, source.requirement())
    if not all(verdict.holds for verdict in verdicts):
        raise SystemExit(BROKEN)


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="guidance-dashboard-") as made:
            yield Path(made).resolve()
        return
    try:
        keep.mkdir(parents=True)
    except FileExistsError:
        raise ConfigurationError(f"{keep} exists already; give --keep a folder that does not.") from None
    yield keep.resolve()


def _say(requirement: str) -> None:
    if not is_quiet():
        print(f"trying {requirement}", file=sys.stderr, flush=True)


def _show(verdicts: list[Verdict], library: str) -> None:
    table = Table("package", "version", "status", "tests", "seconds", box=SIMPLE, pad_edge=False)
    for each in verdicts:
        name = each.name or each.requirement
        table.add_row(*map(escape, (name, each.version, each.status, each.tests, f"{each.seconds:.0f}")))
    Console().print(table)
    print(f"with {library}")
    for each in verdicts:
        if not each.holds:
            print(f"\n{each.name or each.requirement}: {each.status}\n{each.log}".rstrip())
