"""The ranks that checks share: started when first needed, replaced when broken, ended with the process."""

from __future__ import annotations

import atexit
import functools
import sys
from collections.abc import Callable
from typing import Any

from guidance_core.ranks import Ranks

TIMEOUT = 20.0
"Seconds that a collective waits for a rank."

_most = 1
"As many are started as will be asked for."
_pool: Ranks | None = None
_path: tuple[str, ...] = ()
"Where the ranks look for modules: what `sys.path` was when they were started."


def expect(ranks: int) -> None:
    """Have as many ranks started, once some are needed."""
    global _most
    _most = ranks


def run(function: Callable[..., Any], *arguments: Any, ranks: int, **named: Any) -> list[Any]:
    """Call `function(group, *arguments, **named)` on `ranks` ranks and return what each returned.

    Raises:
        RankError: a rank died, or the function raised there.
    """
    global _pool, _path
    if _pool is None or _pool.size < ranks or _path != tuple(sys.path):
        close()
        _pool, _path = Ranks(max(ranks, _most), timeout=TIMEOUT), tuple(sys.path)
        atexit.register(close)
    try:
        return _pool.run(functools.partial(function, **named), *arguments, ranks=ranks)
    except BaseException:
        _pool = None  # it has ended all its processes
        raise


def close() -> None:
    """End the processes."""
    global _pool
    if _pool is not None:
        _pool.close()
        _pool = None
    atexit.unregister(close)
