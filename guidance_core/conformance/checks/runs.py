"""State belongs to the run; what a plugin is given stays as it is; a step waits for nothing."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from guidance_core.algebra.digest import digest
from guidance_core.conformance.case import Case, Host
from guidance_core.conformance.case_runs import Results, agree, halves_of, played
from guidance_core.conformance.registry import check
from guidance_core.conformance.strategies import cases, structures
from guidance_core.conformance.subject import Subject
from guidance_core.conformance.violation import Violation, require
from guidance_core.discovery.tracebacks import raised
from guidance_core.errors import GuidanceError
from guidance_core.executors.base import Executor
from guidance_core.executors.serial import SerialExecutor
from guidance_core.guidance import Guidance
from guidance_core.run import Run
from guidance_core.steps.bound_branch import BoundBranch
from guidance_core.steps.plan import Plan


@check(
    "works",
    "A step works for samples of every shape, outputs in every structure, and every prediction type and parameter that "
    "it takes: no hook raises.",
    draw=cases(steps=(1, 4)),
    besides=structures,
)
def works(subject: Subject, case: Case) -> None:
    try:
        played(subject, case)
    except GuidanceError as error:
        fitting = [shape for shape in subject.shapes if _plays(subject, attrs.evolve(case, shape=shape))]
        advice = (
            f"\nWith samples of shape {', '.join(map(str, fitting))} it works: one that takes only some shapes is "
            "checked with --shape 3,8,8, or shapes=[(3, 8, 8)]."
            if fitting
            else ""
        )
        raise Violation(f"It raises:\n{raised(error)}{advice}") from error


def _plays(subject: Subject, case: Case) -> bool:
    try:
        played(subject, case)
    except GuidanceError:
        return False
    return True


@check(
    "inputs-unchanged",
    "The sample and the predictions are left as they were given.",
    draw=cases(dtypes=("float32", "float64", "bfloat16"), large=True),
)
def inputs_unchanged(subject: Subject, case: Case) -> None:
    _leaves_inputs(subject.start(case), case)
    if "postprocess" in subject.hooks and not subject.branches:  # alone it corrects what the denoiser returned
        _leaves_inputs(subject.start(case, Guidance([subject.changed(case.parameters)])), case)


def _leaves_inputs(run: Run, case: Case) -> None:
    for step in range(case.steps):
        sample, host = case.sample(step), Host(case, step)
        run.step(step, sample, host)
        agree([case.named(sample)], [case.named(case.sample(step))], f"Step {step} changes the sample in place.")
        for made in host.passes:
            agree(
                [case.named(made.prediction)],
                [made.again(case, step)],
                f"Step {step} changes the prediction of branch {made.branch!r} in place; use out-of-place operations.",
            )


@check(
    "results-stay",
    "A result does not change when the next step is made.",
    draw=cases(steps=(2, 3)),
    share=0.5,
)
def results_stay(subject: Subject, case: Case) -> None:
    run = subject.start(case)
    results: Results = []
    kept: Results = []
    for step in range(case.steps):
        results.append(case.named(run.step(step, case.sample(step), Host(case, step))))
        kept.append({output: tensor.clone() for output, tensor in results[-1].items()})
    agree(results, kept, "A later step changed an earlier step's result in place.")


@check(
    "same-bits-again",
    "Two fresh runs of one thing give the same bits, and draw nothing from the global random generator.",
    draw=cases(steps=(1, 4)),
)
def same_bits_again(subject: Subject, case: Case) -> None:
    guidance = subject.guidance(case)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = played(subject, case, guidance)
        torch.manual_seed(2)
        before = torch.get_rng_state()
        second = played(subject, case, guidance)
        drew = not torch.equal(before, torch.get_rng_state())
    agree(second, first, "A second run of the same gives another result: something outlives the run, or is random.")
    require(
        not drew,
        "A step draws from torch's global random generator, or seeds it, which other code draws from too; take a "
        "torch.Generator seeded from the step, so that every rank and every run draws the same.",
    )


@check(
    "runs-apart",
    "Two runs interleaved in one process equal the two runs apart: what lasts is in `step.state`.",
    draw=cases(steps=(2, 4)),
)
def runs_apart(subject: Subject, case: Case) -> None:
    guidance = subject.guidance(case)
    other = _other(case)
    apart = [played(subject, each, guidance) for each in (case, other)]
    runs = [subject.start(each, guidance) for each in (case, other)]
    together: list[Results] = [[], []]
    for step in range(case.steps):
        for number, each in enumerate((case, other)):
            result = runs[number].step(step, each.sample(step), Host(each, step))
            together[number].append(each.named(result))
    for number in range(2):
        agree(together[number], apart[number], "Interleaved with another run, a run gives another result.")


def _other(case: Case) -> Case:
    return attrs.evolve(case, seed=case.seed + 1)


THREADS, RUNS = 3, 16
"How many threads there are, and how many runs each makes: what goes wrong does so by chance."


@check(
    "threads",
    "Runs in several threads equal the runs one after the other.",
    draw=cases(steps=(2, 3)),
    share=0.25,
    differentiating=False,
)
def threads(subject: Subject, case: Case) -> None:
    guidance = subject.guidance(case)
    each = [attrs.evolve(case, seed=case.seed + number) for number in range(THREADS)]
    apart = [played(subject, one, guidance) for one in each]
    prepared = [_Prepared(subject, one, guidance) for one in each]
    together: list[Any] = [None] * THREADS
    at_once = threading.Barrier(THREADS)

    def work(number: int) -> None:
        at_once.wait()
        try:
            together[number] = [*prepared[number].made(), played(subject, each[number], guidance)]
        except Exception as error:
            together[number] = error

    working = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(THREADS)]
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that small tensors are interrupted too
    try:
        for thread in working:
            thread.start()
        for thread in working:
            thread.join()
    finally:
        sys.setswitchinterval(usual)
    for got, expected in zip(together, apart, strict=True):
        if isinstance(got, Exception):
            raise got
        for results in got:
            agree(results, expected, "In a thread beside others, a run gives another result.")


class _Prepared:
    """Runs whose tensors are drawn beforehand, so that their thread does little but make their steps."""

    def __init__(self, subject: Subject, case: Case, guidance: Guidance) -> None:
        self.case = case
        self.runs = [subject.start(case, guidance) for _ in range(RUNS)]
        self.samples = [case.sample(step) for step in range(case.steps)]
        self.predictions = [
            {branch.name: case.prediction(branch, step) for branch in branches}
            for step, branches in enumerate(self._planned(step) for step in range(case.steps))
        ]

    def _planned(self, step: int) -> Sequence[BoundBranch]:
        return self.runs[0].plan(step, self.samples[step]).branches

    def made(self) -> list[Results]:
        """Make all steps of each run."""
        steps = list(enumerate(self.samples))
        return [[self.case.named(run.step(*step, self._denoise)) for step in steps] for run in self.runs]

    def _denoise(self, branch: BoundBranch) -> Any:
        known = self.predictions[branch.step]
        # a branch that was not planned at the start is drawn when it is asked for
        return known[branch.name] if branch.name in known else self.case.prediction(branch, branch.step)


class _Breaks(Host):
    """Fails after the first pass."""

    def __call__(self, branch: Any) -> Any:
        if self.passes:
            raise _BrokenError
        return super().__call__(branch)


class _BrokenError(Exception):
    pass


class _IsNotConfirmed(SerialExecutor):
    """Fails once a step is combined, as where another rank could not combine it."""

    is_armed = False

    def confirm(self, plan: Plan) -> None:
        if self.is_armed:
            raise _BrokenError


@check(
    "failed-step",
    "A step that fails in the denoiser, or on another rank once it is combined here, or that is only planned, leaves "
    "nothing behind: repeated, it gives what it would have given.",
    draw=cases(steps=(2, 3), evaluations=2),
)
def failed_step(subject: Subject, case: Case) -> None:
    executor = _IsNotConfirmed()
    run = subject.start(case, executor=executor)
    got: Results = []
    for number, (step, levels) in enumerate(case.moments):
        run.plan(step, case.sample(step), **levels)  # and never finished
        executor.is_armed = True
        with contextlib.suppress(_BrokenError):
            run.step(step, case.sample(step), Host(case, step), **levels)
        executor.is_armed = False
        try:
            run.step(step, case.sample(step), _Breaks(case, step), **levels)
        except _BrokenError:
            pass
        else:
            run = _caught_up(subject, case, number, executor)
        got.append(case.named(run.step(step, case.sample(step), Host(case, step), **levels)))
    agree(
        got,
        played(subject, case),
        "After a step that failed or was only planned, the run gives another result: a tensor in step.state was "
        "changed in place, or something is kept outside it.",
        evaluations=case.evaluations,
    )


def _caught_up(subject: Subject, case: Case, count: int, executor: Executor) -> Run:
    """Return a run of which so many evaluations are made."""
    run = subject.start(case, executor=executor)
    for step, levels in case.moments[:count]:
        run.step(step, case.sample(step), Host(case, step), **levels)
    return run


@check(
    "two-halves",
    "`plan` and `finish`, as hosts use them that run the forwards themselves, equal `step`, and so does the batched "
    "executor.",
    draw=cases(),
    share=0.5,
)
def two_halves(subject: Subject, case: Case) -> None:
    expected = played(subject, case)
    got = [result for _, result in halves_of(subject.start(case), case)]
    agree(got, expected, "plan() and finish() give another result than step().")
    agree(played(subject, case, executor="batched"), expected, "The batched executor gives another result.")


@check(
    "second-evaluation",
    "A step evaluated twice, the second time at a noise level of its own (Heun, res2s), works and is repeatable.",
    draw=cases(steps=(2, 3), evaluations=2),
    share=0.5,
)
def second_evaluation(subject: Subject, case: Case) -> None:
    guidance = subject.guidance(case)
    once, again = (played(subject, case, guidance) for _ in range(2))
    agree(again, once, "Repeated, two evaluations of each step give another result.", evaluations=2)
    halves = [result for _, result in halves_of(subject.start(case, guidance), case)]
    agree(halves, once, "With two evaluations, plan() and finish() give another result than step().", evaluations=2)


@check(
    "plugin-unchanged",
    "A run changes nothing in the plugin itself: it is frozen, and holds no list, dict or buffer that a run fills.",
    draw=cases(steps=(2, 3)),
    share=0.25,
)
def plugin_unchanged(subject: Subject, case: Case) -> None:
    plugin = subject.changed(case.parameters)
    before = digest([plugin]), repr(plugin), _held(plugin)
    beside = _beside(plugin)
    guidance = Guidance(subject.stacked(plugin))
    played(subject, case, guidance)
    after = digest([plugin]), repr(plugin), _held(plugin)
    require(before == after, f"After a run {plugin!r} is not what it was: state belongs in step.state.")
    changed = [name for name, size in _beside(plugin).items() if beside.get(name) != size]
    require(
        not changed,
        f"A run changes {', '.join(changed)} of the module {type(plugin).__module__}: state belongs in step.state.",
    )


def _beside(plugin: Any) -> dict[str, Any]:
    """Return the size of each list, dict and set that the plugin's module holds."""
    held = vars(sys.modules[type(plugin).__module__])
    return {
        name: len(value)
        for name, value in held.items()
        if isinstance(value, list | dict | set | deque) and not name.startswith("__")
    }


def _held(plugin: Any) -> int:
    """Return a digest of everything an instance and its class hold that could be changed in place."""
    held = [getattr(plugin, field.name) for field in attrs.fields(type(plugin))]
    own = [
        value
        for base in type(plugin).__mro__
        for value in vars(base).values()
        if isinstance(value, list | dict | set | deque | Tensor)
    ]
    return digest([*held, *own])
