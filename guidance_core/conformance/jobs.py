"""What other processes are asked to do with a subject."""

from __future__ import annotations

import base64
import pickle
import traceback
from typing import Any

import attrs
from torch import Tensor

from guidance_core.conformance.case import Case, Host
from guidance_core.conformance.playing import Results
from guidance_core.conformance.subject import Subject
from guidance_core.errors import GuidanceError
from guidance_core.executors.all_gather import AllGatherExecutor
from guidance_core.executors.all_reduce import AllReduceExecutor
from guidance_core.executors.base import Executor
from guidance_core.fingerprint import digest

EXECUTORS = {"all_gather": AllGatherExecutor, "all_reduce": AllReduceExecutor}


def packed(value: Any) -> str:
    """Return a value as text for another process."""
    return base64.b64encode(pickle.dumps(value)).decode()


def unpacked(text: str) -> Any:
    """Return the value that `packed` wrote."""
    return pickle.loads(base64.b64decode(text))


def bits(named: dict[str, Tensor]) -> int:
    """Return a digest of the bits of tensors by output."""
    return digest([named])


def digests(subject: Subject, case: Case) -> list[dict[str, Any]]:
    """Return, for each step, the branches, a digest of the plan, and one of the result's bits."""
    run = subject.start(case)
    found = []
    for step in range(case.steps):
        sample = case.sample(step)
        plan = run.plan(step, sample)
        names = [branch.name for branch in plan.branches]
        planned = [str(part) for part in plan.layout.fingerprint]
        host = Host(case, step)
        result = run.finish(plan, {branch.name: host(branch) for branch in plan.branches})
        found.append({"branches": names, "plan": planned, "bits": str(bits(case.named(result)))})
    return found


@attrs.frozen
class Made:
    """What one rank made of a case."""

    results: Results = attrs.field(factory=list)
    serial: Results = attrs.field(factory=list)
    "The same, run on this rank alone."
    plans: list[Any] = attrs.field(factory=list)
    calls: list[list[str]] = attrs.field(factory=list)
    "The branches that this rank ran, by step."
    error: str | None = None
    error_type: str | None = None
    trace: str = ""


def on_rank(group: Any, subject: Subject, case: Case, executor: str | type[Executor]) -> Made:
    """Run a case with a parallel executor, and serially; never raises, so that the ranks live on."""
    made = Made()
    try:
        serial = subject.start(case)
        for step in range(case.steps):
            plan = serial.plan(step, case.sample(step))
            made.plans.append([[branch.name for branch in plan.branches], *plan.layout.fingerprint])
            host = Host(case, step)
            result = serial.finish(plan, {branch.name: host(branch) for branch in plan.branches})
            made.serial.append(case.named(result))
        if executor == "serial":
            return made
        cls = EXECUTORS[executor] if isinstance(executor, str) else executor
        run = subject.start(case, executor=cls(group))  # type: ignore[call-arg]
        for step in range(case.steps):
            host = Host(case, step)
            made.results.append(case.named(run.step(step, case.sample(step), host)))
            made.calls.append(host.calls)
    except Exception as error:
        is_ours = isinstance(error, GuidanceError)
        trace = "" if is_ours else traceback.format_exc()
        return attrs.evolve(made, error=str(error), error_type=type(error).__name__, trace=trace)
    return made
