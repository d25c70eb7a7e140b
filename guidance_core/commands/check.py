"""`guidance-core check`: the conformance suite as a command. Needs the extras `cli` and `testing`."""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from guidance_core.config.spec import parse_spec
from guidance_core.config.tables import decode
from guidance_core.discovery import EXECUTORS, names_of, plugin_names
from guidance_core.errors import ConfigurationError, SpecError

if TYPE_CHECKING:
    from guidance_core.conformance import Options, Outcome

_COLOURS = {
    "passed": "green",
    "failed": "bold red",
    "passed unexpectedly": "bold red",
    "failed as expected": "yellow",
    "skipped": "yellow",
    "not applicable": "dim",
}


def check(
    plugins: Annotated[
        list[str] | None,
        typer.Argument(help="Methods to check: installed names, module:Class, or specs such as cfg:scale=4."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Check every installed method.")] = False,
    executor: Annotated[
        list[str] | None,
        typer.Option(
            help="Check an executor, by itself: an installed name, module:Class, or a spec such as "
            "all_gather:split_rows=true. Repeatable."
        ),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            help="A parameter of the method, or of the executor where no method is named, as in a spec: --param "
            "scale=4. Repeatable."
        ),
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(help="A condition the method looks for but names in no branch. Repeatable."),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="A shape of one sample to try, such as 3,8,8, for a method that takes no others. Repeatable."
        ),
    ] = None,
    outputs: Annotated[
        str, typer.Option(help="Names of the outputs the method is made for, such as video,audio.")
    ] = "",
    prediction_types: Annotated[
        str, typer.Option(help="What a model may predict for the method, such as flow,x0, where not anything.")
    ] = "",
    only: Annotated[list[str] | None, typer.Option(help="Run this check only. Repeatable.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Leave a check out: CHECK=REASON. Repeatable.")] = None,
    expect_failure: Annotated[
        list[str] | None,
        typer.Option(help="A check known to fail: CHECK=REASON; that it passes is reported. Repeatable."),
    ] = None,
    ranks: Annotated[int, typer.Option(help="Most processes to use; 0 leaves those checks out.")] = 4,
    max_examples: Annotated[int, typer.Option(help="Examples for a check of average cost.")] = 20,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the choice of examples; another each time if left out.")
    ] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds that one check may take.")] = 60.0,
    list_checks: Annotated[bool, typer.Option("--list", help="List the checks with what they promise.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Show every failure at length, also those that may follow from another.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Check whether methods and executors keep the library's promises.

    Every check is tried on examples drawn anew; one that fails is shown with the smallest example found, as code to
    run. Exit status: 0 if all hold, 1 if one does not, 2 for wrong use.
    """
    try:
        from guidance_core import conformance
        from guidance_core.conformance.limits import imported_within
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
    with contextlib.redirect_stdout(sys.stderr):  # what modules and hooks print is not this command's answer
        subjects, broken = _subjects(wanted, _parameters(param), given, time_limit, keep_going=everything)
        for name in executor or []:
            with imported_within(time_limit, name):
                subjects.append(conformance.executor_subject_of(name, None if wanted else _parameters(param)))
        chosen = _Chosen(only or [], _reasons("--skip", skip), _reasons("--expect-failure", expect_failure))
        chosen.check({subject.kind for subject in subjects})
        reports = [_Report(subject, list(_shown(chosen.run(subject, options), subject))) for subject in subjects]
    reports = [report for report in reports if report.outcomes]
    if as_json:
        found = {"seed": seed, "subjects": [report.to_dict() for report in reports], "not_checked": broken}
        print(json.dumps(found, indent=2))
    else:
        for report in reports:
            report.print(full=full)
        print(f"seed {seed}")
        for name, why in broken.items():
            print(f"{name}: not checked: {why}")
    if broken or any(outcome.is_bad for report in reports for outcome in report.outcomes):
        raise SystemExit(1)


@attrs.frozen
class _Chosen:
    """Which checks to run, skip, and expect to fail, of methods and executors together."""

    only: Sequence[str]
    skip: Mapping[str, str]
    expected_failures: Mapping[str, str]

    def check(self, kinds: set[str]) -> None:
        """Raise `UnknownNameError` unless each name is a check of one of these kinds."""
        from guidance_core.conformance.checks import check_named

        for name in (*self.only, *self.skip, *self.expected_failures):
            check_named(name, *kinds)

    def run(self, subject: Any, options: Options) -> Iterator[Outcome]:
        """Run the checks that are chosen for a subject."""
        from guidance_core.conformance import all_checks, run_checks

        own = {check.name for check in all_checks(subject.kind)}
        only = [name for name in self.only if name in own]
        if self.only and not only:
            return iter(())
        skip = {name: why for name, why in self.skip.items() if name in own}
        expected = {name: why for name, why in self.expected_failures.items() if name in own}
        return run_checks(subject, only=only, skip=skip, expected_failures=expected, options=options)


class _Report:
    """What became of the checks of one subject."""

    def __init__(self, subject: Any, outcomes: list[Outcome]) -> None:
        self.subject = subject
        self.outcomes = outcomes

    @property
    def seconds(self) -> float:
        return sum(outcome.seconds for outcome in self.outcomes)

    def counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for outcome in self.outcomes:
            counts[outcome.status] = counts.get(outcome.status, 0) + 1
        return counts

    def to_dict(self) -> dict[str, Any]:
        from guidance_core.conformance.report import to_dict

        return {
            "name": self.subject.name,
            "kind": self.subject.kind,
            "code": self.subject.code,
            "ok": not any(outcome.is_bad for outcome in self.outcomes),
            "counts": self.counts(),
            "seconds": round(self.seconds, 3),
            "checks": [to_dict(outcome) for outcome in self.outcomes],
        }

    def _assumed(self) -> tuple[str, ...]:
        with contextlib.suppress(Exception):  # what its hooks raise is in the outcomes
            return tuple(self.subject.assumed)
        return ()

    def print(self, *, full: bool) -> None:
        from guidance_core.conformance import report_of
        from guidance_core.conformance.registry import FUNDAMENTAL

        console = Console()
        table = Table(title=escape(f"{self.subject.kind} {self.subject.title}"), title_justify="left", box=None)
        table.add_column("check", no_wrap=True)
        table.add_column("examples", justify="right")
        table.add_column("seconds", justify="right")
        table.add_column("")
        for outcome in self.outcomes:
            colour = _COLOURS[outcome.status]
            reason = f": {outcome.reason}" if outcome.reason else ""
            examples = str(outcome.examples) if outcome.examples else ""
            table.add_row(
                outcome.check.name,
                examples,
                f"{outcome.seconds:.2f}",
                f"[{colour}]{outcome.status}[/{colour}][dim]{escape(reason)}[/dim]",
            )
        console.print(table)
        bad = [outcome for outcome in self.outcomes if outcome.is_bad]
        first = [outcome for outcome in bad if outcome.check.name in FUNDAMENTAL]
        for outcome in bad if full else first or bad:
            console.print()
            console.print(report_of(outcome), markup=False, highlight=False, soft_wrap=True)
        rest = [] if full or not first else [outcome for outcome in bad if outcome not in first]
        if rest:
            causes = " and ".join(outcome.check.name for outcome in first)
            console.print(f"\nAlso failed, which may follow from {causes} (mend that first, or see --full):")
        for outcome in rest:
            what = outcome.failure.what.splitlines()[0] if outcome.failure is not None else outcome.reason
            console.print(f"  {outcome.check.name}: {what}", markup=False, highlight=False, soft_wrap=True)
        if self.subject.kind == "plugin" and (assumed := self._assumed()):
            console.print(f"\nGiven to it because its branches name them: the conditions {', '.join(assumed)}.")
        counts = ", ".join(f"{count} {status}" for status, count in self.counts().items())
        console.print(f"\n{self.subject.name}: {counts} in {self.seconds:.1f} s\n", highlight=False)


def _shown(outcomes: Iterable[Outcome], subject: Any) -> Iterable[Outcome]:
    """Pass outcomes on, with a line on stderr that says how far it is."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"{subject.name}: starting", total=None)
        for number, outcome in enumerate(outcomes, 1):
            progress.update(task, description=f"{subject.name}: {number} checks done, last {outcome.check.name}")
            yield outcome


def _subjects(
    wanted: Iterable[str],
    parameters: Mapping[str, Any],
    given: Mapping[str, Any],
    time_limit: float,
    *,
    keep_going: bool,
) -> tuple[list[Any], dict[str, str]]:
    """Return what to check, and why some of it cannot be; raise unless it may `keep_going`."""
    subjects, broken = [], {}
    for name in wanted:
        try:
            subjects.append(_subject(name, parameters, given, time_limit))
        except ConfigurationError as error:
            if not keep_going:
                raise
            broken[name] = str(error)
    return subjects, broken


def _subject(name: str, parameters: Mapping[str, Any], given: Mapping[str, Any], time_limit: float) -> Any:
    from guidance_core.conformance import subject_of
    from guidance_core.conformance.limits import imported_within

    with imported_within(time_limit, name):
        return subject_of(name, parameters, **given)


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
        print(json.dumps({"checks": rows}, indent=2))
        return
    console = Console()
    table = Table(box=None)
    table.add_column("check", no_wrap=True)
    table.add_column("of")
    table.add_column("promise")
    for each in checks:
        table.add_row(each.name, each.subject, escape(each.sentence))
    console.print(table)
