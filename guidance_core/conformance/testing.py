"""The suite inside pytest: each check of each subject bound to it, for a test file or an item of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import attrs

from guidance_core.conformance.checks import all_checks, check_named
from guidance_core.conformance.executor_subject import executor_subject_of
from guidance_core.conformance.lookup import subject_of
from guidance_core.conformance.options import Options
from guidance_core.conformance.outcome import NOT_APPLICABLE, Outcome
from guidance_core.conformance.registry import Check
from guidance_core.conformance.report import report_of
from guidance_core.conformance.runner import run_check
from guidance_core.conformance.subject import Inputs
from guidance_core.errors import ConfigurationError


@attrs.frozen(eq=False)
class BoundCheck:
    """A check of one subject; call it to run it inside a pytest test."""

    check: Check
    subject: Any
    options: Options = attrs.field(factory=Options)
    marks: Sequence[Any] = ()
    "Whether pytest skips it, or expects it to fail."

    @property
    def id(self) -> str:
        """What pytest calls it."""
        return f"{self.subject.name}-{self.check.name}"

    def __repr__(self) -> str:
        return self.id

    def __call__(self) -> None:
        """Run it: pass, fail with a readable report, or skip where it does not apply."""
        __tracebackhide__ = True
        tell(run_check(self.check, self.subject, self.options))


def tell(outcome: Outcome) -> None:
    """Tell pytest what became of a check."""
    import pytest

    __tracebackhide__ = True
    if outcome.status == NOT_APPLICABLE:
        pytest.skip(f"not applicable: {outcome.reason}")
    if outcome.is_bad:
        pytest.fail(report_of(outcome), pytrace=False)


def checks_of(
    subjects: Iterable[Any],
    options: Options | None = None,
    *,
    expected_failures: Mapping[str, str] | None = None,
    skip: Mapping[str, str] | None = None,
) -> list[BoundCheck]:
    """Return every check of every subject, bound to it and marked for pytest.

    Raises:
        UnknownNameError: no check of that name exists for these subjects.
        ConfigurationError: a check is left out, or expected to fail, without a reason.
    """
    import pytest

    subjects = list(subjects)
    if options is not None and not isinstance(options, Options):
        raise ConfigurationError(f"options is an Options(...); got {options!r}.")
    marks: dict[str, list[Any]] = {}
    for setting, given, mark in (
        ("skip", skip, pytest.mark.skip),
        ("expected_failures", expected_failures, pytest.mark.xfail(strict=True)),
    ):
        given = {} if given is None else given
        if not isinstance(given, Mapping) or not all(isinstance(why, str) and why for why in given.values()):
            raise ConfigurationError(
                f"{setting} says why for each check: {{'check': 'reason'}}, or CHECK=REASON; got {given!r}."
            )
        for name, reason in given.items():
            check_named(name, *{subject.kind for subject in subjects})
            marks.setdefault(name, []).append(mark.with_args(reason=reason))
    return [
        BoundCheck(check, subject, options or Options(), marks.get(check.name, ()))
        for subject in subjects
        for check in all_checks(subject.kind)
    ]


def _parameters(
    plugins: Iterable[Any],
    *,
    conditions: Mapping[str, Inputs] | None = None,
    shapes: Sequence[Sequence[int]] | None = None,
    outputs: Sequence[str] = (),
    prediction_types: Sequence[str] = (),
    executors: Iterable[Any] = (),
    name: Callable[[BoundCheck], str] = lambda bound: bound.id,
    **settings: Any,
) -> list[Any]:
    """Return pytest's parameters for every check of every plugin (and executor)."""
    import pytest

    if isinstance(plugins, str | type) or not isinstance(plugins, Iterable):
        plugins = [plugins]
    subjects: list[Any] = [
        subject_of(plugin, None, conditions, shapes, outputs, prediction_types) for plugin in plugins
    ]
    subjects += [executor_subject_of(executor) for executor in executors]
    return [pytest.param(bound, id=name(bound), marks=bound.marks) for bound in checks_of(subjects, **settings)]


def parametrize_with_checks(plugins: Iterable[Any] = (), **settings: Any) -> Callable[[Any], Any]:
    """Parametrize a pytest function, which takes `check` and calls it, with all checks of some plugins.

        @parametrize_with_checks([MyMethod(scale=4.0)], expected_failures={"neutral": "has no neutral scale"})
        def test_keeps_the_promises(check):
            check()

    Args:
        plugins: instances, classes, names of installed plugins, or `module:Class`.
        settings: `expected_failures` and `skip`, each `{check: reason}`, which pytest marks as `xfail` (strict: a
            check that passes all the same fails the test) and `skip`. `conditions`: model inputs by condition, or
            functions of the case that make them, for conditions that a plugin looks for without naming them in a
            branch. `shapes`: shapes of one sample to try. `outputs`: names of the outputs it is made for.
            `prediction_types`: supported prediction types (default: all). `options`: an `Options`.
            `executors`: executors to check, likewise.

    Raises:
        UnknownNameError: no such check or plugin.
        ConfigurationError: a plugin cannot be made.
    """
    import pytest

    return pytest.mark.parametrize("check", _parameters(plugins, **settings))


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
        """Give `test_promise` one call for each check.

        Raises:
            ConfigurationError: the class names no plugin to check.
        """
        if "conformance_check" in metafunc.fixturenames:
            if not hasattr(self, "plugin"):
                raise ConfigurationError(f"{type(self).__name__} says what to check: plugin = MyMethod(scale=4.0).")
            names = ("expected_failures", "skip", "conditions", "shapes", "outputs", "prediction_types", "options")
            settings: dict[str, Any] = {name: getattr(self, name) for name in names}
            parameters = _parameters([self.plugin], name=lambda bound: bound.check.name, **settings)
            metafunc.parametrize("conformance_check", parameters)

    def test_promise(self, conformance_check: BoundCheck) -> None:
        """Keep one promise."""
        __tracebackhide__ = True
        conformance_check()
