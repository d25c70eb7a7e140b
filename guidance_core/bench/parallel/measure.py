"""The whole measurement: timed on two ranks, counted on more."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from guidance_core.bench.parallel.jobs import COUNTED, FORWARDS, FOUR, RANKS, SERIAL, THREE, TINY
from guidance_core.bench.parallel.on_ranks import observe, observe_overhead
from guidance_core.bench.parallel.report import Outcome, ParallelReport
from guidance_core.bench.parallel.savings import observe_savings, savings_of
from guidance_core.bench.parallel.summary import by_contender, line_of, overhead_of, timed_outcome
from guidance_core.bench.parallel.targets import targets_of
from guidance_core.hosts.ltx2 import SMALL, Sizes, small_transformer
from guidance_core.ranks import Ranks


def measure(
    rounds: int,
    *,
    sizes: Sizes = SMALL,
    warmup: int = 2,
    overhead_rounds: int = 200,
    counted: Sequence[int] = COUNTED,
) -> ParallelReport:
    """Time on two ranks and count on more.

    Raises:
        ConfigurationError: diffusers is not installed.
        RankError: a rank failed or died.
    """
    small_transformer(TINY)  # says what is missing before anything starts
    load = round(os.getloadavg()[0], 2)
    imports = ["diffusers.models.transformers.transformer_ltx2"]
    with Ranks(RANKS, imports=imports) as ranks:
        timed = tuple(
            timed_outcome(job, rounds, ranks.run(observe, job, sizes, rounds, warmup, ranks=RANKS))
            for job in (FOUR, THREE)
        )
        saved = savings_of(ranks.run(observe_savings, sizes, max(rounds // 5, 2), ranks=RANKS), max(rounds // 5, 2))
        overhead = overhead_of(ranks.run(observe_overhead, FOUR, sizes, overhead_rounds, ranks=RANKS), timed[0])
    with Ranks(max(counted), imports=imports) as ranks:
        more = tuple(
            Outcome(
                job.title,
                tuple(line_of(name, seen) for name, seen in by_contender(found) if name not in (SERIAL, FORWARDS)),
            )
            for job in (FOUR, THREE)
            for count in counted
            for found in [ranks.run(observe, job, TINY, 1, 0, ranks=count)]
        )
    return ParallelReport(
        torch.__version__,
        load,
        sizes.grid.tokens,
        timed,
        overhead,
        saved,
        more,
        targets_of(timed, more, overhead, saved),
    )
