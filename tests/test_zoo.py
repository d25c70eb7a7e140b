"""The conformance checks can fail: each finds a mistake that was made for it, and sound methods pass it."""

from __future__ import annotations

import pytest
from zoo.everything import ZOO
from zoo.matrix import PAGE, be_quick, listed
from zoo.sound import METHODS

from guidance_core.conformance import Options, all_checks, executor_subject_of, report_of, runner, subject_of
from guidance_core.conformance import shared_ranks as shared
from guidance_core.conformance.checks import check_named
from guidance_core.conformance.outcome import FAILED, NOT_APPLICABLE, PASSED
from guidance_core.conformance.runner import run_check

SHIPPED = ("cfg", "apg", "rescale", "interval")
EXECUTORS = ("all_gather", "all_reduce", "serial")
OPTIONS = Options(seed=0, replay=False)
"Seeded: a mistake that is found once is found every time. Other seeds are for `make conformance`."


@pytest.fixture(scope="module", autouse=True)
def impatient():
    """Ranks of these tests alone, which do not wait long for one that a mistake keeps."""
    usual = runner.SIMPLIFYING, shared.TIMEOUT
    shared.close()
    be_quick()
    yield
    shared.close()
    runner.SIMPLIFYING, shared.TIMEOUT = usual


@pytest.mark.parametrize("broken", ZOO, ids=lambda broken: broken.cls.__name__)
def test_mistake_is_found(broken):
    with broken.installed():
        outcome = run_check(check_named(broken.caught_by), broken.subject, OPTIONS)
    assert outcome.status == FAILED
    report = " ".join(report_of(outcome).split())
    assert any(words in report for words in broken.says), report


@pytest.mark.parametrize("check", all_checks(), ids=lambda check: check.name)
def test_check_can_fail_and_can_pass(check):
    assert check.name in {broken.caught_by for broken in ZOO}, "no mistake is known that it finds"
    subjects = map(subject_of, SHIPPED) if check.subject == "plugin" else map(executor_subject_of, EXECUTORS)
    for subject in subjects:
        outcome = run_check(check, subject, OPTIONS)
        if outcome.status != NOT_APPLICABLE:
            break
    assert outcome.status == PASSED, report_of(outcome)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_sound_models_pass(method):
    for check in all_checks("plugin"):
        outcome = run_check(check, subject_of(method), OPTIONS)
        assert outcome.status in (PASSED, NOT_APPLICABLE), report_of(outcome)


def test_mistakes_are_each_in_one_line():
    assert [broken for broken in ZOO if not broken.mistake or "\n" in broken.mistake] == []
    assert len({broken.cls.__name__ for broken in ZOO}) == len(ZOO)


def test_the_matrix_lists_every_mistake():
    plugins_first = sorted(ZOO, key=lambda broken: broken.kind == "executor")
    rows = [(broken.cls.__name__, broken.mistake, broken.caught_by) for broken in plugins_first]
    assert listed(PAGE.read_text()) == rows, "print the page anew: cd tests && python -m zoo --write"
