"""A host that runs its own forwards on real ranks: `plan.own_branches` and `plan.finish`."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import attrs
from fault_jobs import Breaks
from rank_jobs import EXECUTORS, Case, Counting, bits
from run_jobs import CASE as RUN
from run_jobs import SETTINGS, SIGMAS, STEPS

from guidance_core import Guidance, PluginError

CASE = Case(seed=7, shapes={"video": (2, 6, 4), "audio": (2, 3)}, dtype=RUN.dtype, strengths=(2.0, -0.5), steps=3)


class HostError(Exception):
    """What a host raises by itself."""


@attrs.define
class Seen:
    """How a rank fared."""

    error: str
    message: str
    seconds: float
    cause: str
    next_is_right: bool


def whole_run(group: Any, name: str, spec: str, options: dict[str, Any]) -> tuple[list[bool], list[int], list[int]]:
    """Run a spec in halves; whether each step equals the serial one, this rank's forwards, and its padding."""
    guidance = Guidance.from_spec(spec)
    executor = EXECUTORS[name](group, **options)
    serial, halves = guidance.start(**SETTINGS), guidance.start(**SETTINGS, executor=executor)
    equal, forwards, padding = [], [], []
    for i in range(STEPS):
        sample = RUN.tensors("sample", i)
        host = Counting(RUN, i)
        expected = serial.step(i, sample, Counting(RUN, i))
        with halves.plan(i, sample, sigma=SIGMAS[i]) as plan:
            made = {branch.name: host(branch) for branch in plan.own_branches}
            result = plan.finish(made)
        equal.append(bits(result) == bits(expected))
        forwards.append(len(host.calls))
        padding.append(plan.padding)
    return equal, forwards, padding


def fault(group: Any, name: str, kind: str, victim: int) -> Seen:
    """Fail on one rank between planning and committing, then make the step in a way that works."""
    here = group.rank() == victim
    armed = {"here": False}
    guidance = Guidance([*CASE.guidance().plugins, Breaks("postprocess", armed)])
    run = CASE.start(EXECUTORS[name](group), guidance)
    sample, host = CASE.tensors("sample", 0), Counting(CASE, 0)
    armed["here"] = here and kind == "after the payload"
    begun, error = time.monotonic(), None
    try:
        if kind == "without with":
            plan = run.plan(0, sample)
            if here:
                plan.abandon(HostError("no memory"))
            run.finish(plan, {branch.name: host(branch) for branch in plan.own_branches})
        else:
            with run.plan(0, sample) as plan:
                made = {branch.name: host(branch) for branch in plan.own_branches}
                if here and kind == "in the block":
                    raise HostError("no memory")
                if here and kind == "interrupt":
                    raise KeyboardInterrupt
                if here and kind == "no predictions":
                    made = None
                if not (here and kind == "never finished"):
                    plan.finish(made)
    except BaseException as raised:
        error = raised
    seconds = time.monotonic() - begun
    armed["here"] = False
    result = run.step(0, sample, Counting(CASE, 0))
    expected = CASE.start("serial", guidance).step(0, sample, Counting(CASE, 0))
    same = bits(result) == bits(expected)
    close = all(abs(result[output] - expected[output]).max() < 1e-5 for output in expected)
    cause = type(error.__cause__).__name__ if error is not None else ""
    return Seen(type(error).__name__, str(error), seconds, cause, same if name == "all_gather" else bool(close))


def finished_again(group: Any, name: str) -> list[bool]:
    """Fail after the payload on one rank, then finish the same plan again on all."""
    armed = {"here": group.rank() == 1}
    guidance = Guidance([*CASE.guidance().plugins, Breaks("postprocess", armed)])
    armed["here"] = False
    run = CASE.start(EXECUTORS[name](group), guidance)
    sample, host = CASE.tensors("sample", 0), Counting(CASE, 0)
    plan = run.plan(0, sample)
    made = {branch.name: host(branch) for branch in plan.own_branches}
    armed["here"] = group.rank() == 1
    failed = False
    try:
        run.finish(plan, made)
    except PluginError:
        failed = True
    armed["here"] = False
    expected = CASE.start("serial", guidance).step(0, sample, Counting(CASE, 0))
    result = run.finish(plan, made)
    return [failed, all(abs(result[output] - expected[output]).max() < 1e-5 for output in expected)]


def fails_in_the_second_attempt(group: Any, name: str) -> tuple[str, float]:
    """Fail in `finish` on every rank, then by one host alone in the same block; the error, and its seconds."""
    armed = {"here": True}
    guidance = Guidance([*CASE.guidance().plugins, Breaks("postprocess", armed)])
    run = CASE.start(EXECUTORS[name](group), guidance)
    sample, host = CASE.tensors("sample", 0), Counting(CASE, 0)
    begun = time.monotonic()
    try:
        with run.plan(0, sample) as plan:
            made = {branch.name: host(branch) for branch in plan.own_branches}
            with contextlib.suppress(PluginError):
                plan.finish(made)
            begun = time.monotonic()
            armed["here"] = False
            if group.rank() == 0:
                raise HostError("no memory")
            plan.finish(made)
    except Exception as error:
        return f"{type(error).__name__}: {error}", time.monotonic() - begun
    return "", 0.0


def text_that_no_encoding_takes(group: Any) -> str:
    """Raise an error whose text holds a lone surrogate on one rank; return what this rank raises."""
    run = CASE.start(EXECUTORS["all_gather"](group), CASE.guidance())

    def denoise(branch: Any) -> Any:
        if group.rank() == 0:
            raise FileNotFoundError("weights\udcff.bin")
        return Counting(CASE, 0)(branch)

    try:
        run.step(0, CASE.tensors("sample", 0), denoise)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
