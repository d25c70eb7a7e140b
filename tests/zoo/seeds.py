"""Whether each mistake is found whatever the seed: the check that is meant for it, under many seeds."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from guidance_core.conformance import Options
from guidance_core.conformance.checks import check_named
from guidance_core.conformance.outcome import FAILED
from guidance_core.conformance.runner import run_check
from zoo.everything import ZOO
from zoo.matrix import be_quick


def missing(number: int, seeds: Sequence[int]) -> list[int]:
    """Return the seeds under which the mistake of one entry is missed."""
    be_quick()
    entry = ZOO[number]
    check = check_named(entry.caught_by)
    with entry.installed():
        subject = entry.subject
        return [seed for seed in seeds if run_check(check, subject, Options(seed=seed, replay=False)).status != FAILED]


def missed(names: Sequence[str], seeds: Sequence[int], processes: int = 2) -> Iterator[tuple[str, str, list[int]]]:
    """Yield each mistake, the check meant for it, and the seeds under which it is missed.

    Args:
        names: classes of the zoo; none for all.
        seeds: to try each with.
        processes: how many mistakes are tried at once.
    """
    numbers = [number for number, entry in enumerate(ZOO) if not names or entry.cls.__name__ in names]
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for number, found in zip(numbers, pool.map(partial(missing, seeds=seeds), numbers), strict=True):
            yield ZOO[number].cls.__name__, ZOO[number].caught_by, found
