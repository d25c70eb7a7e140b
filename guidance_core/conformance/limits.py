"""A clock that stops what hangs. It counts CPU time, so that a busy machine fails no check; a long wait ends too."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

from guidance_core.errors import ConfigurationError

PATIENCE = 4.0
"Seconds on the wall clock for each second of CPU time: the limit of what sleeps, or waits for other processes."


class TooLate(BaseException):
    """The time limit of a check has passed. No error of the kind that a plugin catches with `except Exception`."""


class Clock:
    """What this thread has computed, and how long it has waited, since the clock was made."""

    def __init__(self) -> None:
        self.cpu, self.wall = time.thread_time(), time.monotonic()

    def is_past(self, seconds: float) -> bool:
        """Whether it has computed for `seconds`, or `PATIENCE` times as long has passed."""
        return time.thread_time() - self.cpu > seconds or time.monotonic() - self.wall > PATIENCE * seconds


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TooLate` inside the block once it has taken `seconds` of CPU time, or `PATIENCE` times that by the clock.

    It is raised again each second: a bare `except` may eat it. In the main thread only.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    runs, clock = True, Clock()

    def late(*_: object) -> None:
        if runs and clock.is_past(seconds):
            raise TooLate

    before = signal.signal(signal.SIGALRM, late)
    left, interval = 0.0, 0.0
    try:
        left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, min(1.0, seconds))
        try:
            yield
        finally:
            runs = False  # from here on it is too late to be too late
    finally:
        runs = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:  # somebody else's clock, such as that of a test runner, goes on
            signal.setitimer(signal.ITIMER_REAL, max(0.001, left - (time.monotonic() - clock.wall)), interval)


@contextlib.contextmanager
def imported_within(seconds: float, what: str) -> Iterator[None]:
    """Raise `ConfigurationError` if what is imported and made inside the block does not come to an end.

    Args:
        seconds: the time limit.
        what: it is called in the error.
    """
    try:
        with time_limit(seconds):
            yield
    except TooLate:
        raise ConfigurationError(f"{what} cannot be imported and made within {seconds:g} s, the time limit.") from None
