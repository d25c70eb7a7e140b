"""What other processes are asked to do with a subject."""

from __future__ import annotations

import base64
import contextlib
import math
import pickle
import re
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import attrs
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_leaves

from guidance_core.algebra.digest import digest
from guidance_core.conformance.case import Case, Host, Pass
from guidance_core.conformance.case_runs import Results, halves_of
from guidance_core.conformance.executor_subject import ExecutorSubject
from guidance_core.conformance.subject import Subject
from guidance_core.errors import GuidanceError
from guidance_core.executors.all_gather import AllGatherExecutor
from guidance_core.executors.all_reduce import AllReduceExecutor
from guidance_core.run import Run
from guidance_core.steps.bound_branch import BoundBranch
from guidance_core.steps.plan import Plan

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


def planned(plan: Plan) -> list[Any]:
    """Return what stands for a plan among processes: names of branches, their contents, their strengths."""
    contents, strengths = plan.layout.fingerprint
    return [[branch.name for branch in plan.branches], str(contents), str(strengths)]


def other_plan(mine: list[Any], other: list[Any]) -> str:
    """Return in which way one plan differs from another; empty where it does not."""
    if mine[0] != other[0]:
        return f"the passes {', '.join(mine[0])} instead of {', '.join(other[0])}"
    if mine[1] != other[1]:
        return "another content (condition, perturbations, overrides, model) of a branch"
    return "other strengths, or hooks that ask for something else" if mine[2] != other[2] else ""


def digests(subject: Subject, case: Case) -> list[dict[str, Any]]:
    """Return, for each step, what stands for the plan, and a digest of the result's bits."""
    steps = halves_of(subject.start(case), case)
    return [{"plan": planned(plan), "bits": str(bits(result))} for plan, result in steps]


@attrs.define
class Made:
    """What one rank made of a case."""

    results: Results = attrs.field(factory=list)
    serial: Results = attrs.field(factory=list)
    "The same, run on this rank alone."
    plans: list[Any] = attrs.field(factory=list)
    forwards: list[list[tuple[str, range]]] = attrs.field(factory=list)
    "The branches that this rank ran, each with its rows, by step."
    error: str | None = None
    error_type: str | None = None
    trace: str = ""
    seconds: float = 0.0
    fault_error: str | None = None
    "The error of the step that was made to fail."
    fault_type: str | None = None
    fault_seconds: float = 0.0
    changed: str = ""
    "What was changed in place."
    traffic: list[tuple[int, str]] = attrs.field(factory=list)
    "By step: collectives of predictions, and what was pickled to be sent."
    description: str = ""

    def is_late(self, limit: float) -> bool:
        """Whether something took longer than it may when nothing is wrong."""
        return self.fault_seconds > limit or (self.error is not None and self.seconds > limit)

    def failed(self, error: Exception, seconds: float) -> None:
        """Note what ended the job."""
        self.error, self.error_type, self.seconds = str(error), type(error).__name__, seconds
        self.trace = "" if isinstance(error, GuidanceError) else traceback.format_exc(limit=-3)


def _serially(made: Made, run: Run, case: Case) -> None:
    for plan, result in halves_of(run, case):
        made.plans.append(planned(plan))
        made.serial.append(result)


def on_rank(group: Any, subject: Subject, case: Case, executor: str) -> Made:
    """Run a case of a plugin serially, and with a parallel executor; never raises, so that the ranks live on."""
    made, started = Made(), time.monotonic()
    try:
        _serially(made, subject.start(case), case)
        if executor == "serial":
            return made
        run = subject.start(case, executor=EXECUTORS[executor](group))
        for step in range(case.steps):
            made.results.append(case.named(run.step(step, case.sample(step), Host(case, step))))
    except Exception as error:
        made.failed(error, time.monotonic() - started)
    return made


@attrs.frozen
class Fault:
    """What goes wrong in the first step, once, before it is made again."""

    kind: str
    "`raises`, `shape`, `none`, `whole numbers`, or `other strengths` (of rank 1)."
    branch: str = "cond"

    @property
    def happened(self) -> str:
        """What its branch did, in words."""
        return "raised on the rank that ran it" if self.kind == "raises" else f"returned something wrong ({self.kind})"


class ForwardError(Exception):
    """What a broken forward raises."""

    TEXT = "out of imaginary memory"


class _Faulty(Host):
    """A host one of whose branches goes wrong."""

    def __init__(self, case: Case, step: int, fault: Fault) -> None:
        super().__init__(case, step)
        self.fault = fault

    def __call__(self, branch: BoundBranch) -> Any:
        whole = super().__call__(branch)
        if branch.name != self.fault.branch:
            return whole
        kind = self.fault.kind
        if kind == "raises":
            raise ForwardError(ForwardError.TEXT)
        if kind == "none":
            return None
        named = self.case.named(whole)
        if kind == "shape":
            return self.case.structured({output: tensor[..., :0] for output, tensor in named.items()})
        return self.case.structured({output: tensor.to(torch.int32) for output, tensor in named.items()})


def executor_on_rank(
    group: Any,
    subject: ExecutorSubject,
    case: Case,
    *,
    extra: Any = None,
    fault: Fault | None = None,
    interleaved: bool = False,
    watched: bool = False,
) -> Made:
    """Run a case serially and with an executor to check; never raises, so that the ranks live on."""
    made, started = Made(), time.monotonic()
    try:
        executor = subject.make(group)
        made.description = executor.describe()
        _serially(made, subject.start(case, extra=extra), case)
        own = case
        if fault is not None and fault.kind == "other strengths" and group is not None and group.rank() == 1:
            own = attrs.evolve(case, parameters={**case.parameters, "strengths": (9.0,)})
        started = time.monotonic()
        if fault is not None and fault.kind == "other strengths":
            _made_to_fail(made, lambda: subject.start(own, executor).step(0, case.sample(0), Host(case, 0)))
            return made
        run = subject.start(own, executor, extra=extra)
        beside_case = attrs.evolve(case, seed=case.seed + 1)
        beside = subject.start(beside_case, executor, extra=extra) if interleaved else None
        if fault is not None:
            _made_to_fail(made, lambda: run.step(0, case.sample(0), _Faulty(case, 0, fault)))
        for step, levels in case.moments:
            host, sample = Host(case, step), case.sample(step)
            if beside is not None:
                beside.step(step, case.sample(step), Host(beside_case, step), **levels)
            with _noting_traffic(case, made) if watched else contextlib.nullcontext():
                result = run.step(step, sample, host, **levels)
            made.results.append({output: tensor.clone() for output, tensor in case.named(result).items()})
            made.forwards.append([(each.branch, _rows(each, case)) for each in host.passes])
            _note_changes(made, case, step, sample, host)
    except Exception as error:
        made.failed(error, time.monotonic() - started)
    return made


def _made_to_fail(made: Made, call: Callable[[], Any]) -> None:
    """Make a call that should fail, and note how."""
    started = time.monotonic()
    try:
        call()
    except Exception as error:
        notes = " ".join(getattr(error, "__notes__", ()))
        made.fault_error, made.fault_type = f"{error} {notes}".strip(), type(error).__name__
    made.fault_seconds = time.monotonic() - started


def _note_changes(made: Made, case: Case, step: int, sample: Any, host: Host) -> None:
    if bits(case.named(sample)) != bits(case.named(case.sample(step))):
        made.changed = made.changed or f"the sample of step {step}"
    for each in host.passes:
        if bits(case.named(each.prediction)) != bits(each.again(case, step)):
            made.changed = made.changed or f"the prediction of branch {each.branch!r} at step {step}"


def _rows(made: Pass, case: Case) -> range:
    return range(len(case.samples))[made.rows or slice(None)]


_COLLECTIVE = re.compile(r"gather|reduce|scatter|all_?to_?all|broadcast")
"In the names of methods of a process group: whatever function of torch.distributed is called, under whatever name."


@contextlib.contextmanager
def _noting_traffic(case: Case, made: Made) -> Iterator[None]:
    """Count the collectives that carry predictions, or a good part of one, and note what is pickled."""
    part = len(case.samples) * math.prod(case.shape) * case.torch_dtype.itemsize // 16
    count, pickled = 0, ""

    def counting(real: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            leaves = tree_leaves((arguments, named))
            count += any(isinstance(each, Tensor) and each.nbytes >= part for each in leaves)
            return real(*arguments, **named)

        return call

    def noting(name: str, real: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal pickled
            pickled = pickled or name
            return real(*arguments, **named)

        return call

    with contextlib.ExitStack() as stack:
        for name in filter(_COLLECTIVE.search, dir(dist.ProcessGroup)):
            real = counting(getattr(dist.ProcessGroup, name))
            stack.enter_context(mock.patch.object(dist.ProcessGroup, name, real))
        for owner, name in (
            (dist, "all_gather_object"),
            (dist, "broadcast_object_list"),
            (dist, "gather_object"),
            (dist, "scatter_object_list"),
            (pickle, "dumps"),
            (pickle, "dump"),
            (torch, "save"),
        ):
            if hasattr(owner, name):
                stack.enter_context(mock.patch.object(owner, name, noting(name, getattr(owner, name))))
        yield
    made.traffic.append((count, pickled))
