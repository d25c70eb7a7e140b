"""What the measuring ranks are given in tests: functions that processes can import."""

from __future__ import annotations

import os
import signal
import time


def ids(group):
    return os.getpid()


def fails(group, rank):
    """Raise on one rank while the others wait."""
    if group.rank() == rank:
        raise ValueError("on purpose")
    time.sleep(60)


def dies(group, rank):
    if group.rank() == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def waits(group):
    time.sleep(60)


def cannot_travel(group):
    return lambda: None
