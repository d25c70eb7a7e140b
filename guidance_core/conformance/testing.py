"""The suite inside pytest: a decorator, a base class, and what both make of a check's outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import attrs

from guidance_core.conformance.checks import all_checks, check_named
from guidance_core.conformance.executor_subject import executor_subject_of
from guidance_core.conformance.lookup import subject_of
from guidance_core.conformance.options import Options
from guidance_core.conformance.outcome import EXPECTED_FAILURE, NOT_APPLICABLE, UNEXPECTED_PASS
from guidance_core.conformance.registry import Check
from guidance_core.conformance.report import report_of
from guidance_core.conformance.runner import judged, run_check
from guidance_core.conformance.subject import Inputs
from guidance_core.errors import ConfigurationError

_hung: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
"The check in which a subject hung: the others would too."


@attrs.frozen(eq=False)
class BoundCheck:
    """A check of one subject; call it to run it inside a pytest test."""

    check: Check
    subject: Any
    expected: Mapping[str, str] = attrs.field(factory=dict)
    skip: Mapping[str, str] = attrs.field(factory=dict)
    options: Options = attrs.field(factory=Options)

    @property
    def id(self) -> str:
        """What pytest calls it."""
        return f"{self.subject.name}-{self.check.name}"

    def __repr__(self) -> str:
        return self.id

    def __call__(self) -> None:
        """Run it: pass, fail with a readable report, skip where it does not apply, or fail as expected."""
        import pytest

        __tracebackhide__ = True
        if self.check.name in self.skip:
            pytest.skip(self.skip[self.check.name])
        if self.subject in _hung:
            pytest.skip(f"{_hung[self.subject]} hangs")
        outcome = judged(run_check(self.check, self.subject, self.options), self.expected)
        if outcome.failure is not None and outcome.failure.hangs:
            _hung[self.subject] = self.check.name
        if outcome.status == NOT_APPLICABLE:
            pytest.skip(f"not applicable: {outcome.reason}")
        if outcome.status == EXPECTED_FAILURE:
            pytest.xfail(outcome.reason)
        if outcome.status == UNEXPECTED_PASS:
            pytest.fail(f"{self.check.name}: {outcome.reason}", pytrace=False)
        if outcome.is_bad:
            pytest.fail(report_of(outcome), pytrace=False)


def bound_checks(
    plugins: Iterable[Any],
    *,
    expected_failures: Mapping[str, str] | None = None,
    skip: Mapping[str, str] | None = None,
    conditions: Mapping[str, Inputs] | None = None,
    shapes: Sequence[Sequence[int]] | None = None,
    outputs: Sequence[str] = (),
    prediction_types: Sequence[str] = (),
    options: Options | None = None,
    executors: Iterable[Any] = (),
) -> list[BoundCheck]:
    """Return every check of every plugin (and executor), bound to it."""
    if isinstance(plugins, str | type) or not isinstance(plugins, Iterable):
        plugins = [plugins]
    expected, skipped = _reasons("expected_failures", expected_failures), _reasons("skip", skip)
    if options is not None and not isinstance(options, Options):
        raise ConfigurationError(f"options is an Options(...); got {options!r}.")
    subjects: list[Any] = [
        subject_of(plugin, None, conditions, shapes, outputs, prediction_types) for plugin in plugins
    ]
    subjects += [executor_subject_of(executor) for executor in executors]
    kinds = {subject.kind for subject in subjects}
    for name in (*expected, *skipped):
        check_named(name, *kinds)
    return [each for subject in subjects for each in checks_of(subject, expected, skipped, options)]


def checks_of(
    subject: Any,
    expected: Mapping[str, str] | None = None,
    skip: Mapping[str, str] | None = None,
    options: Options | None = None,
) -> list[BoundCheck]:
    """Return every check of a subject, bound to it."""
    return [
        BoundCheck(check, subject, expected or {}, skip or {}, options or Options())
        for check in all_checks(subject.kind)
    ]


def _reasons(name: str, given: Any) -> dict[str, str]:
    given = {} if given is None else given
    if not isinstance(given, Mapping) or not all(isinstance(reason, str) and reason for reason in given.values()):
        raise ConfigurationError(f"{name} says why for each check: {{'check': 'reason'}}; got {given!r}.")
    return dict(given)


def parametrize_with_checks(plugins: Iterable[Any] = (), **settings: Any) -> Callable[[Any], Any]:
    """Parametrize a pytest function, which takes `check` and calls it, with all checks of some plugins.

        @parametrize_with_checks([MyMethod(scale=4.0)], expected_failures={"neutral": "has no neutral scale"})
        def test_keeps_the_promises(check):
            check()

    Args:
        plugins: instances, classes, names of installed plugins, or `module:Class`.
        settings: `expected_failures` and `skip`, each `{check: reason}`; a check that passes although it is
            expected to fail is reported. `conditions`: model inputs by condition, or functions of the case
            that make them, for conditions that a plugin looks for without naming them in a branch. `shapes`:
            shapes of one sample to try. `outputs`: names of the outputs it is made for. `prediction_types`: what a
            model may predict for it, where not anything. `options`: an `Options`. `executors`:
            executors to check, likewise.

    Raises:
        UnknownNameError: no such check or plugin.
        ConfigurationError: a plugin cannot be made.
    """
    import pytest

    bound = bound_checks(plugins, **settings)
    return pytest.mark.parametrize("check", bound, ids=[each.id for each in bound])


class ConformanceTests:
    """Base class of tests for one plugin.

    class TestMyMethod(ConformanceTests):
        plugin = MyMethod(scale=4.0)
    """

    plugin: ClassVar[Any]
    "The plugin: an instance, a class, a name, or `module:Class`."
    expected_failures: ClassVar[Mapping[str, str]] = {}
    "Checks that are known to fail, each with the reason."
    skip: ClassVar[Mapping[str, str]] = {}
    conditions: ClassVar[Mapping[str, Inputs]] = {}
    shapes: ClassVar[Sequence[Sequence[int]] | None] = None
    outputs: ClassVar[Sequence[str]] = ()
    prediction_types: ClassVar[Sequence[str]] = ()
    options: ClassVar[Options] = Options()

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Give `test_promise` one call for each check."""
        if "conformance_check" in metafunc.fixturenames:
            if not hasattr(self, "plugin"):
                raise ConfigurationError(f"{type(self).__name__} says what to check: plugin = MyMethod(scale=4.0).")
            bound = bound_checks(
                [self.plugin],
                expected_failures=self.expected_failures,
                skip=self.skip,
                conditions=self.conditions,
                shapes=self.shapes,
                outputs=self.outputs,
                prediction_types=self.prediction_types,
                options=self.options,
            )
            metafunc.parametrize("conformance_check", bound, ids=[each.check.name for each in bound])

    def test_promise(self, conformance_check: BoundCheck) -> None:
        """Keep one promise."""
        __tracebackhide__ = True
        conformance_check()
