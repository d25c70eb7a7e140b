"""Running checks: hypothesis draws and shrinks the cases, a clock stops what hangs."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import hypothesis
from hypothesis.database import DirectoryBasedExampleDatabase

from guidance_core.conformance import shared_ranks
from guidance_core.conformance.case import Case
from guidance_core.conformance.checks import all_checks, check_named
from guidance_core.conformance.executor_subject import ExecutorSubject
from guidance_core.conformance.limits import TooLate, time_limit
from guidance_core.conformance.lookup import subject_of
from guidance_core.conformance.options import Options
from guidance_core.conformance.outcome import (
    EXPECTED_FAILURE,
    FAILED,
    NOT_APPLICABLE,
    PASSED,
    SKIPPED,
    UNEXPECTED_PASS,
    Failure,
    Outcome,
)
from guidance_core.conformance.registry import Check
from guidance_core.conformance.subject import Subject
from guidance_core.conformance.traces import raised
from guidance_core.conformance.violation import NotApplicable, Violation
from guidance_core.errors import GuidanceError

STARTING = 30.0
"Seconds more for a check that has to start processes."

SIMPLIFYING = 8.0
"Seconds that a failing example is made simpler for."


def run_checks(
    subject: Any,
    *,
    only: Sequence[str] = (),
    skip: Mapping[str, str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    options: Options | None = None,
) -> Iterator[Outcome]:
    """Run the checks of a subject and yield what became of each.

    Args:
        subject: a `Subject`, or an executor's.
        only: names of the checks to run; all if empty.
        skip: checks to leave out, each with the reason.
        expected_failures: checks that are known to fail, each with the reason.
        options: how thoroughly to check.

    Raises:
        UnknownNameError: a check of that name does not exist.
    """
    options = options or Options()
    skip, expected = dict(skip or {}), dict(expected_failures or {})
    for name in (*only, *skip, *expected):
        check_named(name, subject.kind)
    hung = ""
    for check in all_checks(subject.kind):
        if only and check.name not in only:
            continue
        if check.name in skip:
            yield Outcome(check, subject, SKIPPED, skip[check.name])
            continue
        if hung:
            yield Outcome(check, subject, SKIPPED, f"{hung} hangs")
            continue
        outcome = run_check(check, subject, options)
        hung = check.name if outcome.failure is not None and outcome.failure.hangs else ""
        yield judged(outcome, expected)


def judged(outcome: Outcome, expected: Mapping[str, str]) -> Outcome:
    """Return an outcome in the light of the failures that are expected."""
    reason = expected.get(outcome.check.name)
    if reason is None:
        return outcome
    if outcome.status == FAILED:
        return attrs.evolve(outcome, status=EXPECTED_FAILURE, reason=reason)
    if outcome.status == PASSED:
        return attrs.evolve(
            outcome,
            status=UNEXPECTED_PASS,
            reason=f"it is expected to fail ({reason}), but passes: take it off the list of expected failures",
        )
    return outcome


def run_check(check: Check, subject: Any, options: Options | None = None) -> Outcome:
    """Run one check and return what became of it; nothing that a plugin does makes this raise."""
    options = options or Options()
    started = time.monotonic()
    attempt = _Attempt(check, subject, options)
    shared_ranks.expect(options.ranks)

    def outcome(status: str, reason: str = "", failure: Failure | None = None) -> Outcome:
        return Outcome(check, subject, status, reason, attempt.examples, time.monotonic() - started, failure)

    try:
        with time_limit(attempt.limit):
            reason = check.applies(subject)
            if reason is None and check.processes:
                reason = _no_processes(check, subject, options)
            if reason is not None:
                return outcome(NOT_APPLICABLE, reason)
            attempt.make()
    except NotApplicable as error:
        return outcome(NOT_APPLICABLE, str(error))
    except hypothesis.errors.Unsatisfiable:
        why = attempt.inapplicable or "it cannot be started with any of the examples of this check"
        return outcome(NOT_APPLICABLE, why)
    except TooLate:
        if attempt.found is None and attempt.hangs:
            return outcome(FAILED, failure=attempt.hanging())
        attempt.found = attempt.simplest or attempt.found  # the last one tried need not be
        if attempt.found is None:
            return outcome(PASSED, f"only {attempt.examples - 1} examples within the time limit")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if attempt.found is None:
            attempt.note(error, attempt.last)
    if attempt.found is not None:
        return outcome(FAILED, failure=attempt.found)
    if attempt.examples == 0 and attempt.inapplicable:
        return outcome(NOT_APPLICABLE, attempt.inapplicable)
    return outcome(PASSED)


def check_one(name: str, plugin: Any, case: Case | None = None, *, ranks: int | None = None) -> None:
    """Run one check on one example, as reports of failures show it.

    Args:
        name: the check's.
        plugin: the plugin, or an executor's subject.
        case: the example; left out, as many are drawn as usual.
        ranks: number of ranks, for checks of several processes.

    Raises:
        Violation: the promise does not hold; or whatever the plugin raises.
        NotApplicable: the check says nothing about this plugin.
        UnknownNameError: there is no such check.
    """
    subject = plugin if isinstance(plugin, Subject | ExecutorSubject) else subject_of(plugin)
    check = check_named(name, subject.kind)
    reason = check.applies(subject)
    if reason is not None:
        raise NotApplicable(reason)
    if case is None:
        _Attempt(check, subject, Options()).make()
    elif check.several_ranks:
        check.function(subject, case, ranks or 1)
    else:
        check.function(subject, case)


def _no_processes(check: Check, subject: Any, options: Options) -> str | None:
    if subject.kind == "executor" and not subject.takes_group:
        return None
    if options.ranks == 0:
        return "it needs several processes (ranks=0)"
    if check.several_ranks or subject.kind == "executor":
        import torch.distributed

        if "forkserver" not in multiprocessing.get_all_start_methods():
            return "this system has no fork server to start ranks with"
        if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
            return "this torch has no torch.distributed with Gloo"
    return None


class _Attempt:
    """One run of one check."""

    def __init__(self, check: Check, subject: Any, options: Options) -> None:
        self.check = check
        self.subject = subject
        self.options = options
        self.limit = options.time_limit + (STARTING if check.processes else 0.0)
        self.examples = 0
        self.found: Failure | None = None
        self.simplest: Failure | None = None
        self.failing_since: float | None = None
        self.inapplicable = ""
        "Why the check says nothing about an example."
        self.last_begun = time.monotonic()
        self.last: tuple[Any, ...] = ()
        "The case, and the number of ranks, tried last."

    def make(self) -> None:
        if self.check.draw is None:
            self.one()
            return
        arguments: list[Any] = [self.check.draw(self.subject)]
        if self.check.several_ranks:
            arguments.append(hypothesis.strategies.integers(1, max(1, self.options.ranks)))
        given: Any = hypothesis.given
        test: Any = self._settings()(given(*arguments)(_positional(self.one, len(arguments))))
        if self.options.seed is not None:
            test = hypothesis.seed(self.options.seed)(test)
        # As hypothesis' own pytest plugin does it: failing examples are kept for each check of each subject.
        key = f"{self.check.name} {type(self.subject).__name__} {self.subject.key}"
        test.hypothesis.inner_test._hypothesis_internal_add_digest = key.encode()
        test()
        for case in self.check.besides(self.subject):
            with contextlib.suppress(hypothesis.errors.UnsatisfiedAssumption):  # the check says nothing about it
                self.one(case)

    def one(self, *drawn: Any) -> None:
        if self.failing_since is not None and time.monotonic() - self.failing_since > SIMPLIFYING:
            raise TooLate
        self.examples += 1
        self.last, self.last_begun = drawn, time.monotonic()
        try:
            self.check.function(self.subject, *drawn)
        except NotApplicable as error:
            if not drawn:
                raise
            self.examples -= 1  # another example may be one that it applies to
            self.inapplicable = str(error)
            hypothesis.reject()
        except (TooLate, hypothesis.errors.HypothesisException):
            raise
        except Exception as error:
            self.note(error, drawn)
            self.failing_since = self.failing_since or time.monotonic()
            raise

    def note(self, error: BaseException, drawn: tuple[Any, ...]) -> None:
        """Keep a failure: the last, which is the simplest once hypothesis has ended, and the simplest so far."""
        self.found = _failure(error, drawn)
        if self.simplest is None or _size(self.found) <= _size(self.simplest):
            self.simplest = self.found

    @property
    def hangs(self) -> bool:
        """Whether no example came to an end, or the last one took most of the time: not only that there are many."""
        return self.examples < 2 or time.monotonic() - self.last_begun > 0.5 * self.limit

    def hanging(self) -> Failure:
        case = self.last[0] if self.last else None
        count = self.last[1] if len(self.last) > 1 else None
        what = (
            f"It did not end within the time limit of {self.limit:g} s: a hook hangs, or takes far too long (example "
            f"{self.examples})."
        )
        return Failure(what, None, case, count, hangs=True)

    def _settings(self) -> hypothesis.settings:
        database = None
        if self.options.replay:
            folder = Path(os.environ.get("HYPOTHESIS_STORAGE_DIRECTORY", ".hypothesis"), "guidance-core")
            database = DirectoryBasedExampleDatabase(folder)
        return hypothesis.settings(
            max_examples=max(1, round(self.options.max_examples * self.check.share)),
            database=database,
            deadline=None,
            print_blob=False,
            report_multiple_bugs=False,
            suppress_health_check=list(hypothesis.HealthCheck),
            verbosity=hypothesis.Verbosity.quiet,
            phases=[phase for phase in hypothesis.Phase if phase is not hypothesis.Phase.explain],  # slow
        )


def _failure(error: BaseException, drawn: tuple[Any, ...]) -> Failure:
    """Return what is to be said of an error of a check, for the case and number of ranks drawn."""
    case = drawn[0] if drawn else None
    count = drawn[1] if len(drawn) > 1 else None
    if isinstance(error, Violation):
        return Failure(error.what, error.place, case, count)
    cause = error.__cause__ if isinstance(error, GuidanceError) else error
    advice = (
        "\nA plugin is frozen; what lasts from one step to the next is put into step.state."
        if isinstance(cause, attrs.exceptions.FrozenInstanceError)
        else ""
    )
    return Failure(f"It raises {type(error).__name__}: {error}{advice}", None, case, count, raised(error))


def _size(failure: Failure) -> tuple[int, ...]:
    """Return how much there is to look at in a failure's example."""
    case = failure.case
    if case is None:
        return (0,)
    return len(case.samples) * case.steps * math.prod(case.shape), len(case.outputs), failure.ranks or 0


def _positional(function: Any, count: int) -> Callable[..., None]:
    """Return `function` with as many named arguments, as hypothesis wants them."""

    def of_case(case: Case) -> None:
        function(case)

    def of_ranks(case: Case, count: int) -> None:
        function(case, count)

    return of_case if count == 1 else of_ranks
