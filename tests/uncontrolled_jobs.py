"""Runs without control exchanges, and payloads that do not come."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from given_jobs import forward, right, said, sample, start
from rank_jobs import EXECUTORS

from guidance_core import RankLostError


def apart(group: Any, name: str, kind: str, odd: int) -> tuple[str, float, bool]:
    """Do something else on one rank after two steps; the error, the seconds it took, and whether the next is right."""
    executor, here = EXECUTORS[name](group, control=False), group.rank() == odd
    run, other = start(executor), start(executor)
    for step in (0, 1):
        assert right(run, step, sample(step))
        assert right(other, step, sample(step))
    x, begun = sample(2), time.monotonic()

    def fails(branch: Any) -> torch.Tensor:
        raise OSError("broken on purpose")

    def narrow(branch: Any) -> torch.Tensor:
        return forward(x)(branch).half()

    match kind:
        case "another step":
            error = said(lambda: run.step(3 if here else 2, x, forward(x)))
        case "another run":
            error = said(lambda: (other if here else run).step(2, x, forward(x)))
        case "another evaluation":
            error = said(lambda: run.step(1 if here else 2, x, forward(x), sigma=0.5))
        case "a failure":
            error = said(lambda: run.step(2, x, fails if here else forward(x)))
        case "another dtype":
            error = said(lambda: run.step(2, x, narrow))
        case "another dtype on one rank":
            error = said(lambda: run.step(2, x, narrow if here else forward(x)))
    seconds = time.monotonic() - begun
    return error, seconds, right(run, 3, sample(3))


def broadcast(group: Any, odd: int) -> list[tuple[str, bool]]:
    """Have one rank be elsewhere while a single rank has a branch."""
    run, found = start(EXECUTORS["all_gather"](group, control=False), []), []
    for step in (0, 1):
        run.step(step, sample(step), forward(sample(step)))
    for step in (2, 3):
        mine = 5 - step if group.rank() == odd else step
        error = said(lambda mine=mine, step=step: run.step(mine, sample(step), forward(sample(step))))
        found.append((error.partition(":")[0], "step 3 of run" in error))
    return found


def smaller(group: Any, name: str, odd: int) -> tuple[str, float]:
    """Give one rank a smaller sample; the error and the seconds. Gloo would end the process that gets too much."""
    run = start(EXECUTORS[name](group, control=False))
    for step in (0, 1):
        run.step(step, sample(step), forward(sample(step)))
    x = sample(2)[:1] if group.rank() == odd else sample(2)
    begun = time.monotonic()
    return said(lambda: run.step(2, x, forward(x))), time.monotonic() - begun


def hung(group: Any, name: str, victim: int, ready: str) -> tuple[list[Any], float]:
    """Have the victim hang in an announced payload, to which another rank comes late; which ranks are named, twice."""

    class Hangs(EXECUTORS[name]):
        def _move(self, plan: Any, *given: Any) -> None:
            if getattr(plan, "index", 0) == 2 and self.rank == victim:
                Path(ready).touch()
                time.sleep(600)  # it is killed before
            super()._move(plan, *given)

    run = start(Hangs(group))
    for step in (0, 1):
        run.step(step, sample(step), forward(sample(step)))
    x, begun = sample(2), time.monotonic()

    def slow(branch: Any) -> torch.Tensor:
        if group.rank() == group.size() - 1:
            time.sleep(2.0)
        return forward(x)(branch)

    errors: list[tuple[tuple[int, ...], str]] = []
    seconds = 0.0
    for _ in range(2):  # the group stays unusable, for the same reason
        try:
            run.step(2, x, slow)
        except RankLostError as error:
            errors.append((error.ranks, str(error)))
        seconds = seconds or time.monotonic() - begun
    return errors, seconds


def waits_for_ever(group: Any, folder: str) -> None:
    """Say which process this is; then wait in a collective, or outside one."""
    Path(folder, f"{group.rank()}").write_text(str(os.getpid()))
    if group.rank() == 0:
        time.sleep(600)
    dist.barrier(group)


def loses_another_group(group: Any, victim: int) -> tuple[str, bool]:
    """Have a denoiser raise that a group of its own lost a rank; the error, and whether the next step is right."""
    run, x = start(EXECUTORS["all_gather"](group)), sample()

    def denoise(branch: Any) -> torch.Tensor:
        if group.rank() == victim:
            raise RankLostError("rank 3 of 4 does not answer")
        return forward(x)(branch)

    return said(lambda: run.step(0, x, denoise)), right(run, 0, x)
