"""The conformance suite: it finds out whether a plugin, or an executor, keeps the library's promises.

Needs the extra `testing`. Three ways to use it:

    guidance-core check my-method                  the command
    pytest --guidance-plugin my-method             the pytest plugin, no file needed

    from guidance_core.conformance import parametrize_with_checks    in a test file

    @parametrize_with_checks([MyMethod(scale=4.0)])
    def test_keeps_the_promises(check):
        check()
"""

try:
    import hypothesis as _hypothesis  # noqa: F401
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "guidance_core.conformance needs the extra 'testing' (hypothesis is missing): "
        "pip install 'guidance-core[testing]'"
    ) from error

from guidance_core.conformance.case import Case
from guidance_core.conformance.checks import all_checks
from guidance_core.conformance.executor_subject import ExecutorSubject, executor_subject_of
from guidance_core.conformance.lookup import subject_of
from guidance_core.conformance.options import Options
from guidance_core.conformance.outcome import Outcome
from guidance_core.conformance.registry import Check
from guidance_core.conformance.report import report_of
from guidance_core.conformance.runner import check_one, run_checks
from guidance_core.conformance.subject import Subject
from guidance_core.conformance.testing import ConformanceTests, parametrize_with_checks
from guidance_core.conformance.violation import NotApplicable, Violation

__all__ = [
    "Case",
    "Check",
    "ConformanceTests",
    "ExecutorSubject",
    "NotApplicable",
    "Options",
    "Outcome",
    "Subject",
    "Violation",
    "all_checks",
    "check_one",
    "executor_subject_of",
    "parametrize_with_checks",
    "report_of",
    "run_checks",
    "subject_of",
]
