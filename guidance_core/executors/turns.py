"""Whose turn it is on a process group: its collectives have one order, so one thread uses it at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

from guidance_core.errors import ExecutorError

_ADVICE = "Make all runs of a group in one thread, or give each thread a process group and an executor of its own."


class CrowdedError(ExecutorError):
    """Another thread is in a step on the group; that thread informs the others."""


class Turns:
    """The steps of a group that are begun and not ended, all of one thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: WeakSet[Any] = WeakSet()
        self._thread = 0
        self._refused = ""

    def take(self, step: Any) -> None:
        """Begin a step, or go on with one.

        Raises:
            CrowdedError: another thread is in a step.
        """
        mine = threading.get_ident()
        with self._lock:
            if self._thread != mine:
                if any(each is not step for each in self._open):
                    self._refused = threading.current_thread().name
                    raise CrowdedError(
                        f"the thread {self._refused!r} uses a process group while another thread is in a step on it. "
                        f"Their collectives would mix. {_ADVICE}"
                    )
                self._thread = mine
            self._open.add(step)

    def leave(self, step: Any) -> None:
        """End a step."""
        self._open.discard(step)

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Have the turn inside the block, for something other than a step."""
        step = _Step()
        self.take(step)
        try:
            yield
        finally:
            self.leave(step)

    def check(self) -> None:
        """Raise if another thread was refused since, so that this one tells all ranks.

        Raises:
            ExecutorError: one was; how far the other ranks let it come is not known.
        """
        if self._refused:
            refused, self._refused = self._refused, ""
            raise ExecutorError(
                "two threads use one process group at once: "
                f"{threading.current_thread().name!r} is in a step on it, and {refused!r} began another. {_ADVICE}"
            )


class _Step:
    """Stands for something other than a step."""
