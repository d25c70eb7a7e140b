"""Starting ranks for the command: its own processes, or those that torchrun started."""

from __future__ import annotations

import contextlib
import datetime
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist

from guidance_core.discovery import executor_class
from guidance_core.errors import ConfigurationError
from guidance_core.executors.base import Executor

TIMEOUT = datetime.timedelta(seconds=60)
"How long ranks wait for one that does not answer."


def torchrun_size() -> int | None:
    """Return how many ranks torchrun started, or None where it did not start this process."""
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys() else None


def check_ranks(ranks: int) -> None:
    """Raise `ConfigurationError` unless this machine can be expected to start so many ranks."""
    most = max(8, 4 * (os.cpu_count() or 1))
    if ranks < 1:
        raise ConfigurationError(f"--ranks must be at least 1; got {ranks}.")
    if ranks > most:
        raise ConfigurationError(
            f"--ranks {ranks} is more than this machine can start: at most {most} for {os.cpu_count()} processors."
        )


def check_executor(name: str, ranks: int) -> None:
    """Raise `ConfigurationError` unless an executor of that name exists and can use so many ranks."""
    cls = executor_class(name)
    if ranks == 1:
        return
    chooses = issubclass(cls, Executor) and cls.for_run is not Executor.for_run
    shares = issubclass(cls, Executor) and cls.place is not Executor.place
    if not chooses and not shares:
        raise ConfigurationError(
            f"the executor {name!r} does all the work in one process, so {ranks} ranks would each do the same; "
            "use all_gather, all_reduce or auto, or one process."
        )


def use_one_thread() -> None:
    """Compute with one thread: more only get in each other's way in a model this small."""
    torch.set_num_threads(1)


@contextlib.contextmanager
def group(rank: int, size: int, store: str | None = None) -> Iterator[None]:
    """Be one rank of a Gloo group inside the block, with one thread.

    Args:
        rank: this process's rank.
        size: number of ranks.
        store: `file://` address at which the ranks of one machine meet; None for torchrun's environment.
    """
    use_one_thread()
    dist.init_process_group("gloo", init_method=store or "env://", rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def run_ranks(function: Callable[..., int], ranks: int, *arguments: Any) -> int:
    """Call `function(rank, ranks, store, *arguments)` in as many new processes; return the exit status.

    The first rank that fails decides the status. When one is killed, the others find out by themselves.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="guidance-core-") as folder:
        store = Path(folder, "store").as_uri()
        return _waited_for(
            [context.Process(target=_call, args=(function, rank, ranks, store, *arguments)) for rank in range(ranks)]
        )


def _waited_for(processes: Sequence[BaseProcess]) -> int:
    try:
        for process in processes:
            process.start()
        waiting = {process.sentinel: process for process in processes}
        status = 0
        while waiting:
            for sentinel in cast(list[int], wait(list(waiting))):
                process = waiting.pop(sentinel)
                process.join()
                code = process.exitcode or 0
                status = status or (code if code >= 0 else 128 - code)
        return status
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
        for process in processes:
            if process.pid is not None:
                process.join()


def _call(function: Callable[..., int], *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the starting process ends its ranks
    raise SystemExit(function(*arguments))
