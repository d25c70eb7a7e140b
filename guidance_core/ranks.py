"""Ranks on this machine: processes with Gloo between them, that live on and are fed work.

    with Ranks(2) as ranks:
        results = ranks.run(function, *arguments)   # function(group, *arguments) on every rank

Each has one thread, and keeps the memory it frees as device allocators do. They go away with the block,
whether it ends, fails or is interrupted, and with the process that started them, however it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from guidance_core.errors import ConfigurationError, RankFailedError, RankLostError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"Parameters of glibc's `mallopt`."


class Ranks:
    """`size` processes in one Gloo group. `run(..., ranks=k)` uses the first k, in a group of their own."""

    def __init__(
        self,
        size: int,
        *,
        imports: Sequence[str] = (),
        timeout: float = 300.0,
        patience: float | None = None,
        outlives_failures: bool = False,
    ) -> None:
        """Start them.

        Args:
            size: how many.
            imports: further modules that every rank will need; one that is missing is passed over.
            timeout: seconds that a collective may wait for a rank before the group gives up.
            patience: seconds that `run` waits for the ranks' answers; None for as long as it takes.
            outlives_failures: whether the processes go on after a job that raised; by default all are ended at once,
                since the others may wait for the one that failed.
        """
        self.size = size
        self._patience = patience
        self._outlives_failures = outlives_failures
        self._folder = tempfile.TemporaryDirectory(prefix="guidance-core-ranks-")
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        self._busy = 0
        "Ranks that were given a job."
        try:
            context = _context(imports)
            for rank in range(size):
                here, there = context.Pipe()
                process = context.Process(
                    target=_serve, args=(there, rank, size, Path(self._folder.name), timeout), daemon=True
                )
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
            RankFailedError: it raised on a rank.
            RankLostError: a process died, or does not answer in time. All others are ended.
        """
        self.start(function, *arguments, ranks=ranks)
        return self.results(seconds=self._patience)

    def start(self, function: Callable[..., Any], *arguments: Any, ranks: int | None = None) -> None:
        """Have the first `ranks` ranks call `function(group, *arguments)`; `results` waits for them.

        Raises:
            ConfigurationError: there are not so many.
            RankLostError: a process is gone. All others are ended.
        """
        self._busy = ranks or self.size
        if self._busy > self.size:
            raise ConfigurationError(f"{self._busy} ranks are more than the {self.size} that were started.")
        if not self._pipes:
            raise RankLostError(f"the {self.size} processes have ended; start others.")
        try:
            for pipe in self._pipes[: self._busy]:
                pipe.send((function, self._busy, arguments))
        except OSError:
            self.close(kill=True)
            raise RankLostError(f"one of {self.size} processes has ended.") from None

    def results(self, *, seconds: float | None = None, without: Sequence[int] = ()) -> list[Any]:
        """Return what the function returned on every rank, and None for the ranks in `without`.

        Args:
            seconds: how long to wait; None for as long as it takes.
            without: ranks that are known to be gone.

        Raises:
            RankFailedError: it raised on a rank.
            RankLostError: a process died, or does not answer in time. All others are ended.
        """
        until = None if seconds is None else time.monotonic() + seconds
        waiting = {self._pipes[rank]: rank for rank in range(self._busy) if rank not in without}
        results: list[Any] = [None] * self._busy
        failures: dict[int, str] = {}
        try:
            while waiting:
                found = wait(list(waiting), None if until is None else max(0.0, until - time.monotonic()))
                if not found:
                    late = ", ".join(map(str, sorted(waiting.values())))
                    raise RankLostError(f"rank {late} of {self._busy} does not answer within {seconds:g} s.")
                for ready in found:
                    assert isinstance(ready, Connection)
                    rank = waiting.pop(ready)
                    succeeded, packed = ready.recv()
                    value = pickle.loads(packed)
                    if succeeded:
                        results[rank] = value
                        continue
                    failures[rank] = value
                    if not self._outlives_failures:
                        raise _failed(failures, self._busy)
        except (EOFError, OSError):
            self.close(kill=True)
            raise RankLostError(f"a process of {self._busy} ranks died without reporting an error.") from None
        except BaseException:
            self.close(kill=True)  # a late answer must not be taken for the next job's
            raise
        if failures:
            raise _failed(failures, self._busy)
        return results

    def kill(self, rank: int) -> None:
        """Kill one process with SIGKILL."""
        self._processes[rank].kill()

    def leave(self, *, seconds: float = 5.0) -> list[int | None]:
        """Ask all to end; return their exit codes, None for one that does not end in time."""
        until = time.monotonic() + seconds
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
        for process in self._processes:
            process.join(max(0.0, until - time.monotonic()))
        return [process.exitcode for process in self._processes]

    def close(self, *, kill: bool = False) -> None:
        """End the processes: asked first, unless `kill`."""
        if not kill:
            self.leave()
        for process in self._processes:
            if process.exitcode is None:
                process.kill()
        for process in self._processes:
            process.join()
        for pipe in self._pipes:
            pipe.close()
        self._pipes, self._processes = [], []
        self._folder.cleanup()


def _failed(failures: Mapping[int, str], count: int) -> RankFailedError:
    return RankFailedError("\n".join(f"rank {rank} of {count} failed:\n{why}" for rank, why in failures.items()))


def _context(imports: Sequence[str]) -> Any:
    """Return how processes are started: forked from one that has imported what each will need, where that exists."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["guidance_core", "torch.distributed", "guidance_plugins", *imports])
    return context


@contextlib.contextmanager
def torchrun_group(seconds: float = 60.0) -> Iterator[dist.ProcessGroup]:
    """Be one rank of the Gloo group that torchrun started, inside the block, with one thread.

    Args:
        seconds: how long a collective may wait for a rank.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="env://", timeout=datetime.timedelta(seconds=seconds))
    try:
        assert dist.group.WORLD is not None
        yield dist.group.WORLD
    finally:
        dist.destroy_process_group()


def torchrun_size() -> int | None:
    """Return how many ranks torchrun started, or None where it did not start this process."""
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys() else None


def _end_with_parent(folder: Path) -> None:
    """End this process as soon as the one that started it is gone, whatever it does by then.

    A pipe tells: its other end is closed with the process that holds it, also by SIGKILL.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _serve(pipe: Connection, rank: int, size: int, folder: Path, timeout: float) -> None:
    """Take jobs until there are no more, or nobody is left to give any."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    os.dup2(2, 1)  # what is printed here is not the answer of the process that started this one
    torch.set_num_threads(1)
    _keep_freed_memory()
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    os.environ["GLOO_SOCKET_IFNAME"] = loopback
    patience = datetime.timedelta(seconds=timeout)
    store = (folder / "store").as_uri()
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size, timeout=patience)
    groups = {count: dist.new_group(range(count), timeout=patience) for count in range(1, size)} | {
        size: dist.group.WORLD
    }
    with contextlib.suppress(EOFError, OSError):
        while True:
            try:
                job = pipe.recv()
                if job is None:
                    break
                function, count, arguments = job
                answer = True, bytes(ForkingPickler.dumps(function(groups[count], *arguments)))
            except (EOFError, OSError):
                raise
            except Exception:  # of the job, of reading it or of writing its answer
                answer = False, pickle.dumps(traceback.format_exc())
            pipe.send(answer)
    dist.destroy_process_group()


def _keep_freed_memory() -> None:
    """Have glibc hand nothing back: page faults of large activations would be part of every forward."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
