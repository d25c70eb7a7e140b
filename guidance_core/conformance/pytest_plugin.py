"""The checks as items of pytest, and a table of what became of them.

pytest selects, skips, expects failures, prints reports and sets the exit status. `_guidance_core_pytest` imports this
module for `--guidance-plugin`, and `guidance-core check` hands its suite to pytest.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from guidance_core.conformance.executor_subject import executor_subject_of
from guidance_core.conformance.limits import imported_within
from guidance_core.conformance.lookup import subject_of
from guidance_core.conformance.options import Options
from guidance_core.conformance.outcome import PASSED, Outcome
from guidance_core.conformance.registry import FUNDAMENTAL
from guidance_core.conformance.report import to_dict
from guidance_core.conformance.runner import run_check
from guidance_core.conformance.testing import BoundCheck, checks_of, tell
from guidance_core.errors import GuidanceError

BAD = ("failed", "passed unexpectedly")
STRICT = "[XPASS(strict)] "
"How pytest begins to say that a check passes which is expected to fail."
COLOURS = {**dict.fromkeys(BAD, "red"), "failed as expected": "yellow", "skipped": "yellow"}


def suite_of(config: pytest.Config) -> ConformanceSuite:
    """Return the suite that the options of pytest ask for."""
    makers: dict[str, Any] = {"--guidance-plugin": subject_of, "--guidance-executor": executor_subject_of}

    def subjects(options: Options) -> Iterator[Any]:
        for option, make in makers.items():
            for name in config.getoption(option):
                with imported_within(options.time_limit, name):
                    yield make(name)

    def checks() -> list[BoundCheck]:
        try:
            names = ("max_examples", "ranks", "seed", "time_limit")
            options = Options(**{name: config.getoption(f"guidance_{name}") for name in names})
            return checks_of(subjects(options), options)
        except GuidanceError as error:
            raise pytest.UsageError(str(error)) from None

    return ConformanceSuite(checks)


class ConformanceSuite:
    """A plugin of pytest that runs some checks, each as an item, and keeps what was reported of them."""

    def __init__(self, checks: Callable[[], Sequence[BoundCheck]]) -> None:
        self.checks = checks
        self.rows: list[dict[str, Any]] = []
        "What became of each check, in order."
        self.causes: dict[str, list[str]] = {}
        "By subject, the failed checks that may make others fail."
        self.first: dict[tuple[str, str], str] = {}
        "By subject and what went wrong, the first check that failed so."

    def pytest_configure(self, config: pytest.Config) -> None:
        """Leave the test files of the folder alone where none is named."""
        config.addinivalue_line("markers", "guidance(check, subject, theme): a check of guidance-core's suite")
        if config.args_source is not pytest.Config.ArgsSource.ARGS:
            config.args = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Add an item for each check, before pytest selects."""
        items += [
            ConformanceItem.from_parent(
                session, name=f"guidance::{bound.id}", bound=bound, causes=self.causes, first=self.first
            )
            for bound in self.checks()
        ]

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Count what fails as another check did apart, so that its report is not shown again."""
        row: Any = dict(report.user_properties).get("guidance")
        is_alike = row is not None and row.get("alike") and report.when == "call" and report.failed
        return ("failed alike", "F", "FAILED") if is_alike else None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what is reported of a check."""
        row: Any = dict(report.user_properties).get("guidance")
        if row is not None and (report.when == "call" or (report.when == "setup" and not report.passed)):
            self.rows.append({**row, **_judged(report, row["reason"]), "seconds": round(report.duration, 3)})

    def subjects(self) -> list[dict[str, Any]]:
        """Return what became of each subject, as plain data."""
        found: dict[str, dict[str, Any]] = {}
        for row in self.rows:
            named = row["subject"]
            of = found.setdefault(
                f"{named['kind']} {named['module']} {named['code']}",
                {**named, "ok": True, "counts": {}, "seconds": 0.0, "conditions": [], "checks": []},
            )
            of["ok"] &= row["status"] not in BAD
            of["counts"][row["status"]] = of["counts"].get(row["status"], 0) + 1
            of["seconds"] = round(of["seconds"] + row["seconds"], 3)
            of["conditions"] = row["conditions"] or of["conditions"]
            of["checks"].append({key: row[key] for key in row if key not in ("subject", "conditions")})
        return list(found.values())

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print a table for each subject: failures first, passes as one line."""
        subjects = self.subjects()
        titles = Counter((subject["kind"], subject["title"]) for subject in subjects)
        for subject in subjects:
            is_clear = titles[subject["kind"], subject["title"]] == 1
            whose = "" if is_clear else f" of {subject['module']}"
            terminalreporter.section(f"{subject['kind']} {subject['title']}{whose}", "-")
            for row in sorted(subject["checks"], key=lambda row: row["status"] not in BAD):
                if (row["status"] != PASSED or row["reason"]) and not (row.get("alike") and row["status"] in BAD):
                    line = f"{row['check']:<32}{row['examples'] or '':>4}{row['seconds']:>8.2f} s  {row['status']}"
                    colour = COLOURS.get(row["status"], "light")
                    terminalreporter.write_line(f"{line}: {row['reason']}".removesuffix(": "), **{colour: True})
            for first, alike in _alike(subject["checks"]).items():
                names = ", ".join(row["check"] for row in alike)
                terminalreporter.write_line(f"Like {first}, {len(alike)} more: {names}; --full (-v) shows each report.")
                made = dict.fromkeys(row["failure"]["case"] for row in alike if row["failure"]["case"])
                if len(made) > 1:
                    terminalreporter.write_line(f"  smallest examples: {'; '.join(made)}")
            if subject["conditions"]:
                given = ", ".join(subject["conditions"])
                terminalreporter.write_line(f"Given to it because its branches name them: the conditions {given}.")
            counts = ", ".join(f"{count} {status}" for status, count in sorted(subject["counts"].items()))
            examples = sum(row["examples"] for row in subject["checks"])
            terminalreporter.write_line(
                f"{subject['name']}: {counts} in {subject['seconds']:.1f} s with {examples} examples"
            )


class ConformanceItem(pytest.Item):
    """One check of one subject."""

    def __init__(self, *, bound: BoundCheck, causes: dict[str, list[str]], first: dict[Any, str], **given: Any) -> None:
        super().__init__(**given)
        self.bound = bound
        self.causes = causes
        self.first = first
        check, subject = bound.check, bound.subject
        for mark in (pytest.mark.guidance(check=check.name, subject=subject.name, theme=check.theme), *bound.marks):
            self.add_marker(mark)
        self.outcome = Outcome(check, subject, "skipped")
        self.keep()

    def keep(self, conditions: Sequence[str] = ()) -> None:
        """Keep the outcome in the reports, as plain data that travels between processes."""
        subject = self.bound.subject
        named = {name: getattr(subject, name) for name in ("name", "kind", "title", "code")}
        named["module"] = subject.cls.__module__
        row = {**to_dict(self.outcome), "subject": named, "conditions": list(conditions)}
        self.user_properties[:] = [("guidance", row)]

    def runtest(self) -> None:
        """Run the check."""
        bound = self.bound
        self.outcome = run_check(bound.check, bound.subject, bound.options)
        has_run = self.outcome.status == PASSED and self.outcome.examples > 0 and bound.check.draw is not None
        self.keep(getattr(bound.subject, "assumed", ()) if has_run else ())
        self.find_alike()
        if self.outcome.is_bad and bound.check.name in FUNDAMENTAL:
            self.causes.setdefault(bound.subject.key, []).append(bound.check.name)
        tell(self.outcome)

    def find_alike(self) -> None:
        """Note the first check of the subject that failed in the same way, unless every report is wanted."""
        failure = self.outcome.failure
        if failure is None or not self.outcome.is_bad or self.config.get_verbosity() > 0:
            return
        if self.get_closest_marker("xfail") is not None:
            return  # its report is not shown, so that it cannot stand for others
        key = self.bound.subject.key, _same(failure.what)
        first = self.first.setdefault(key, self.bound.check.name)
        if first != self.bound.check.name:
            self.user_properties[0][1]["alike"] = first  # type: ignore[index]

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show the report without a traceback of the suite; in short where it may follow from another failure."""
        if not isinstance(excinfo.value, pytest.fail.Exception) or self.outcome.failure is None:
            return super().repr_failure(excinfo, style)
        causes = self.causes.get(self.bound.subject.key, [])
        if not causes or self.bound.check.name in FUNDAMENTAL or self.config.get_verbosity() > 0:
            return str(excinfo.value)
        first = self.outcome.failure.what.partition("\n")[0]
        advice = (
            f"This may follow from {' and '.join(causes)}; mend that first, or see the whole report with -v (--full)."
        )
        return f"{self.bound.check.name}: {first}\n{advice}"

    def reportinfo(self) -> tuple[str, int, str]:
        """Say where it comes from."""
        code = self.bound.check.function.__code__
        return code.co_filename, code.co_firstlineno, self.name


def _same(what: str) -> str:
    """Return what went wrong, without the way it came about and without numbers: equal for equal failures."""
    raised = re.findall(r"[A-Za-z_]*(?:Error|Exception): (?:(?![A-Za-z_]*(?:Error|Exception): ).)*", what)
    return re.sub(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?", "#", raised[-1] if raised else what).strip()


def _alike(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the checks that failed as another one did, by its name."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row.get("alike") and row["status"] in BAD:
            found.setdefault(row["alike"], []).append(row)
    return found


def _judged(report: pytest.TestReport, reason: str) -> dict[str, str]:
    """Return the status of a check, and the reason, as pytest judged it by the check's marks."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr or "")
    if hasattr(report, "wasxfail"):
        return {"status": "failed as expected", "reason": report.wasxfail}
    if report.failed and text.startswith(STRICT):
        return {"status": "passed unexpectedly", "reason": text.removeprefix(STRICT)}
    if report.skipped and report.when == "setup":
        return {"status": "skipped", "reason": text.removeprefix("Skipped: ")}
    return {"reason": reason}
