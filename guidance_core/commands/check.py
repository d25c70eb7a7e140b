"""`guidance-core check`: the conformance suite, run by pytest. Needs the extras `cli` and `testing`."""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import sys
from collections.abc import Iterable
from typing import Annotated, Any
from unittest import mock

import typer

from guidance_core.commands.extras import check_extra
from guidance_core.commands.options import AsJson, print_json
from guidance_core.discovery import PLUGINS, executor_names, plugin_names, problems
from guidance_core.errors import ConfigurationError

ALONE = (
    *("--noconftest", "-c", os.devnull, "--rootdir", os.curdir, "--assert=plain", "--no-header", "--show-capture=no"),
    *("-rN", "-p", "no:cacheprovider", "-p", "no:warnings", "-p", "no:unraisableexception"),
)
"""Arguments that leave the files and settings of the folder out of pytest's session.

Waiting for exceptions that nobody can catch would collect the garbage five times: half a second, beside torch.
"""

EXECUTOR_CHECKS = {
    "all_gather": "all-gather-equals-serial",
    "all_reduce": "all-reduce-within-bound",
}
"The check that compares each executor with serial; batched has none."
AGAIN = "  # without --ranks 0 or 1: all_gather and all_reduce were not tried"
NEXT = "next: pytest, build, publish"
FOLLOWING = ("pytest", "pip install build twine && python -m build", "twine upload dist/*")


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
    0 if every promise that was checked holds, 1 if one does not, 2 for wrong use, 130 if interrupted.
    """
    check_extra("testing")
    import pytest

    from guidance_core import conformance
    from guidance_core.conformance.checks import check_named
    from guidance_core.conformance.limits import imported_within
    from guidance_core.conformance.lookup import with_parameters
    from guidance_core.conformance.pytest_plugin import ConformanceSuite
    from guidance_core.conformance.testing import checks_of

    if list_checks:
        _list(conformance.all_checks(), as_json=as_json)
        return
    sys.path.insert(0, os.getcwd())  # as python itself would, for module:Class
    seed = random.randrange(2**32) if seed is None else seed
    options = conformance.Options(max_examples=max_examples, seed=seed, ranks=ranks, time_limit=time_limit)
    wanted = [*(plugins or []), *(plugin_names() if everything else [])]
    if not wanted and not executor:
        raise ConfigurationError(
            f"name a method to check, --all, or --executor NAME ({', '.join(executor_names())}); see --help."
        )
    parameters: dict[str, Any] = {}
    for text in param or []:
        if "=" not in text:
            raise ConfigurationError(f"--param takes name=value, as in a spec: --param scale=4; got {text!r}.")
        parameters |= with_parameters(f"plugin:{text}")[1]
    given: dict[str, Any] = {
        "conditions": {name: {} for name in condition or []},
        "shapes": [text.split(",") for text in shape] if shape else None,
        "outputs": outputs.split(",") if outputs else (),
        "prediction_types": prediction_types.split(",") if prediction_types else (),
    }
    subjects: list[Any] = []
    broken: dict[str, str] = {}
    with contextlib.redirect_stdout(sys.stderr):  # what modules print is not this command's answer
        for name in dict.fromkeys(wanted):
            try:
                with imported_within(time_limit, name):
                    subjects.append(conformance.subject_of(name, parameters, **given))
            except ConfigurationError as error:
                if not everything:
                    raise
                broken[name] = str(error)
        for name in executor or []:
            with imported_within(time_limit, name):
                subjects.append(conformance.executor_subject_of(name, None if wanted else parameters))
    for found in problems(PLUGINS) if everything else []:
        what = f"{found.name} of {found.distribution}" if found.name else found.distribution
        broken[what] = str(found.failure)
    reasons = [dict(text.partition("=")[::2] for text in texts or []) for texts in (skip, expect_failure)]
    checks = checks_of(subjects, options, skip=reasons[0], expected_failures=reasons[1])
    kinds = {subject.kind for subject in subjects}
    chosen = " or ".join(f"guidance(check={check_named(name, *kinds).name!r})" for name in only or [])
    suite = ConformanceSuite(lambda: checks)
    settings = {"PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with mock.patch.dict(os.environ, settings), contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
        status = int(pytest.main([*ALONE, "-v" if full else "-q", "-m", chosen], plugins=[suite]))
    is_bad = bool(status or broken)
    following = [] if only or skip else _following(subjects)  # what was left out may not hold
    if following and ranks < 2:
        following = [f"guidance-core check {' '.join(map(shlex.quote, wanted))}".rstrip() + AGAIN]
    covered = _covered(suite.rows)
    if as_json:
        subjects = suite.subjects()
        if status in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR):
            subjects = [{**subject, "ok": False} for subject in subjects]  # not every check was made
        print_json({"seed": seed, "subjects": subjects, "not_checked": broken, "next": [] if is_bad else following})
    else:
        if covered:
            print(covered)
        print(f"seed {seed}", *(f"{name}: not checked: {why}" for name, why in broken.items()), sep="\n")
        if following and not is_bad:
            print(
                NEXT if ranks >= 2 else "next: check on several ranks too",
                *(f"  {command}" for command in following),
                sep="\n",
            )
    if is_bad:
        interrupted = status == pytest.ExitCode.INTERRUPTED
        raise SystemExit(130 if interrupted else 1 if broken or status == pytest.ExitCode.INTERNAL_ERROR else status)


def _covered(rows: Iterable[Any]) -> str:
    """Say on which executors methods were checked."""
    found = {name: [row for row in rows if row["check"] == check] for name, check in EXECUTOR_CHECKS.items()}
    if not any(found.values()):
        return ""
    run = [name for name, each in found.items() if any(row["examples"] for row in each)]
    left = [name for name in found if name not in run]
    return f"executors covered: {', '.join(['serial', *run])}" + (f"; not: {', '.join(left)}" if left else "")


def _following(subjects: Iterable[Any]) -> list[str]:
    """Return the commands that come next for a user's own methods and executors; none for those of the library."""
    ours = ("guidance_core.", "guidance_plugins.")
    own = [subject for subject in subjects if not subject.cls.__module__.startswith(ours)]
    return list(FOLLOWING) if own else []


def _list(checks: Iterable[Any], *, as_json: bool) -> None:
    names = {"check": "name", "of": "subject", "theme": "theme", "sentence": "sentence"}
    rows = [{key: getattr(each, name) for key, name in names.items()} for each in checks]
    if as_json:
        print_json({"checks": rows})
    else:
        print(*(f"{row['check']:<32}{row['of']:<10}{row['sentence']}" for row in rows), sep="\n")
