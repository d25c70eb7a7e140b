"""On a GPU: nothing is waited for, nothing breaks the graph, and every tensor is where the sample is."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from guidance_core.conformance.case import Case, Host
from guidance_core.conformance.fresh_process import asked
from guidance_core.conformance.registry import check
from guidance_core.conformance.strategies import cases
from guidance_core.conformance.subject import Subject, follows_predictions, unreachable
from guidance_core.conformance.violation import NotApplicable, Violation
from guidance_core.discovery.tracebacks import short_traceback
from guidance_core.methods.seen import Away, Predictions
from guidance_core.methods.step import Step
from guidance_core.steps.layout import Acting
from guidance_core.steps.plan import Plan


class _Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises where a value is read off a tensor, which on a GPU waits for the device."""

    READS = frozenset(
        ("_local_scalar_dense", "allclose", "equal", "is_nonzero", "masked_select", "nonzero", "_unique2", "unique_dim")
    )
    MASKED = frozenset(("index", "index_put", "index_put_"))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masked = name in self.MASKED and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in self.READS or masked:
            raise _ReadError(f"{name} with a mask" if masked else name)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _watching() -> Iterator[None]:
    """Have whatever reads values off a tensor, or copies it to the host, raise inside the block."""

    def reading(name: str) -> Any:
        def read(*_: Any, **__: Any) -> Any:
            raise _ReadError(f".{name}()")

        return read

    with contextlib.ExitStack() as stack:
        for name in ("cpu", "item", "numpy", "tolist"):
            stack.enter_context(mock.patch.object(Tensor, name, reading(name)))
        stack.enter_context(_Watching())  # type: ignore[no-untyped-call]
        yield


class _ReadError(Exception):
    pass


@check(
    "no-waiting",
    "A step reads no value off a tensor (`.item()`, `if t > 0`, `t[mask]`, `.cpu()`): on a GPU each read waits for the "
    "device.",
    draw=cases(),
    applies=follows_predictions,
    share=0.5,
)
def no_waiting(subject: Subject, case: Case) -> None:
    run = subject.start(case)
    for step in range(case.steps):
        sample, host = case.sample(step), Host(case, step)
        try:
            with _watching():
                plan = run.plan(step, sample)
            made = {branch.name: host(branch) for branch in plan.branches}
            with _watching():
                run.finish(plan, made)
        except Exception as error:
            read = _cause(error, _ReadError)
            if read is None:
                raise
            where = short_traceback(read, limit=1)
            advice = "Use torch.where and clamp instead of `if` and masks, and keep numbers in tensors."
            raise Violation(f"Step {step} reads a value off a tensor ({read}):\n{where}\n{advice}") from error


def _cause(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


@check(
    "no-graph-break",
    "Its `combine` compiles as one graph: torch.compile(fullgraph=True).",
    draw=cases(batch=(2, 2), steps=(1, 2), varied_structure=False),
    applies=lambda subject: None if subject.looks_at_predictions else "it has no combine",
    share=0.1,
    autograd=False,
)
def no_graph_break(subject: Subject, case: Case) -> None:
    try:
        import torch._dynamo  # noqa: F401
    except ImportError:  # pragma: no cover
        raise NotApplicable("this torch has no compiler") from None
    run = subject.start(case)
    for step in range(case.steps):
        plan = run.plan(step, case.sample(step))
        host = Host(case, step)
        made = {branch.name: host(branch) for branch in plan.branches}
        for output, layout in plan.layout.outputs.items():
            for acting in layout.combining:
                if acting.implementation.plugin == subject.name:
                    given = {name: case.named(made[name])[output] for name in acting.branches}
                    _compiles(plan, output, acting, given)
        run.finish(plan, made)


def _compiles(plan: Plan, output: str, acting: Acting, given: dict[str, Tensor]) -> None:
    state = {name: {key: dict(kept) for key, kept in states.items()} for name, states in plan.state.items()}

    def combine(sample: Tensor, predictions: dict[str, Tensor]) -> Any:
        step = Step(plan.moment, acting.implementation.plugin, acting.plugin, state, output, sample)
        seen = Predictions(
            acting.implementation.plugin,
            acting.branches,
            lambda branch: predictions[branch],
            lambda asked: [
                step.measure(statistic, *(predictions[branch] for branch in branches)) for statistic, *branches in asked
            ],
        )
        delta = acting.implementation.function(step, seen)
        return (dict(delta.strengths), delta.base) if isinstance(delta, Away) else delta

    torch._dynamo.reset()
    logging.disable(logging.ERROR)  # what the compiler has to say is in the error
    try:
        torch.compile(combine, fullgraph=True, backend="eager")(plan.samples[output], given)
    except torch._dynamo.exc.TorchDynamoException as error:
        if "Generator" in str(error):
            raise NotApplicable("it draws from a torch.Generator, which torch.compile does not trace") from None
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise Violation("combine does not compile as one graph: " + "\n".join(lines[:3])) from error
    finally:
        logging.disable(logging.NOTSET)


@check(
    "any-device",
    "Tensors that it makes are on the sample's device: it runs on a GPU (here a pretended one).",
    processes=True,
    applies=lambda subject: follows_predictions(subject) or unreachable(subject),
    autograd=False,
)
def any_device(subject: Subject) -> None:
    answer = asked(subject)
    if answer["unsupported"]:
        raise NotApplicable(answer["unsupported"])
    if answer["device"]:
        raise Violation(f"With the sample on a GPU it fails:\n{answer['device']}")
