"""Real ranks for tests: processes with Gloo between them that live on, are fed work, and may be killed.

with Ranks(3) as ranks:
    results = ranks.run(function, *arguments)   # function(group, *arguments) on every rank
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from typing import Any

from guidance_core import ranks as processes

tallies: dict[str, list[float]] = {}
"What parallel examples showed: how many, the largest error in units of its bound, and in bf16 ulps."


def tally(what: str, found: Iterable[Any]) -> None:
    """Note one parallel example for the summary at the end of the tests."""
    kept = tallies.setdefault(what, [0, 0.0, 0.0])
    kept[0] += 1
    for rank in found:
        kept[1] = max(kept[1], rank.in_bounds)
        kept[2] = max(kept[2], rank.ulps)


class RankError(Exception):
    """A function raised on a rank; its traceback is in the message."""


class Ranks(processes.Ranks):
    """Ranks that outlive a job that fails. `run(..., ranks=k)` uses the first k, in a group of their own."""

    def __init__(self, size: int, *, timeout: float = 60.0) -> None:
        super().__init__(size, seconds=timeout)
        self._started = 0

    def start(self, function: Any, *arguments: Any, ranks: int | None = None) -> None:
        """Have the first `ranks` call `function(group, *arguments)`."""
        self._started = ranks or self.size
        for pipe in self._pipes[: self._started]:
            pipe.send((function, self._started, arguments))

    def results(self, *, seconds: float = 120.0, dead: tuple[int, ...] = ()) -> list[Any]:
        """Return what every rank's function returned; None for the ranks in `dead`."""
        until = time.monotonic() + seconds
        found: list[Any] = [None] * self._started
        errors = []
        for rank in range(self._started):
            if rank in dead:
                continue
            if not self._pipes[rank].poll(max(0.0, until - time.monotonic())):
                self.close(kill=True)  # a late answer must not be taken for the next job's
                raise RankError(f"rank {rank} hangs: nothing for {seconds:g} s")
            succeeded, value = self._pipes[rank].recv()
            if succeeded:
                found[rank] = value
            else:
                errors.append(f"rank {rank}:\n{value}")
        if errors:
            raise RankError("\n".join(errors))
        return found

    def run(self, function: Any, *arguments: Any, ranks: int | None = None) -> list[Any]:
        """Call and wait."""
        self.start(function, *arguments, ranks=ranks)
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
