"""Running one check: hypothesis draws and shrinks the cases, a clock stops what hangs."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakSet

import attrs
import hypothesis
from hypothesis import strategies

from guidance_core.conformance import shared_ranks
from guidance_core.conformance.case import Case
from guidance_core.conformance.checks import all_checks, check_named
from guidance_core.conformance.executor_subject import ExecutorSubject
from guidance_core.conformance.limits import PATIENCE, Clock, TooLate, time_limit
from guidance_core.conformance.lookup import subject_of
from guidance_core.conformance.options import Options
from guidance_core.conformance.outcome import FAILED, NOT_APPLICABLE, PASSED, Failure, Outcome
from guidance_core.conformance.registry import Check
from guidance_core.conformance.subject import Subject
from guidance_core.conformance.violation import NotApplicable, Violation
from guidance_core.discovery.tracebacks import raised
from guidance_core.errors import GuidanceError, UnguidedWarning

STARTING = 30.0
"Seconds more for a check that has to start processes."

SIMPLIFYING = 8.0
"Seconds that a failing example is made simpler for."

SHARE_AFTER_A_HANG = 0.1
"Of the time limit, for the checks that follow one which did not end: the others may hang too, and each is tried."

_hung: WeakSet[Any] = WeakSet()
"Subjects of which a check did not end."


def run_checks(subject: Any, *, only: Sequence[str] = (), options: Options | None = None) -> Iterator[Outcome]:
    """Run the checks of a subject and yield what became of each.

    Args:
        subject: a `Subject`, or an executor's.
        only: names of the checks to run; all if empty.
        options: how thoroughly to check.

    Raises:
        UnknownNameError: a check of that name does not exist.
    """
    for check in [check_named(name, subject.kind) for name in only] or all_checks(subject.kind):
        yield run_check(check, subject, options)


def run_check(check: Check, subject: Any, options: Options | None = None) -> Outcome:
    """Run one check and return what became of it; nothing that a plugin does makes this raise."""
    options = options or Options()
    search, started = _Search(check, subject, options), time.monotonic()
    status, reason = PASSED, ""
    limit = options.time_limit * (SHARE_AFTER_A_HANG if subject in _hung else 1) + STARTING * check.processes
    try:
        with time_limit(limit), warnings.catch_warnings():
            warnings.simplefilter("ignore", UnguidedWarning)  # examples have windows of every kind
            search.run()
    except NotApplicable as error:
        status, reason = NOT_APPLICABLE, str(error)
    except hypothesis.errors.Unsatisfiable:
        status = NOT_APPLICABLE
        reason = search.inapplicable or "it cannot be started with any of the examples of this check"
    except TooLate:
        if search.failure is None and (search.examples < 2 or search.begun.is_past(0.5 * limit)):
            _hung.add(subject)
            search.keep(
                f"It did not end within the time limit of {limit:g} s of CPU time, or {PATIENCE * limit:g} s by the "
                f"clock: a hook hangs, or takes far too long (example {search.examples}).",
                hangs=True,
            )
        reason = f"only {search.examples - 1} examples within the time limit" if search.failure is None else ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if search.failure is None:
            search.note(error)
    status = FAILED if search.failure is not None else status
    return Outcome(check, subject, status, reason, search.examples, time.monotonic() - started, search.failure)


def _counts(most: int) -> strategies.SearchStrategy[int]:
    """Draw numbers of ranks: two come first, since the simplest example is tried first, and one rank finds little."""
    return strategies.sampled_from(sorted(range(1, most + 1), key=lambda count: (count != 2, count)))


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
    if case is None:
        _Search(check, subject, Options()).run()
        return
    reason = check.inapplicable(subject)
    if reason is not None:
        raise NotApplicable(reason)
    check.function(subject, case, *([ranks or 1] if check.several_ranks else []))


def _no_processes(check: Check, subject: Any, options: Options) -> str | None:
    if not check.processes or (subject.kind == "executor" and not subject.takes_group):
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


class _Search:
    """The search for an example for which one check fails."""

    def __init__(self, check: Check, subject: Any, options: Options) -> None:
        self.check = check
        self.subject = subject
        self.options = options
        self.examples = 0
        self.failure: Failure | None = None
        "The simplest found."
        self.failing_since = math.inf
        self.inapplicable = ""
        "Why the check says nothing about an example."
        self.begun = Clock()
        self.drawn: tuple[Any, ...] = ()
        "The case, and the number of ranks, tried last."

    def run(self) -> None:
        shared_ranks.expect(self.options.ranks)
        reason = self.check.inapplicable(self.subject) or _no_processes(self.check, self.subject, self.options)
        if reason is not None:
            raise NotApplicable(reason)
        if self.check.draw is None:
            self.one()
            return
        arguments: list[Any] = [self.check.draw(self.subject)]
        if self.check.several_ranks:
            arguments.append(_counts(max(1, self.options.ranks)))

        @self._settings()
        @hypothesis.given(strategies.tuples(*arguments))
        def test(drawn: tuple[Any, ...]) -> None:
            self.one(*drawn)

        if self.options.seed is not None:
            test = hypothesis.seed(self.options.seed)(test)
        # As hypothesis' own pytest plugin does it: failing examples are kept for each check of each subject.
        key = f"{self.check.name} {type(self.subject).__name__} {self.subject.key}"
        inner: Any = test
        inner.hypothesis.inner_test._hypothesis_internal_add_digest = key.encode()
        test()
        for case in self.check.besides(self.subject):
            with contextlib.suppress(hypothesis.errors.UnsatisfiedAssumption):  # the check says nothing about it
                self.one(case)
        if self.examples == 0 and self.inapplicable:
            raise NotApplicable(self.inapplicable)

    def one(self, *drawn: Any) -> None:
        if time.monotonic() - self.failing_since > SIMPLIFYING:
            raise TooLate
        self.examples += 1
        self.drawn, self.begun = drawn, Clock()
        try:
            self.check.function(self.subject, *drawn)
        except NotApplicable as error:
            if not drawn:
                raise
            self.examples -= 1  # another example may be one that it applies to
            self.inapplicable = str(error)
            hypothesis.reject()
        except hypothesis.errors.HypothesisException:
            raise
        except Exception as error:
            self.note(error)
            self.failing_since = min(self.failing_since, time.monotonic())
            raise

    def note(self, error: BaseException) -> None:
        """Keep what is to be said of an error."""
        if isinstance(error, Violation):
            self.keep(error.what, place=error.place)
            return
        cause = error.__cause__ if isinstance(error, GuidanceError) else error
        advice = (
            "\nA plugin is frozen; what lasts from one step to the next is put into step.state."
            if isinstance(cause, attrs.exceptions.FrozenInstanceError)
            else ""
        )
        self.keep(f"It raises {type(error).__name__}: {error}{advice}", trace=raised(error))

    def keep(self, what: str, **more: Any) -> None:
        """Keep the last example as a failure, unless a simpler one is known."""
        case, ranks = (*self.drawn, None, None)[:2]
        failure = Failure(what, case=case, ranks=ranks, **more)
        if self.failure is None or _size(failure) <= _size(self.failure):
            self.failure = failure

    def _settings(self) -> hypothesis.settings:
        more: dict[str, Any] = {} if self.options.replay else {"database": None}
        return hypothesis.settings(
            max_examples=max(1, round(self.options.max_examples * self.check.share)),
            deadline=None,
            print_blob=False,
            report_multiple_bugs=False,
            suppress_health_check=list(hypothesis.HealthCheck),
            verbosity=hypothesis.Verbosity.quiet,
            phases=[phase for phase in hypothesis.Phase if phase is not hypothesis.Phase.explain],  # slow
            **more,
        )


def _size(failure: Failure) -> tuple[int, ...]:
    """Return how much there is to look at in a failure's example."""
    case = failure.case
    if case is None:
        return (0,)
    return len(case.samples) * case.steps * math.prod(case.shape), len(case.outputs), failure.ranks or 0
