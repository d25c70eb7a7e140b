"""Steps that the ranks announced, made and not made."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import weakref
from typing import Any

from rank_jobs import EXECUTORS, Counting, bits, flat
from run_jobs import CASE, SIGMAS, STEPS, start

from guidance_core import GuidanceError
from guidance_core.executors.agreement import agreement_of
from guidance_core.executors.records import AFTER, OTHER, Record, check_all_well, failure

SPEC = "cfg:scale=3,rescale:phi=0.5"


def right(run: Any, serial: Any, index: int, number: int, **options: Any) -> bool:
    """Make a step in both runs; whether the results agree, as exactly as the executor promises."""
    sample = CASE.tensors("sample", number)
    result = run.step(index, sample, Counting(CASE, number), **options)
    expected = serial.step(index, sample, Counting(CASE, number), **options)
    if run.executor.gathers_predictions:
        return bits(result) == bits(expected)
    return all((mine - flat(expected)[output]).abs().max() < 1e-4 for output, mine in flat(result).items())


def exchanges(run: Any) -> int:
    return int(run.executor.counts.control_exchanges)


def surprises(group: Any, name: str) -> list[tuple[str, bool, int]]:
    """Have all ranks do something else than they announced; what, whether it was right, and how many exchanges."""
    seen = []
    executor = EXECUTORS[name](group)

    def note(what: str, is_right: bool, before: int) -> None:
        seen.append((what, is_right, executor.counts.control_exchanges - before))

    def begun() -> tuple[Any, Any]:
        pair = start(executor, SPEC), start("serial", SPEC)
        for step, what in enumerate(("first", "second")):
            before = executor.counts.control_exchanges
            note(what, right(*pair, step, step), before)
        return pair

    run, serial = begun()
    before = exchanges(run)
    note("announced", right(run, serial, 2, 2), before)
    before = exchanges(run)
    note("again", right(run, serial, 2, 3, sigma=SIGMAS[3]), before)
    before = exchanges(run)
    note("after it", right(run, serial, 3, 4), before)
    run, serial = begun()
    before = exchanges(run)
    note("skipped", right(run, serial, 4, 4), before)
    run, serial = begun()  # given up in the middle, for a new run
    other, other_serial = start(executor, "cfg:scale=5"), start("serial", "cfg:scale=5")
    before = exchanges(run)
    note("other run", right(other, other_serial, 0, 5), before)
    note("back", right(run, serial, 2, 6), before)
    note("other run again", right(other, other_serial, 1, 7), before)
    return seen


def through_two_executors(group: Any) -> bool:
    """Make a step of an adding, of a gathering and of a run without control by turns, on one group."""
    specs = [SPEC, "cfg:scale=5", "cfg:scale=-1"]
    executors = [
        EXECUTORS["all_gather"](group),
        EXECUTORS["all_reduce"](group),
        EXECUTORS["all_gather"](group, control=False),
    ]
    pairs = [(start(executor, spec), start("serial", spec)) for executor, spec in zip(executors, specs, strict=True)]
    return all(right(*pair, step, step) for step in range(STEPS) for pair in pairs)


def beside_lockstep(group: Any, name: str, kind: str, odd: int) -> tuple[tuple[str, str], bool]:
    """Announce a step of an ordinary run, then make one of a run in lockstep, which one rank does not."""
    here = group.rank() == odd
    run, serial = start(EXECUTORS[name](group), SPEC), start("serial", SPEC)
    other, other_serial = start(EXECUTORS[name](group, lockstep=True), SPEC), start("serial", SPEC)
    for step in (0, 1):
        right(other, other_serial, step, step)
    for step in (0, 1):
        right(run, serial, step, step)
    sample, said = CASE.tensors("sample", 2), ("", "")
    try:
        if here and kind == "other run":
            run.step(2, sample, Counting(CASE, 2))
        else:
            other.step(2, sample, Counting(CASE, 2), sigma=-1.0 if here and kind == "fails to plan" else None)
    except GuidanceError as error:
        said = type(error).__name__, str(error)
    return said, right(run, serial, 2, 2) and right(other, other_serial, 2, 2)


def other_dtype(group: Any, name: str) -> bool:
    """Have every prediction be of another dtype from the second step on."""
    run, serial = start(EXECUTORS[name](group), SPEC), start("serial", SPEC)

    def narrow(step: int) -> Any:
        counting = Counting(CASE, step)
        return lambda branch: {output: each.bfloat16() for output, each in counting(branch).items()}

    same = right(run, serial, 0, 0) and right(run, serial, 1, 1)
    for step in (2, 3):
        sample = CASE.tensors("sample", step)
        made, expected = run.step(step, sample, narrow(step)), serial.step(step, sample, narrow(step))
        same &= all((mine - flat(expected)[output]).abs().max() < 0.05 for output, mine in flat(made).items())
    return same


def held_first(group: Any, name: str) -> bool:
    """Begin a fork with a step in which nothing runs, and go on with predictions of another dtype than the sample's."""
    spec = "ltx2:cfg_scale=3,stg_blocks=3,skip_step=1"
    runs = [start(EXECUTORS[name](group), spec), start("serial", spec)]
    same = []
    for step in range(4):
        if step == 1:
            runs = [run.fork() for run in runs]
        sample = {output: each.half() for output, each in CASE.tensors("sample", step).items()}
        result, expected = (run.step(step, sample, Counting(CASE, step)) for run in runs)
        same.append(all((mine - expected[output]).abs().max() < 0.05 for output, mine in result.items()))
    return all(same)


def interrupted(group: Any, name: str, odd: int) -> list[str]:
    """Interrupt one rank while it waits for the second agreement; the error of that step, of the next, and after."""
    executor, here = EXECUTORS[name](group), group.rank() == odd
    run, serial = start(executor, SPEC), start("serial", SPEC)
    for step in (0, 1):
        right(run, serial, step, step)

    class Slow(Counting):
        def __call__(self, branch: Any) -> Any:
            made = super().__call__(branch)
            if not here:
                confirm, executor.confirm = executor.confirm, lambda plan: (time.sleep(0.5), confirm(plan))[1]
                undo.append(lambda: setattr(executor, "confirm", confirm))
            return made

    undo: list[Any] = []
    said = []
    for step in (2, 3):
        if here and step == 2:
            timer = threading.Timer(0.25, os.kill, (os.getpid(), signal.SIGUSR1))
            signal.signal(signal.SIGUSR1, _interrupt)
            timer.start()
        try:
            run.step(step, CASE.tensors("sample", step), Slow(CASE, step) if step == 2 else Counting(CASE, step))
        except (GuidanceError, TimeLimitError) as error:
            said.append(type(error).__name__)
            break
        while undo:
            undo.pop()()
    other, other_serial = start(executor, "cfg:scale=5"), start("serial", "cfg:scale=5")
    said.append("right" if right(other, other_serial, 0, 0) and right(other, other_serial, 1, 1) else "wrong")
    return said


class TimeLimitError(Exception):
    """As a time limit raises it."""


def _interrupt(*_: Any) -> None:
    raise TimeLimitError


def freed(group: Any, name: str) -> bool:
    """Give a run up after a step that announced the next; whether its run and its sample are let go of."""
    executor = EXECUTORS[name](group)
    run, sample = start(executor, SPEC), CASE.tensors("sample", 0)
    for step in (0, 1):
        run.step(step, sample, Counting(CASE, step))
    assert executor._shared.announced is not None
    held = [weakref.ref(run), weakref.ref(run.identity), *(weakref.ref(each) for each in sample.values())]
    del run, sample
    gc.collect()
    return not any(each() is not None for each in held)


def given_up_for_another_late(group: Any, name: str, odd: int) -> bool:
    """Give a run up after a step that announced the next, and begin one of another executor, on one rank much later."""
    run = start(EXECUTORS[name](group), SPEC)
    for step in (0, 1):
        run.step(step, CASE.tensors("sample", step), Counting(CASE, step))
    executor = EXECUTORS["all_gather"](group)
    if group.rank() == odd:
        time.sleep(1.5 * executor._agreement.patience / 4)  # longer than the others wait before they listen
    other, serial = start(executor, "cfg:scale=5"), start("serial", "cfg:scale=5")
    return right(other, serial, 0, 0) and right(other, serial, 1, 1)


def swapped(group: Any, name: str, odd: int) -> tuple[str, str]:
    """Start two equal runs, in other order on one rank, without control after the first step."""
    executor, here = EXECUTORS[name](group), group.rank() == odd
    runs = [start(executor, SPEC), start(executor, SPEC)]
    try:
        runs[here].step(0, CASE.tensors("sample", 0), Counting(CASE, 0))
    except GuidanceError as error:
        return type(error).__name__, str(error)
    return "", ""


def torn(group: Any, name: str, kind: str, odd: int) -> tuple[tuple[str, str], bool]:
    """Have one rank do something else than all announced; the error, and whether the next step is right."""
    executor, here = EXECUTORS[name](group), group.rank() == odd
    run, serial = start(executor, SPEC), start("serial", SPEC)
    other, other_serial = start(executor, SPEC), start("serial", SPEC)
    for step in (0, 1):
        right(other, other_serial, step, step)
    for step in (0, 1):
        right(run, serial, step, step)
    sample = CASE.tensors("sample", 2)
    try:
        if here and kind == "other run":
            other.step(2, sample, Counting(CASE, 2))
        elif here and kind == "new run":
            start(executor, SPEC)
        elif here and kind == "other step":
            run.step(3, sample, Counting(CASE, 2))
        elif here and kind == "fails to plan":
            run.step(2, sample, Counting(CASE, 2), sigma=-1.0)
        elif here and kind == "looks":
            run.plan(2, sample)
            run.plan(3, sample)
            run.step(2, sample, Counting(CASE, 2))
        else:
            run.step(2, sample, Counting(CASE, 2))
    except GuidanceError as error:
        said = type(error).__name__, str(error)
    else:
        said = "", ""
        return said, right(other, other_serial, 2, 2)
    return said, right(run, serial, 2, 2) and right(other, other_serial, 2, 2)


def late_beside_another_step(group: Any, odd: int) -> str:
    """Have one rank turn to another step while the others fail on what it sent; the error of this rank."""
    agreement = agreement_of(group)
    try:
        if group.rank() == odd:
            records = agreement.exchange(Record(text="step 5 of 8"), OTHER)
        else:
            late = failure(ValueError("zeros"), group.rank(), "step 4", is_late=True)
            records = agreement.exchange(late, AFTER)
        check_all_well(records)
    except GuidanceError as error:
        return f"{type(error).__name__}: {error}"
    return ""
