"""`guidance-core check`: the conformance suite, run by pytest. Needs the extras `cli` and `testing`."""

from __future__ import annotations

import contextlib
import os
import random
import sys
from collections.abc import Iterable, Mapping
from typing import Annotated, Any
from unittest import mock

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from guidance_core.commands.options import AsJson, print_json
from guidance_core.config.spec import parse_spec
from guidance_core.config.tables import decode
from guidance_core.discovery import EXECUTORS, names_of, plugin_names
from guidance_core.errors import ConfigurationError, SpecError

ALONE = (
    *("--noconftest", "-c", os.devnull, "--rootdir", os.curdir, "--assert=plain", "--no-header", "--show-capture=no"),
    *("-rN", "-p", "no:cacheprovider", "-p", "no:warnings"),
)
"Arguments that leave the files and settings of the folder out of pytest's session."


def check(
    plugins: Annotated[
        list[str] | None,
        typer.Argument(help="Methods to check: installed names, module:Class, or specs such as cfg:scale=4."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Check every installed method.")] = False,
    executor: Annotated[
        list[str] | None,
        typer.Option(
            help="Check an executor: an installed name, module:Class, or a spec such as all_gather:split_rows=true. "
            "Repeatable."
        ),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            help="A parameter of the method (of the executor if no method is named), as in a spec: --param scale=4. "
            "Repeatable."
        ),
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(help="A condition the method looks for but names in no branch. Repeatable."),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(help="A supported shape of one sample, such as 3,8,8 (default: all). Repeatable."),
    ] = None,
    outputs: Annotated[
        str, typer.Option(help="Names of the outputs the method is made for, such as video,audio.")
    ] = "",
    prediction_types: Annotated[str, typer.Option(help="Supported prediction types (default: all).")] = "",
    only: Annotated[list[str] | None, typer.Option(help="Run this check only. Repeatable.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Skip a check: CHECK=REASON. Repeatable.")] = None,
    expect_failure: Annotated[
        list[str] | None,
        typer.Option(help="Expect a check to fail: CHECK=REASON. If it passes, that is a failure. Repeatable."),
    ] = None,
    ranks: Annotated[int, typer.Option(help="Maximum processes; 0 skips multi-process checks.")] = 4,
    max_examples: Annotated[int, typer.Option(help="Examples per check (costly checks use fewer).")] = 20,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the examples (default: a new one, which is printed).")
    ] = None,
    time_limit: Annotated[float, typer.Option(help="CPU seconds per check.")] = 60.0,
    list_checks: Annotated[bool, typer.Option("--list", help="List the checks and their promises.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Show every failure in full, and each check as it runs.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check whether methods and executors keep the library's promises.

    pytest runs each check on random examples. A failure shows the smallest example found, as code to run. Exit status:
    0 if all promises hold, 1 if one does not, 2 for wrong use.
    """
    try:
        import pytest

        from guidance_core import conformance
        from guidance_core.conformance.checks import check_named
        from guidance_core.conformance.limits import imported_within
        from guidance_core.conformance.pytest_plugin import ConformanceSuite
        from guidance_core.conformance.testing import checks_of
    except ModuleNotFoundError:
        raise
    except ImportError as error:
        raise ConfigurationError(str(error)) from None

    if list_checks:
        _list(conformance.all_checks(), as_json=as_json)
        return
    sys.path.insert(0, os.getcwd())  # as python itself would, for module:Class
    seed = random.randrange(2**32) if seed is None else seed
    options = conformance.Options(max_examples=max_examples, seed=seed, ranks=ranks, time_limit=time_limit)
    wanted = list(plugins or [])
    if everything:
        wanted += [name for name in plugin_names() if name not in wanted]
    if not wanted and not executor:
        raise ConfigurationError(
            f"name a method to check, --all, or --executor NAME ({', '.join(names_of(EXECUTORS))}); see --help."
        )
    given: dict[str, Any] = {
        "conditions": {name: {} for name in condition or []},
        "shapes": _shapes(shape),
        "outputs": _names("--outputs", outputs),
        "prediction_types": _names("--prediction-types", prediction_types),
    }
    with contextlib.redirect_stdout(sys.stderr):  # what modules print is not this command's answer
        subjects, broken = _subjects(wanted, _parameters(param), given, time_limit, keep_going=everything)
        for name in executor or []:
            with imported_within(time_limit, name):
                subjects.append(conformance.executor_subject_of(name, None if wanted else _parameters(param)))
    kinds = {subject.kind for subject in subjects}
    chosen = " or ".join(f"guidance(check={check_named(name, *kinds).name!r})" for name in only or [])
    marked = {"skip": _reasons("--skip", skip), "expected_failures": _reasons("--expect-failure", expect_failure)}
    checks = checks_of(subjects, options, **marked)
    suite = ConformanceSuite(lambda: checks)
    arguments = [*ALONE, "-v" if full else "-q", *(["-m", chosen] if chosen else [])]
    settings = {"PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with mock.patch.dict(os.environ, settings), contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
        status = int(pytest.main(arguments, plugins=[suite]))
    if as_json:
        print_json({"seed": seed, "subjects": suite.subjects(), "not_checked": broken})
    else:
        print(f"seed {seed}")
        for name, why in broken.items():
            print(f"{name}: not checked: {why}")
    if status or broken:
        raise SystemExit(1 if broken else status)


def _subjects(
    wanted: Iterable[str],
    parameters: Mapping[str, Any],
    given: Mapping[str, Any],
    time_limit: float,
    *,
    keep_going: bool,
) -> tuple[list[Any], dict[str, str]]:
    """Return what to check, and why some of it cannot be; raise unless it may `keep_going`."""
    from guidance_core.conformance import subject_of
    from guidance_core.conformance.limits import imported_within

    subjects, broken = [], {}
    for name in wanted:
        try:
            with imported_within(time_limit, name):
                subjects.append(subject_of(name, parameters, **given))
        except ConfigurationError as error:
            if not keep_going:
                raise
            broken[name] = str(error)
    return subjects, broken


def _parameters(given: list[str] | None) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for text in given or []:
        try:
            (table,) = parse_spec(f"plugin:{text}")["guidance"]
        except (SpecError, ValueError):
            raise ConfigurationError(
                f"--param takes name=value, as in a spec: --param scale=4; got {text!r}."
            ) from None
        parameters |= {name: decode(value) for name, value in table.items() if name != "plugin"}
    return parameters


def _reasons(option: str, given: list[str] | None) -> dict[str, str]:
    reasons = {}
    for text in given or []:
        name, separator, reason = text.partition("=")
        if not separator or not reason.strip():
            raise ConfigurationError(
                f"{option} takes CHECK=REASON, such as threads='not thread-safe yet'; got {text!r}."
            )
        reasons[name] = reason.strip()
    return reasons


def _names(option: str, given: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in given.split(",")) if given else ()
    if not all(names):
        raise ConfigurationError(f"{option} takes names with commas between them; got {given!r}.")
    return names


def _shapes(given: list[str] | None) -> list[tuple[int, ...]] | None:
    shapes = []
    for text in given or []:
        try:
            shape = tuple(int(size) for size in text.split(","))
        except ValueError:
            shape = ()
        if not shape or min(shape) < 1:
            raise ConfigurationError(f"--shape takes sizes of at least 1 with commas, such as 3,8,8; got {text!r}.")
        shapes.append(shape)
    return shapes or None


def _list(checks: Iterable[Any], *, as_json: bool) -> None:
    if as_json:
        rows = [
            {"check": each.name, "of": each.subject, "theme": each.theme, "sentence": each.sentence} for each in checks
        ]
        print_json({"checks": rows})
        return
    console = Console()
    table = Table(box=None)
    table.add_column("check", no_wrap=True)
    table.add_column("of")
    table.add_column("promise")
    for each in checks:
        table.add_row(each.name, each.subject, escape(each.sentence))
    console.print(table)
