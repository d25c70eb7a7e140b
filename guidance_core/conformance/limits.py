"""A clock that stops what hangs."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

from guidance_core.errors import ConfigurationError


class TooLate(BaseException):
    """The time limit of a check has passed. No error of the kind that a plugin catches with `except Exception`."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TooLate` inside the block once `seconds` have passed, and again each second: a bare `except` may eat it.

    In the main thread only.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    runs = True

    def late(*_: object) -> None:
        if runs:
            raise TooLate

    before, started = signal.signal(signal.SIGALRM, late), time.monotonic()
    left, interval = 0.0, 0.0
    try:
        left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
        try:
            yield
        finally:
            runs = False  # from here on it is too late to be too late
    finally:
        runs = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:  # somebody else's clock, such as that of a test runner, goes on
            signal.setitimer(signal.ITIMER_REAL, max(0.001, left - (time.monotonic() - started)), interval)


@contextlib.contextmanager
def imported_within(seconds: float, what: str) -> Iterator[None]:
    """Raise `ConfigurationError` if what is imported and made inside the block does not come to an end.

    Args:
        seconds: that it may take.
        what: it is called in the error.
    """
    try:
        with time_limit(seconds):
            yield
    except TooLate:
        raise ConfigurationError(f"{what} cannot be imported and made within {seconds:g} s, the time limit.") from None
