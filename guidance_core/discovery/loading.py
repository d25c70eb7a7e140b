"""Importing what an entry point names, whatever happens in it."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import traceback
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from types import FrameType
from typing import Any

import attrs

from guidance_core.discovery.distributions import Entry
from guidance_core.discovery.shipped import EXECUTORS, PLUGINS
from guidance_core.errors import told

_EXECUTOR = "guidance_core.executors.base:Executor"
_TARGET = re.compile(r"[\w.]+\s*:\s*[\w.]+\s*(\[.*\])?")


@attrs.frozen
class Failure:
    """Why there is no class."""

    why: str


def loaded(entry: Entry) -> type | Failure:
    """Import the class that an entry names, or return why that is not possible.

    Whatever the module raises counts, `SystemExit` and `KeyboardInterrupt` too. What a signal handler of the host
    raises meanwhile (Ctrl-C, a time limit) leaves through here. A module that ends the process (`os._exit`) ends it.
    """
    if not _TARGET.fullmatch(entry.target):
        return Failure(f"{entry.target!r} is not module:attribute")
    try:
        with visible_interrupts():
            found = EntryPoint(entry.name, entry.target, entry.group).load()
            wrong = _wrong(found, entry)
    except BaseException as error:
        if comes_from_a_signal(error):
            raise
        return Failure(told(error))
    return Failure(wrong) if wrong else found


def _wrong(found: Any, entry: Entry) -> str | None:
    """Say why something is not a class that can be used by name; raises what a hostile class raises."""
    if not isinstance(found, type):
        return f"{entry.target} is not a class"
    texts: tuple[Any, ...] = (found.__name__, found.__module__, found.__qualname__, found.__doc__ or "")
    if not all(isinstance(text, str) for text in texts):
        return f"{entry.target} is a class whose name or docstring is not text"
    # A metaclass may raise in each of them.
    _ = hash(found), found == found, isinstance(None, found), getattr(found, "no_class_has_this", None)
    if entry.group == PLUGINS and not (attrs.has(found) and attrs.inspect(found).is_frozen):
        return f"{entry.target} is not a frozen attrs class (@attrs.frozen)"
    if entry.group == EXECUTORS and _EXECUTOR not in (
        f"{base.__module__}:{base.__qualname__}" for base in found.__mro__
    ):
        return f"{entry.target} is not an executor (a subclass of guidance_core.Executor)"
    return None


@contextlib.contextmanager
def visible_interrupts() -> Iterator[None]:
    """Have Ctrl-C raised by a function of Python's, which is seen in the traceback as that of a handler."""
    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _interrupted)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is _interrupted:  # the module may have set its own
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupted(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def comes_from_a_signal(error: BaseException) -> bool:
    """Whether a signal handler raised an error, not the code that it interrupted."""
    handlers = [_interrupted, *map(signal.getsignal, signal.valid_signals())]
    codes = {getattr(getattr(handler, "__func__", handler), "__code__", None) for handler in handlers} - {None}
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(error.__traceback__))
