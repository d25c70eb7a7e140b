"""The whole measurement: each host on two ranks of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from guidance_core.bench.hosts.on_ranks import observe
from guidance_core.bench.hosts.report import HostRow, HostsReport
from guidance_core.bench.hosts.subjects import SUBJECTS
from guidance_core.errors import ConfigurationError, RankError
from guidance_core.ranks import Ranks

RANKS = 2
WARM_UP = 1


def measure(rounds: int, only: Sequence[str] = (), *, tiny: bool = False) -> HostsReport:
    """Time runs of every host, or of those in `only`; `rounds` of each contender.

    Args:
        rounds: how many runs of each contender are timed, after one that is not.
        only: names of hosts.
        tiny: whether models cost next to nothing, so that what is left is what guidance costs.

    Raises:
        ConfigurationError: a host is not known.
    """
    for name in only:
        if name not in SUBJECTS:
            raise ConfigurationError(f"no host {name!r} is measured; there is {', '.join(SUBJECTS)}.")
    load = round(os.getloadavg()[0], 2)
    rows = tuple(_row(name, tiny, rounds) for name in only or SUBJECTS)
    return HostsReport(str(torch.__version__), load, round(os.getloadavg()[0], 2), rounds, rows)


def _row(name: str, tiny: bool, rounds: int) -> HostRow:
    # hosts have processes of their own: what one of them changes in torch or in the imports ends with it
    try:
        with Ranks(RANKS) as ranks:
            found = ranks.run(observe, name, tiny, rounds, WARM_UP)
    except RankError as error:
        return HostRow.nothing(name, f"fails: {str(error).strip().splitlines()[-1]}")
    return HostRow.of(found)
