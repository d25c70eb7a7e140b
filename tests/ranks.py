"""Real ranks for tests: processes with Gloo between them that live on and are fed work.

    with Ranks(3) as ranks:
        results = ranks.run(function, *arguments)   # function(group, *arguments) on every rank

The processes are forked from a server that has imported torch once. Each has one thread.
"""

from __future__ import annotations

import contextlib
import datetime
import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Iterable
from multiprocessing.connection import wait
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch", "torch.distributed", "guidance_core", "guidance_plugins"])


tallies: dict[str, list[float]] = {}
"What parallel examples showed: how many, the largest error in units of its bound, and in bf16 ulps."


def tally(what: str, found: Iterable[object]) -> None:
    """Note one parallel example for the summary at the end of the tests."""
    kept = tallies.setdefault(what, [0, 0.0, 0.0])
    kept[0] += 1
    for rank in found:
        kept[1] = max(kept[1], rank.in_bounds)
        kept[2] = max(kept[2], rank.ulps)


class RankError(Exception):
    """A function raised on a rank; its traceback is in the message."""


class Ranks:
    """`size` processes in one Gloo group. `run(..., ranks=k)` uses the first k, in a group of their own."""

    def __init__(self, size: int, *, timeout: float = 60.0, init_method: str | None = None) -> None:
        self.size = size
        method = init_method or f"tcp://127.0.0.1:{_free_port()}"
        self._pipes, self._processes = [], []
        for rank in range(size):
            here, there = _context.Pipe()
            process = _context.Process(target=_serve, args=(there, rank, size, method, timeout), daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, function: Any, *arguments: Any, ranks: int | None = None, each: list[Any] | None = None) -> None:
        """Have the first `ranks` call `function(group, *arguments)`; with `each`, rank r gets `each[r]` as well."""
        count = ranks or self.size
        for rank in range(count):
            extra = () if each is None else (each[rank],)
            self._pipes[rank].send((function, count, (*arguments, *extra)))
        self._started = count

    def results(self, *, seconds: float = 120.0, dead: tuple[int, ...] = ()) -> list[Any]:
        """Return what every rank's function returned; None for the ranks in `dead`."""
        until = time.monotonic() + seconds
        found: list[Any] = [None] * self._started
        errors = []
        for rank in range(self._started):
            if rank in dead:
                continue
            if not self._pipes[rank].poll(max(0.0, until - time.monotonic())):
                raise RankError(f"rank {rank} hangs: nothing for {seconds:g} s")
            ok, value = self._pipes[rank].recv()
            if ok:
                found[rank] = value
            else:
                errors.append(f"rank {rank}:\n{value}")
        if errors:
            raise RankError("\n".join(errors))
        return found

    def run(self, function: Any, *arguments: Any, ranks: int | None = None, each: list[Any] | None = None) -> list[Any]:
        """Call and wait."""
        self.start(function, *arguments, ranks=ranks, each=each)
        return self.results()

    def kill(self, rank: int) -> None:
        """Kill a rank with SIGKILL."""
        self._processes[rank].kill()

    def exit_codes(self, *, seconds: float) -> list[int | None]:
        """Ask all to leave and return their exit codes; None for one that does not leave in time."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
        until = time.monotonic() + seconds
        for process in self._processes:
            process.join(max(0.0, until - time.monotonic()))
        return [process.exitcode for process in self._processes]

    def close(self) -> None:
        self.exit_codes(seconds=5)
        for process in self._processes:
            if process.exitcode is None:
                process.kill()
                process.join()
        for pipe in self._pipes:
            pipe.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _serve(pipe: Any, rank: int, size: int, method: str, timeout: float) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=method, rank=rank, world_size=size, timeout=datetime.timedelta(seconds=timeout)
    )
    groups = {count: dist.new_group(range(count)) for count in range(1, size)} | {size: dist.group.WORLD}
    while True:
        wait([pipe])
        try:
            job = pipe.recv()
        except EOFError:
            break
        if job is None:
            break
        function, count, arguments = job
        try:
            pipe.send((True, function(groups[count], *arguments)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))
    dist.destroy_process_group()
