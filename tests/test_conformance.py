"""The conformance suite itself: what it says of wrong use, of failures, and how it stands in pytest."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import attrs
import pytest
import torch.distributed
from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase
from torch.utils._pytree import tree_map

from guidance_core import Branch, ConfigurationError, SerialExecutor, UnknownNameError, hookimpl
from guidance_core.conformance import (
    Case,
    ConformanceTests,
    NotApplicable,
    Options,
    Violation,
    check_one,
    executor_subject_of,
    parametrize_with_checks,
    report_of,
    run_checks,
    subject_of,
)
from guidance_core.conformance.checks import check_named
from guidance_core.conformance.limits import TooLate, time_limit
from guidance_core.conformance.runner import run_check
from guidance_core.discovery import find_plugins
from guidance_plugins import CFG, Rescale

pytest_plugins = ["pytester"]
QUICK = Options(max_examples=5, ranks=0, seed=0, replay=False)
QUICK_WITH_RANKS = Options(max_examples=5, ranks=2, seed=0, replay=False)
TESTS = Path(__file__).parent


def command(*arguments, folder=TESTS):
    environment = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    ran = [sys.executable, "-m", "guidance_core", "check", "--seed", "0", *arguments]
    return subprocess.run(ran, capture_output=True, text=True, cwd=folder, env=environment, check=False)


# What is checked, and wrong use.


def test_names_inside_the_library_are_found_through_the_module_too(tmp_path, monkeypatch):
    lines = ["import attrs", "import guidance_core as gc", "", "@attrs.frozen", "class Method:", "    @gc.hookimpl"]
    lines += ["    def build_branches(self, step):", "        return [gc.{}('uncond', condition='negative')]"]
    monkeypatch.syspath_prepend(tmp_path)
    for name, whole in {"reaches_inside": "branch.Branch", "stays_outside": "Branch"}.items():
        (tmp_path / f"{name}.py").write_text("\n".join(lines).format(whole))
    check_one("public-names", "stays_outside:Method")
    with pytest.raises(Violation, match="Line 8 takes branch from guidance_core"):
        check_one("public-names", "reaches_inside:Method")


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ("cgf", UnknownNameError, "Did you mean 'cfg'"),
        ("no_such_module:Method", ConfigurationError, "No module named 'no_such_module'"),
        ("faulty_plugins:Hang", UnknownNameError, "Did you mean 'Hangs'"),
        ("faulty_plugins:NoHooks", ConfigurationError, "has no hooks"),
        ("faulty_plugins:NoAttrs", ConfigurationError, "not an attrs class"),
        ("faulty_plugins:UnknownArgument", ConfigurationError, "sigma"),
        ("faulty_plugins:Needy", ConfigurationError, "--param"),
        ("faulty_plugins:time", ConfigurationError, "module"),
        ("some/folder/my_module.py:Method", ConfigurationError, "some.folder.my_module:Method"),
        ("cfg:scale=2,rescale:phi=0.5", ConfigurationError, "a stack of 2"),
        ("guidance_plugins:CFG:scal=2", UnknownNameError, "Did you mean 'scale'"),
    ],
)
def test_what_cannot_be_checked_is_said(given, error, says):
    with pytest.raises(error, match=says):
        subject_of(given)


def test_an_import_error_comes_with_its_own_traceback(tmp_path, monkeypatch):
    (tmp_path / "breaks_on_import.py").write_text("import math\nx = math.no_such_function(2)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        subject_of("breaks_on_import:Method")
    text = str(caught.value)
    assert "breaks_on_import.py:2" in text
    assert "no_such_function" in text
    assert "importlib" not in text
    assert len(text.splitlines()) < 10


def test_a_syntax_error_is_shown_where_it_is(tmp_path, monkeypatch):
    (tmp_path / "cannot_be_read.py").write_text("import math\ndef method(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match=r"cannot_be_read.py\", line 2"):
        subject_of("cannot_be_read:Method")


def test_an_import_that_does_not_end_is_said(tmp_path):
    # One that goes on, moreover, after it was interrupted for the first time.
    lines = ["import time", "try:", "    time.sleep(60)", "except:", "    pass", "time.sleep(60)"]
    (tmp_path / "never_ends.py").write_text("\n".join(lines))
    done = command("never_ends:Method", "--time-limit", "1", folder=tmp_path)
    assert done.returncode == 2
    assert "never_ends:Method cannot be imported and made within 1 s" in done.stderr


def test_a_module_that_exits_is_not_a_success(tmp_path):
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)\n")
    done = command("leaves:Method", folder=tmp_path)
    assert done.returncode == 2
    assert "the module 'leaves' cannot be imported" in done.stderr


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.inf, math.nan, 1e12])
def test_a_time_limit_is_a_time(seconds):
    with pytest.raises(ConfigurationError, match="time_limit must be above 0"):
        Options(time_limit=seconds)


def busy(seconds):
    """Be busy, in a frame of its own: Python 3.13.0 misses what a signal raises in a loop inside the same `with`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def test_a_block_that_ends_late_is_interrupted_once_and_one_that_ends_in_time_never():
    before = signal.getsignal(signal.SIGALRM)
    for _ in range(200):
        seconds = 0.002
        with contextlib.suppress(TooLate), time_limit(seconds):
            busy(seconds)
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        assert signal.getsignal(signal.SIGALRM) is before


def test_the_clock_of_somebody_else_goes_on():
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, 50.0)
        with time_limit(10.0):
            assert signal.getitimer(signal.ITIMER_REAL)[0] <= 10.0
        assert 40.0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 50.0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write modules with a method, after other lines, and return what to check."""
    monkeypatch.syspath_prepend(tmp_path)
    method = [
        "import attrs",
        "from guidance_core import Branch, hookimpl",
        "@attrs.frozen",
        "class Method:",
        "    @hookimpl",
        "    def build_branches(self, step):",
        "        return [Branch('uncond', condition='negative', strength=1.0)]",
    ]

    def write(name, *lines):
        folder = (tmp_path / name.replace(".", "/")).parent
        folder.mkdir(exist_ok=True)
        (tmp_path / f"{name.replace('.', '/')}.py").write_text("\n".join([*lines, *method]))
        return f"{name}:Method"

    return write


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("import torch; torch.manual_seed(0)", "torch's random state"),
        ("import torch; torch.set_num_threads(1)", "number of threads"),
        ("import random; random.seed(0)", "Python's random state"),
        ("import numpy; numpy.random.seed(0)", "NumPy's random state"),
        ("import os; os.chdir('/usr')", "the working folder"),
        ("import os; os.environ['SET_BY_A_METHOD'] = '1'", "the environment"),
        ("import os; os.environ['SET_BY_A_METHOD'] = '1'; del os.environ['SET_BY_A_METHOD']", None),
    ],
)
def test_what_an_import_changes_is_found_though_it_was_changed_here_already(line, says, module, monkeypatch):
    monkeypatch.setenv("SET_BY_A_METHOD", "1")  # it goes away with the test
    here = Path.cwd()
    with torch.random.fork_rng(devices=[]):
        subject = subject_of(module(f"changes_{abs(hash(line))}", line))
    os.chdir(here)
    outcome = run_check(check_named("quiet-import"), subject, QUICK_WITH_RANKS)
    if says is None:
        assert outcome.status == "passed", report_of(outcome)
    else:
        assert says in outcome.failure.what


def test_frames_of_a_package_whose_name_begins_like_the_library_are_shown(module):
    with pytest.raises(ConfigurationError, match=r"guidance_core_mine/broken.py:1"):
        subject_of(module("guidance_core_mine.broken", "1 / 0"))


def test_a_method_may_have_a_parameter_called_kind(module):
    extra = ["import attrs", "@attrs.frozen", "class Kind:", "    kind = attrs.field(default=1)"]
    subject = subject_of(module("has_a_kind", *extra))
    check_one("inputs-unchanged", subject.plugin, Case())
    with pytest.raises(NotApplicable):
        check_one("no-graph-break", attrs.make_class("Kind", ["kind"], bases=(subject.cls,), frozen=True)(1))


def test_conditions_that_cannot_be_sent_are_named():
    subject = subject_of("cfg", conditions={"image": lambda case: {}})
    outcome = run_check(check_named("all-gather-equals-serial"), subject, QUICK_WITH_RANKS)
    assert outcome.status == "not applicable"
    assert "what makes its conditions cannot be sent" in outcome.reason


def test_a_method_says_which_values_its_parameters_may_have():
    @attrs.frozen
    class Named(CFG):
        values_to_try: ClassVar = {"scale": (2.0, 5.0)}

    assert subject_of(Named()).alternatives == {"scale": (2.0, 5.0)}
    assert subject_of(Named(scale=5.0)).alternatives == {"scale": (2.0,)}, "other values than its own"


def test_parameters_that_are_neutral_together_are_declared():
    assert subject_of("cfg").neutral == {"scale": 1.0}, "one parameter, at 0 or 1, needs no declaration"
    assert subject_of("cfg-zero-star").neutral == {"scale": 1.0, "zero_steps": 0}


def test_parameters_stand_behind_a_place_too():
    assert subject_of("guidance_plugins:CFG:scale=2").plugin == CFG(2.0)


def test_parameters_are_given_to_the_class():
    assert subject_of("cfg", {"scale": 4}).plugin == CFG(4.0)
    assert subject_of("faulty_plugins:Needy", {"strength": 2.0}).plugin.strength == 2.0
    with pytest.raises(UnknownNameError, match="Did you mean 'scale'"):
        subject_of("cfg", {"scal": 4})
    with pytest.raises(ConfigurationError, match="instance"):
        subject_of(CFG(), {"scale": 4})


def test_an_unknown_check_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="batch-mates"):
        list(run_checks(subject_of("cfg"), only=["batch-mate"]))
    with pytest.raises(UnknownNameError, match="threads"):
        parametrize_with_checks(["cfg"], expected_failures={"thread": "why"})


@pytest.mark.parametrize("wrong", [{"max_examples": 0}, {"ranks": -1}, {"ranks": 99}, {"time_limit": 0}])
def test_options_are_checked(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Options(**wrong)


def test_an_executor_is_a_class_of_executors():
    with pytest.raises(UnknownNameError, match="all_gather"):
        executor_subject_of("all_gathr")
    with pytest.raises(ConfigurationError, match="not an executor"):
        executor_subject_of("faulty_plugins:NoHooks")


def test_an_executor_is_checked_with_its_parameters():
    subject = executor_subject_of("all_gather:split_rows=true")
    assert subject.parameters == {"split_rows": True}
    assert executor_subject_of("batched", {"max_rows": 3}).make(None).max_rows == 3
    with pytest.raises(UnknownNameError, match="Did you mean 'max_rows'"):
        executor_subject_of("batched:max_row=3")


def test_rows_that_an_executor_leaves_out_are_noticed():
    outcome = run_check(check_named("each-branch-once"), executor_subject_of(DropsRows), QUICK)
    assert outcome.failure is not None
    assert "cond on rows 0." in outcome.failure.what
    outcome = run_check(check_named("each-branch-once"), executor_subject_of(AlsoRunsNothing), QUICK)
    assert outcome.failure is not None
    assert "cond on no rows" in outcome.failure.what


class DropsRows(SerialExecutor):
    """Runs the first row alone, and takes it for all."""

    def execute(self, plan, denoise):
        made = {branch.name: denoise(branch.for_rows(slice(0, 1))) for branch in plan.branches}
        count = len(next(iter(plan.samples.values())))
        return tree_map(lambda tensor: tensor.expand(count, *tensor.shape[1:]), made)


class AlsoRunsNothing(SerialExecutor):
    """Calls the denoiser once more, with no rows."""

    def execute(self, plan, denoise):
        for branch in plan.branches:
            denoise(branch.for_rows(slice(0, 0)))
        return super().execute(plan, denoise)


def test_a_method_is_checked_with_the_prediction_types_it_is_made_for():
    alone = [outcome.status for outcome in run_checks(subject_of("faulty_plugins:EpsilonOnly"), options=QUICK)]
    assert "failed" in alone
    subject = subject_of("faulty_plugins:EpsilonOnly", prediction_types=("epsilon",))
    outcomes = {each.check.name: each for each in run_checks(subject, options=QUICK_WITH_RANKS)}
    for outcome in outcomes.values():
        assert not outcome.is_bad or outcome.check.name == "documented", report_of(outcome)
    for name in ("batch-mates", "second-evaluation", "same-in-a-fresh-process", "all-gather-equals-serial"):
        assert outcomes[name].status == "passed", outcomes[name].reason
    assert outcomes["space-invariance"].status == "not applicable"
    flow = run_check(check_named("space-invariance"), subject_of("cfg", prediction_types=("flow",)), QUICK)
    assert flow.status == "not applicable"
    with pytest.raises(ConfigurationError, match="prediction types are flow, x0, epsilon, v; got noise"):
        subject_of("cfg", prediction_types=("noise",))


def test_a_decomposition_that_refuses_nan_spreads_none():
    with pytest.raises(NotApplicable, match="refuses to decompose"):
        check_one("nan-stays-in-its-sample", Decomposes(), Case(samples=(0, 1), shape=(2, 3), dtype="float64"))


@attrs.frozen
class Decomposes:
    @hookimpl
    def build_branches(self, step):
        return [Branch("uncond", condition="negative", required=True)]

    @hookimpl
    def combine(self, step, predictions):
        left, values, right = torch.linalg.svd(predictions["cond"] - predictions["uncond"], full_matrices=False)
        return left @ torch.diag_embed(values.clamp(max=1.0)) @ right


def test_a_check_that_does_not_end_hides_none_of_those_after_it():
    options = attrs.evolve(QUICK, time_limit=0.5)
    names = ["works", "finite", "documented", "public-names"]
    subject = subject_of("faulty_plugins:Hangs")
    outcomes = {each.check.name: each for each in run_checks(subject, only=names, options=options)}
    assert "time limit of 0.5 s" in report_of(outcomes["works"])
    assert "time limit of 0.05 s" in report_of(outcomes["finite"]), "the rest of a subject that hung gets less time"
    assert outcomes["public-names"].status == "passed"


def test_a_busy_machine_fails_no_check():
    # The clock on the wall goes on while others compute; that of this thread does not.
    with time_limit(0.1):
        time.sleep(0.3)
    with pytest.raises(TooLate), time_limit(0.05):
        busy(5.0)
    started = time.monotonic()
    with pytest.raises(TooLate), time_limit(0.05):
        time.sleep(60)
    assert time.monotonic() - started < 30


def test_few_examples_within_the_time_limit_are_no_failure():
    check = check_named("finite")
    slow = attrs.evolve(check, function=lambda subject, case: busy(0.1))
    outcome = run_check(slow, subject_of("cfg"), attrs.evolve(QUICK, max_examples=500, time_limit=1.0))
    assert outcome.status == "passed"
    assert outcome.reason == f"only {outcome.examples - 1} examples within the time limit"


def test_without_torch_distributed_checks_on_ranks_do_not_apply(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    options = Options(max_examples=1, seed=0, replay=False)
    outcome = run_check(check_named("all-gather-equals-serial"), subject_of("cfg"), options)
    assert outcome.status == "not applicable"
    assert "torch.distributed" in outcome.reason


def test_a_condition_that_no_branch_names_is_given_by_the_author():
    check = check_named("finite")
    assert run_check(check, subject_of("faulty_plugins:WantsAnImage"), QUICK).status == "failed"
    for contents in ({"pixels": 1}, lambda case: {"pixels": len(case.samples)}):
        subject = subject_of("faulty_plugins:WantsAnImage", conditions={"image": contents})
        assert run_check(check, subject, QUICK).status == "passed"


def test_shapes_are_given_by_the_author():
    check = check_named("batch-mates")
    assert run_check(check, subject_of("faulty_plugins:OnlyImages"), QUICK).status == "failed"
    subject = subject_of("faulty_plugins:OnlyImages", shapes=[(3, 4, 4)])
    assert run_check(check, subject, QUICK).status == "passed"


# Failures.


@attrs.frozen
class BatchWide:
    """Rescales by the spread of the whole batch."""

    @__import__("guidance_core").hookimpl
    def postprocess(self, step, guided, reference):
        return guided / guided.std()


def test_a_failure_shows_promise_place_and_example():
    outcome = run_check(check_named("batch-mates"), subject_of(BatchWide()), Options(seed=0, replay=False))
    text = report_of(outcome)
    assert "no statistic runs over samples" in text
    assert "step 0, output 'output', index [0, 0]" in text
    assert "ulps; allowed" in text
    assert "Case(samples=(0, 1)" in text, "the smallest batch"
    assert "cond" in text
    assert "uncond" in text


def test_the_code_of_a_failure_fails_in_the_same_way():
    outcome = run_check(check_named("batch-mates"), subject_of(BatchWide()), Options(seed=0, replay=False))
    with pytest.raises(Violation) as caught:
        check_one("batch-mates", BatchWide(), outcome.failure.case)
    assert caught.value.place == outcome.failure.place


def test_the_example_of_a_failing_plugin_can_be_pasted_and_run(tmp_path):
    done = command("faulty_plugins:WantsAnImage", "--only", "finite", "--json", "--max-examples", "2")
    assert done.returncode == 1, done.stderr
    (check,) = json.loads(done.stdout)["subjects"][0]["checks"]
    script = tmp_path / "paste.py"
    script.write_text(check["failure"]["code"])
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode != 0
    assert "no image" in ran.stderr


@pytest.fixture
def kept_examples(tmp_path):
    """Have hypothesis keep examples, as it does by default; other tests are the same each time."""
    settings.register_profile("keeps", derandomize=False, database=DirectoryBasedExampleDatabase(tmp_path))
    settings.load_profile("keeps")
    yield
    settings.load_profile("seeded")


@pytest.mark.usefixtures("kept_examples")
def test_a_failing_example_is_tried_first_the_next_time():
    check, subject = check_named("batch-mates"), subject_of(BatchWide())
    first = run_check(check, subject, Options(seed=0))
    seen = []
    watched = attrs.evolve(check, function=lambda subject, case: (seen.append(case), check.function(subject, case)))
    run_check(watched, subject, Options(seed=1))
    assert seen[0] == first.failure.case


def test_check_one_says_where_a_check_does_not_apply():
    with pytest.raises(NotApplicable, match="not linear"):
        check_one("shift-equivariance", Rescale(), Case())


def test_one_seed_tries_the_same_examples():
    def tried():
        check, cases = check_named("finite"), []
        watched = attrs.evolve(check, function=lambda subject, case: cases.append(case))
        run_check(watched, subject_of("cfg"), QUICK)
        return cases

    assert tried() == tried()


# In pytest.


@parametrize_with_checks([CFG(scale=2.0)], options=QUICK)
def test_parametrized(check):
    check()


class TestInherited(ConformanceTests):
    plugin = "rescale"
    options = QUICK
    skip: ClassVar = {"threads": "to show that one can"}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"skip": ["threads"]}, "skip says why"),
        ({"expected_failures": {"threads": ""}}, "expected_failures says why"),
        ({"options": {"ranks": 0}}, "options is an Options"),
        ({"skip": {"thread": "slow"}}, "Did you mean 'threads'"),
    ],
)
def test_wrong_settings_in_a_test_file_are_said(settings, says):
    with pytest.raises(ConfigurationError, match=says):
        parametrize_with_checks([CFG()], **settings)


def test_a_class_without_a_plugin_is_said(pytester):
    pytester.makepyfile(
        """
        from guidance_core.conformance import ConformanceTests

        class TestNothing(ConformanceTests):
            pass
        """
    )
    found = pytester.runpytest_inprocess("-q")
    found.stdout.fnmatch_lines(["*TestNothing says what to check: plugin = *"])


def test_expected_failures_in_pytest(pytester):
    pytester.makepyfile(
        """
        import attrs
        from guidance_core import hookimpl
        from guidance_core.conformance import Options, parametrize_with_checks

        @attrs.frozen
        class BatchWide:
            @hookimpl
            def postprocess(self, step, guided, reference):
                return guided / guided.std()

        expected = {"batch-mates": "a statistic of the whole batch", "same-bits-again": "never so"}
        options = Options(max_examples=5, ranks=0, seed=0, replay=False)

        @parametrize_with_checks([BatchWide()], expected_failures=expected, options=options)
        def test_keeps_the_promises(check):
            check()
        """
    )
    result = pytester.runpytest("-q", "-rxf", "-k", "batch-mates or same-bits-again or zero-variance or two-halves")
    result.assert_outcomes(xfailed=1, failed=2, passed=1)
    result.stdout.fnmatch_lines(["*a statistic of the whole batch*"])
    result.stdout.fnmatch_lines(["*XPASS(strict)*never so*"])
    result.stdout.fnmatch_lines(["*zero-variance: batch-wide does not keep this promise*"])


def test_the_pytest_plugin_needs_no_file(pytester):
    pytester.makepyfile("def test_of_the_folder(): assert False")
    result = pytester.runpytest("-v", "--guidance-plugin", "rescale", *_FEW)
    assert result.ret == 0
    outcomes = result.parseoutcomes()
    assert outcomes["passed"] > 25
    assert "failed" not in outcomes
    result.stdout.fnmatch_lines(["*guidance::rescale-batch-mates*"])


_FEW = ("--guidance-ranks", "0", "--guidance-max-examples", "3", "--guidance-seed", "0")


def test_an_import_that_does_not_end_is_said_by_pytest_too(pytester):
    pytester.makepyfile(never_ends_either="import time\ntime.sleep(60)\n")
    pytester.syspathinsert()
    named = ("--guidance-plugin", "cfg", "--guidance-plugin", "never_ends_either:Method")
    result = pytester.runpytest_inprocess(*named, "--guidance-time-limit", "1", "--guidance-seed", "0")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*: never_ends_either:Method cannot be imported and made within 1 s*"])


def test_a_session_that_is_not_about_guidance_does_not_pay_for_it(pytester):
    pytester.makepyfile(
        """
        import sys

        def test_what_is_imported():
            heavy = {"torch", "hypothesis", "guidance_core", "guidance_plugins"} & sys.modules.keys()
            assert "_guidance_core_pytest" in sys.modules
            assert not heavy
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_pytest_selects_checks_by_name_and_by_theme(pytester):
    chosen = "guidance(check='finite') or guidance(theme='branches')"
    result = pytester.runpytest("-v", "--guidance-plugin", "rescale", *_FEW, "-m", chosen)
    result.assert_outcomes(passed=3, deselected=result.parseoutcomes()["deselected"])
    result.stdout.fnmatch_lines(["*guidance::rescale-finite PASSED*", "*guidance::rescale-stable-branches PASSED*"])


def test_the_pytest_plugin_suggests_a_name(pytester):
    result = pytester.runpytest("--guidance-plugin", "rescal")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*Did you mean 'rescale'*"])


# The command.


def test_the_command_prints_a_table_and_json():
    done = command("cfg:scale=4", "--only", "finite", "--only", "shift-equivariance", "--max-examples", "2")
    assert done.returncode == 0, done.stderr
    assert "CFG(scale=4.0)" in done.stdout
    assert "cfg: 2 passed in" in done.stdout
    assert "finite" not in done.stdout, "passes are one line"
    done = command("rescale", "--only", "shift-equivariance", "--only", "finite", "--json", "--max-examples", "2")
    (subject,) = json.loads(done.stdout)["subjects"]
    assert subject["ok"]
    assert subject["counts"] == {"not applicable": 1, "passed": 1}
    assert subject["checks"][0]["reason"].startswith("it is not linear")


def test_methods_of_one_name_in_two_modules_are_two_subjects(tmp_path):
    source = (TESTS / "faulty_plugins.py").read_text()
    for name in ("one_module", "other_module"):
        (tmp_path / f"{name}.py").write_text(source)
    subjects = [f"{name}:WantsAnImage" for name in ("one_module", "other_module")]
    done = command(*subjects, "--only", "documented", "--json", folder=tmp_path)
    assert [subject["module"] for subject in json.loads(done.stdout)["subjects"]] == ["one_module", "other_module"]
    shown = command(*subjects, "--only", "documented", folder=tmp_path)
    assert "WantsAnImage() of one_module" in shown.stdout


def test_the_command_fails_with_the_report():
    done = command("faulty_plugins:WantsAnImage", "--only", "finite")
    assert done.returncode == 1
    assert "finite: wants-an-image does not keep this promise" in done.stdout
    assert "to paste and run" in done.stdout
    expected = command("faulty_plugins:WantsAnImage", "--only", "finite", "--expect-failure", "finite=wants an image")
    assert expected.returncode == 0
    assert "failed as expected: wants an image" in expected.stdout
    given = command("faulty_plugins:WantsAnImage", "--only", "finite", "--condition", "image")
    assert given.returncode == 0


def test_failures_come_first_and_those_that_are_alike_are_short():
    names = ("documented", "finite", "works")
    done = command("faulty_plugins:WantsAnImage", *(f"--only={name}" for name in names), "--max-examples", "2")
    assert done.returncode == 1
    report, table = done.stdout.split("plugin WantsAnImage()")
    assert "works: wants-an-image does not keep" in report
    assert report.count("to paste and run") == 1
    assert "Like works, 2 more: finite, documented;" in table
    assert "wants-an-image: 3 failed in" in table
    full = command(
        "faulty_plugins:WantsAnImage", *(f"--only={name}" for name in names), "--max-examples", "2", "--full"
    )
    assert full.stdout.count("to paste and run") == 3


def test_pytest_judges_skips_and_expected_failures():
    marks = ("--skip=threads=not yet", "--expect-failure=documented=no text", "--expect-failure=finite=never so")
    names = ("threads", "documented", "finite", "neutral")
    chosen = [f"--only={name}" for name in names]
    done = command(
        "faulty_plugins:EpsilonOnly", "--prediction-types", "epsilon", "--json", *marks, *chosen, "--ranks=0"
    )
    assert done.returncode == 1
    (subject,) = json.loads(done.stdout)["subjects"]
    assert not subject["ok"]
    found = {row["check"]: (row["status"], row["reason"]) for row in subject["checks"]}
    assert found == {
        "threads": ("skipped", "not yet"),
        "documented": ("failed as expected", "no text"),
        "finite": ("passed unexpectedly", "never so"),
        "neutral": ("not applicable", "it says that it has no neutral parameters"),
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--all"),
        (["cgf"], "Did you mean 'cfg'"),
        (["cfg", "--param", "scale"], "--param scale=4"),
        (["cfg", "--param", "scal=3"], "Did you mean 'scale'"),
        (["cfg", "--skip", "threads"], "CHECK=REASON"),
        (["cfg", "--only", "thread"], "Did you mean 'threads'"),
        (["cfg", "--shape", "3,x"], "3,8,8"),
        (["cfg", "--shape", "3,0"], "at least 1"),
        (["cfg", "--outputs", "video,"], "none is empty"),
        (["cfg:scale=3,rescale:phi=1"], "stack of 2"),
        (["cfg", "--max-examples", "0"], "max_examples"),
        (["--executor", "serail"], "Did you mean 'serial'"),
    ],
)
def test_wrong_use_of_the_command_is_status_2(arguments, says):
    done = command(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_what_modules_and_hooks_print_is_not_the_answer(tmp_path):
    lines = [
        "import atexit",
        "import attrs",
        "from guidance_core import Branch, hookimpl",
        "print('imported')",
        "atexit.register(print, 'bye')",
        "@attrs.frozen",
        "class Talks:",
        "    @hookimpl",
        "    def build_branches(self, step):",
        "        print('.', end='', flush=True)",
        "        return [Branch('uncond', condition='negative', strength=1.0)]",
    ]
    (tmp_path / "talks.py").write_text("\n".join(lines))
    chosen = [f"--only={name}" for name in ("same-in-a-fresh-process", "any-device", "all-gather-equals-serial")]
    done = command("talks:Talks", *chosen, "--ranks", "2", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (subject,) = json.loads(done.stdout.removesuffix("bye\n"))["subjects"]
    assert [each["status"] for each in subject["checks"]] == ["passed"] * 3


def test_the_command_gives_parameters_to_an_executor():
    few = ["--only", "equals-serial", "--ranks", "0", "--max-examples", "2"]
    done = command("--executor", "batched", "--param", "max_rows=3", *few)
    assert done.returncode == 0, done.stderr
    assert "BatchedExecutor(max_rows=3)" in done.stdout
    done = command("--executor", "batched", "--param", "max_rows=high", *few)
    assert done.returncode == 2
    assert "max_rows must be a positive whole number" in done.stderr


def test_the_command_takes_checks_of_methods_and_executors_together():
    chosen = ["--only", "neutral", "--only", "equals-serial", "--ranks", "0", "--max-examples", "3"]
    done = command("cfg", "--executor", "batched:max_rows=3", *chosen, "--json")
    assert done.returncode == 0, done.stderr
    method, executor = json.loads(done.stdout)["subjects"]
    assert [each["check"] for each in method["checks"]] == ["neutral"]
    assert [each["check"] for each in executor["checks"]] == ["equals-serial"]
    assert "max_rows" in executor["code"]
    done = command("cfg", "--only", "equals-serial")
    assert done.returncode == 2
    assert "'equals-serial' is a check of executors" in done.stderr


def test_the_command_lists_the_checks():
    done = command("--list", "--json")
    names = {row["check"] for row in json.loads(done.stdout)["checks"]}
    assert {"neutral", "equals-serial"} <= names


# What ships keeps its promises.


EXECUTORS = ["serial", "batched", "all_gather", "all_reduce", "auto"]
WITH_PARAMETERS = ["all_gather:split_rows=true", "batched:max_rows=3"]


@pytest.mark.parametrize("name", [*EXECUTORS, *WITH_PARAMETERS])
def test_executors_that_ship_keep_their_promises(name):
    for outcome in run_checks(executor_subject_of(name), options=Options(max_examples=40, seed=0, replay=False)):
        assert not outcome.is_bad, report_of(outcome)


@pytest.mark.parametrize("name", [found.name for found in find_plugins()])
def test_methods_that_ship_keep_their_promises(name):
    for outcome in run_checks(subject_of(name), options=Options(seed=0, replay=False)):
        assert not outcome.is_bad, report_of(outcome)
        assert "another process" not in outcome.reason, outcome.reason
