"""Steps that the ranks announced, made and not made."""

from __future__ import annotations

from typing import Any

from rank_jobs import EXECUTORS, Counting, bits, flat
from run_jobs import CASE, SIGMAS, STEPS, start

from guidance_core import GuidanceError

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
        before = executor.counts.control_exchanges
        note("first", right(*pair, 0, 0), before)
        return pair

    run, serial = begun()
    before = exchanges(run)
    note("announced", right(run, serial, 1, 1), before)
    before = exchanges(run)
    note("again", right(run, serial, 1, 2, sigma=SIGMAS[2]), before)
    before = exchanges(run)
    note("after it", right(run, serial, 2, 3), before)
    run, serial = begun()
    before = exchanges(run)
    note("skipped", right(run, serial, 3, 4), before)
    run, serial = begun()  # given up in the middle, for a new run
    other, other_serial = start(executor, "cfg:scale=5"), start("serial", "cfg:scale=5")
    before = exchanges(run)
    note("other run", right(other, other_serial, 0, 5), before)
    note("back", right(run, serial, 1, 6), before)
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


def torn(group: Any, name: str, kind: str, odd: int) -> tuple[tuple[str, str], bool]:
    """Have one rank do something else than all announced; the error, and whether the next step is right."""
    executor, here = EXECUTORS[name](group), group.rank() == odd
    run, serial = start(executor, SPEC), start("serial", SPEC)
    other, other_serial = start(executor, SPEC), start("serial", SPEC)
    right(other, other_serial, 0, 0)
    right(run, serial, 0, 0)
    sample = CASE.tensors("sample", 1)
    try:
        if here and kind == "other run":
            other.step(1, sample, Counting(CASE, 1))
        elif here and kind == "new run":
            start(executor, SPEC)
        elif here and kind == "other step":
            run.step(2, sample, Counting(CASE, 1))
        elif here and kind == "fails to plan":
            run.step(1, sample, Counting(CASE, 1), sigma=-1.0)
        elif here and kind == "looks":
            run.plan(1, sample)
            run.plan(2, sample)
            run.step(1, sample, Counting(CASE, 1))
        else:
            run.step(1, sample, Counting(CASE, 1))
    except GuidanceError as error:
        said = type(error).__name__, str(error)
    else:
        said = "", ""
        return said, right(other, other_serial, 1, 1)
    return said, right(run, serial, 1, 1) and right(other, other_serial, 1, 1)
