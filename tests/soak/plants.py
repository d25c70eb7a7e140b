"""Mistakes in the library, made on purpose on one rank, to see that the search finds them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch

from guidance_core import Run, run
from guidance_core.executors.distributed import DistributedExecutor

VICTIM = 1
"The rank that has the mistake."
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _ulp() -> Any:
    """One number of one branch's prediction is off by one unit in the last place."""
    collect = DistributedExecutor.collect

    def collected(self: Any, plan: Any, predictions: Any) -> Any:
        for given in predictions.values():
            for branch in list(given)[-1:]:
                given[branch] = given[branch].clone()
                given[branch].view(BITS[given[branch].element_size()]).view(-1)[0] += 1
        return collect(self, plan, predictions)

    return mock.patch.object(DistributedExecutor, "collect", collected)


def _state() -> Any:
    """What plugins keep lasts although the step failed."""
    results_of, give_up = run.results_of, Run._give_up
    kept: dict[Any, Any] = {}

    def noted(plan: Any, *given: Any) -> Any:
        results, state = results_of(plan, *given)
        kept.clear()
        kept[plan] = state
        return results, state

    def committed(self: Any, plan: Any, error: BaseException) -> None:
        self._state = kept.pop(plan, self._state)
        give_up(self, plan, error)

    patches = contextlib.ExitStack()
    patches.enter_context(mock.patch.object(run, "results_of", noted))
    patches.enter_context(mock.patch.object(Run, "_give_up", committed))
    return patches


def _confirm() -> Any:
    """A rank does not confirm that it has combined a step."""
    return mock.patch.object(DistributedExecutor, "confirm")


PLANTS = {"ulp": _ulp, "state": _state, "confirm": _confirm}


@contextlib.contextmanager
def planted(name: str, rank: int) -> Iterator[None]:
    """Have the mistake of that name inside the block, on the rank that has it."""
    if name and rank == VICTIM:
        with PLANTS[name]():
            yield
    else:
        yield
