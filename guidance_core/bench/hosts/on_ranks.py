"""What one rank does and sees: the contenders of a host make their runs in turn."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
import torch.distributed as dist

from guidance_core.bench.hosts.subject import NotInstalledError, Subject, apart
from guidance_core.bench.hosts.subjects import SUBJECTS
from guidance_core.executors import AllGatherExecutor

OWN, OURS, RANKS = "own", "ours", "ours, 2 ranks"
ALL = ", all threads"
SAVING = ("interval", "gate", "skip_step")


@attrs.frozen
class Contender:
    """One way to make the run."""

    run: Callable[[int], Any]
    threads: int = 1
    on_all: bool = False
    "Whether every rank takes part, or rank 0 alone."


@attrs.frozen
class Seen:
    """What one rank saw of a contender."""

    seconds: tuple[float, ...]
    "Of each run; empty where it took no part."
    rows: int
    "Samples through the model, in a run."
    difference: float
    "Largest relative difference of the first result to that of the host's own guidance."


@attrs.frozen
class SeenHost:
    """What one rank saw of a host, or why there is nothing to see."""

    name: str
    version: str = ""
    steps: int = 0
    specs: Mapping[str, str] = attrs.field(factory=dict)
    seen: Mapping[str, Seen] = attrs.field(factory=dict)
    missing: str = ""


def observe(group: dist.ProcessGroup, host: str, tiny: bool, rounds: int, warmup: int) -> SeenHost:
    """Make the runs of every contender in turn, another one first in each round."""
    warnings.simplefilter("ignore")
    os.environ |= {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}  # before hosts are imported
    try:
        subject = SUBJECTS[host](tiny)
    except NotInstalledError as error:
        return SeenHost(host, missing=str(error))
    contenders = contenders_of(subject, group)
    if tiny:
        contenders = {name: each for name, each in contenders.items() if each.threads == 1}
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    rows: dict[str, int] = {}
    differences: dict[str, float] = {}
    expected: Any = None
    for number in range(warmup + rounds):
        turn = number % len(names)
        order = names if number == 0 else (*names[turn:], *names[:turn])
        for name in order:
            contender = contenders[name]
            takes_part = contender.on_all or group.rank() == 0
            torch.set_num_threads(contender.threads if takes_part else 1)
            dist.barrier(group)
            if not takes_part:
                continue
            before, begun = subject.counted.rows, time.perf_counter()
            made = contender.run(number)
            ended = time.perf_counter()
            if number == 0:
                expected = made if name == OWN else expected
                differences[name] = 0.0 if expected is None else apart(made, expected)
                rows[name] = subject.counted.rows - before
            if number >= warmup:
                seconds[name].append(ended - begun)
    dist.barrier(group)
    torch.set_num_threads(1)
    seen = {name: Seen(tuple(seconds[name]), rows.get(name, 0), differences.get(name, 0.0)) for name in names}
    return SeenHost(subject.name, subject.version, subject.steps, dict(subject.specs), seen)


def contenders_of(subject: Subject, group: dist.ProcessGroup) -> dict[str, Contender]:
    """Return the ways to make a run of a host."""

    def ours(which: str, way: Any) -> Callable[[int], Any]:
        return lambda seed: subject.ours(subject.specs[which], way, seed)

    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = {OWN: Contender(subject.own), OURS: Contender(ours("equal", subject.usual))}
    if subject.other:
        found[f"{OURS}, {subject.other}"] = Contender(ours("equal", subject.other))
    if subject.takes_ranks:
        found[RANKS] = Contender(ours("equal", AllGatherExecutor(group)), on_all=True)
    found |= {name: Contender(ours(name, subject.usual)) for name in SAVING if name in subject.specs}
    found[OWN + ALL] = Contender(subject.own, threads)
    found[OURS + ALL] = Contender(ours("equal", subject.usual), threads)
    return found
