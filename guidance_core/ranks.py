"""Processes with Gloo between them on this machine, that live on and are fed work.

    with Ranks(2) as ranks:
        results = ranks.run(function, *arguments)   # function(group, *arguments) on every rank

Each has one thread, and keeps the memory it frees as device allocators do. They go away with the block,
whether it ends, fails or is interrupted.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import multiprocessing
import os
import signal
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from guidance_core.errors import ConfigurationError, RankFailedError, RankLostError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"Parameters of glibc's `mallopt`."


class Ranks:
    """`size` processes in one Gloo group. `run(..., ranks=k)` uses the first k, in a group of their own."""

    def __init__(self, size: int, *, imports: Sequence[str] = (), seconds: float = 300.0) -> None:
        """Start them.

        Args:
            size: how many.
            imports: further modules that every rank will need; one that is missing is passed over.
            seconds: how long a collective may wait for a rank before the group gives up.
        """
        self.size = size
        self._folder = tempfile.TemporaryDirectory(prefix="guidance-core-ranks-")
        store = Path(self._folder.name, "store").as_uri()
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        if "forkserver" not in multiprocessing.get_all_start_methods():
            raise ConfigurationError("several processes are started by a fork server, which this system does not have.")
        context = multiprocessing.get_context("forkserver")
        # What every rank needs is imported once, in the process that they are forked from.
        context.set_forkserver_preload(["torch.distributed", "guidance_core", "guidance_plugins", *imports])
        try:
            for rank in range(size):
                here, there = context.Pipe()
                process = context.Process(target=_serve, args=(there, rank, size, store, seconds), daemon=True)
                process.start()
                there.close()
                self._pipes.append(here)
                self._processes.append(process)
        except BaseException:
            self.close(kill=True)
            raise

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(kill=kind is not None)

    def run(self, function: Callable[..., Any], *arguments: Any, ranks: int | None = None) -> list[Any]:
        """Call `function(group, *arguments)` on the first `ranks` ranks and return what each returned.

        Raises:
            RankFailedError: it raised on a rank. All processes are ended.
            RankLostError: a process died. All others are ended.
        """
        count = ranks or self.size
        waiting = {pipe: rank for rank, pipe in enumerate(self._pipes[:count])}
        results: list[Any] = [None] * count
        try:
            for pipe in waiting:
                pipe.send((function, count, arguments))
            while waiting:
                for ready in wait(list(waiting)):
                    assert isinstance(ready, Connection)
                    rank = waiting.pop(ready)
                    succeeded, value = ready.recv()
                    if not succeeded:
                        raise RankFailedError(f"rank {rank} of {count} failed:\n{value}")
                    results[rank] = value
        except (EOFError, OSError):
            self.close(kill=True)
            raise RankLostError(f"a process of {count} ranks died without an error of its own.") from None
        except BaseException:
            self.close(kill=True)
            raise
        return results

    def close(self, *, kill: bool = False) -> None:
        """End the processes: asked first, unless `kill`."""
        until = time.monotonic() + (0.0 if kill else 5.0)
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
        for process in self._processes:
            if not kill:
                process.join(max(0.0, until - time.monotonic()))
            if process.exitcode is None:
                process.kill()
        for process in self._processes:
            process.join()
        for pipe in self._pipes:
            pipe.close()
        self._pipes, self._processes = [], []
        self._folder.cleanup()


def _serve(pipe: Connection, rank: int, size: int, store: str, seconds: float) -> None:
    """Take jobs until there are no more, or nobody is left to give any."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    os.dup2(2, 1)  # what is printed here is not the answer of the process that started this one
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    _keep_freed_memory()
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    os.environ["GLOO_SOCKET_IFNAME"] = loopback
    timeout = datetime.timedelta(seconds=seconds)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size, timeout=timeout)
    groups = {count: dist.new_group(range(count), timeout=timeout) for count in range(1, size)} | {
        size: dist.group.WORLD
    }
    with contextlib.suppress(EOFError, OSError):
        while (job := pipe.recv()) is not None:
            function, count, arguments = job
            try:
                answer = True, function(groups[count], *arguments)
            except Exception:
                answer = False, traceback.format_exc()
            pipe.send(answer)
    dist.destroy_process_group()


def _keep_freed_memory() -> None:
    """Have glibc hand nothing back: page faults of large activations would be part of every forward."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
