"""A method gives the same result where outputs are split into pieces, as under sequence parallelism."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from guidance_core.conformance.case import Case, Host
from guidance_core.conformance.case_runs import ROUNDING_ONLY, Results, agree
from guidance_core.conformance.registry import check
from guidance_core.conformance.strategies import cases
from guidance_core.conformance.subject import Subject
from guidance_core.conformance.violation import Violation
from guidance_core.errors import PluginError
from guidance_core.methods.split import Split

PIECES = 2
DIM = 1


class _Threads(Split):
    """Pieces that threads of one process hold."""

    def __init__(self, outputs: tuple[str, ...], rank: int, barrier: threading.Barrier, shared: list[Any]) -> None:
        super().__init__(dict.fromkeys(outputs, DIM), {}, rank, PIECES)
        self._barrier = barrier
        self._shared = shared

    def exchange(self, parts: Tensor) -> Tensor:
        """Put the parts where all threads see them."""
        self._shared[self.rank] = parts
        self._barrier.wait(timeout=20)
        gathered = torch.stack(self._shared)
        self._barrier.wait(timeout=20)
        return gathered


def _pieces(tensor: Tensor) -> list[Tensor]:
    """Return the pieces that stand for a tensor of the case: itself, and one with another mean and spread."""
    return [tensor, 0.5 - 1.5 * tensor]


def _made(subject: Subject, case: Case, cut: Callable[[Tensor], Tensor], **settings: Any) -> Results:
    run = subject.start(case, **settings)
    results = []
    for step, levels in case.moments:
        host = Host(case, step)

        def changed(value: Any) -> Any:
            return case.structured({name: cut(tensor) for name, tensor in case.named(value).items()})

        def denoise(branch: Any, host: Host = host, changed: Callable[[Any], Any] = changed) -> Any:
            return changed(host(branch))

        results.append(case.named(run.step(step, changed(case.sample(step)), denoise, **levels)))
    return results


@check(
    "pieces-equal-the-whole",
    "Where outputs are pieces of longer ones, on the ranks of another group, each piece of the result is that of the "
    "whole: statistics are formed with `step.measure` and `reference.measure`. A method that looks at whole tensors "
    "declares `shardable = False`.",
    draw=cases(steps=(1, 2), dtypes=("float64",), smallest=2),
    applies=lambda subject: (
        None if getattr(subject.cls, "shardable", True) else "it looks at whole tensors (shardable = False)"
    ),
    share=0.5,
    differentiating=False,
)
def pieces_equal_the_whole(subject: Subject, case: Case) -> None:
    whole = _made(subject, case, lambda tensor: torch.cat(_pieces(tensor), dim=DIM), seeds=1)
    barrier, shared = threading.Barrier(PIECES), [None] * PIECES

    def own(rank: int) -> Results:
        shards = _Threads(case.names, rank, barrier, shared)
        try:
            return _made(subject, case, lambda tensor: _pieces(tensor)[rank], seeds=1, shards=shards)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(PIECES) as threads:
        waiting = [threads.submit(own, rank) for rank in range(PIECES)]
        errors = [each.exception() for each in waiting]
    error = next((each for each in errors if each and not isinstance(each, threading.BrokenBarrierError)), None)
    if isinstance(error, PluginError):
        raise Violation(f"With pieces it raises: {error}") from error
    if error is not None:
        raise error
    for rank, each in enumerate(waiting):
        expected = [{name: tensor.chunk(PIECES, dim=DIM)[rank] for name, tensor in step.items()} for step in whole]
        agree(
            each.result(),
            expected,
            f"Piece {rank} of {PIECES} has another result than in the whole: it may form a statistic of its own piece. "
            "Use step.measure(Std(), guided) in place of std(guided).",
            ulps=ROUNDING_ONLY,
        )
