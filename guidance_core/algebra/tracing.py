"""Keeping torch.compile out of the library: a step is bookkeeping in Python, and tracing it gains nothing.

torch.compile splits a function that calls the library. The library runs as it is, and so does the denoiser it calls; a
model that is compiled itself stays compiled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import torch
from torch.compiler import is_compiling

P = ParamSpec("P")
R = TypeVar("R")


def untraced(function: Callable[P, R]) -> Callable[P, R]:
    """Have a function run as it is where torch.compile traces its caller."""

    @functools.wraps(function)
    def called(*arguments: P.args, **named: P.kwargs) -> R:
        return outside(function, arguments, named) if is_compiling() else function(*arguments, **named)

    return called


def outside(function: Callable[..., R], arguments: tuple[Any, ...], named: Mapping[str, Any]) -> R:
    """Call a function without tracing it, from one that torch.compile traces."""
    result: R = torch.compiler.disable(_call)(function, arguments, named)  # type: ignore[no-untyped-call]
    return result


def _call(function: Callable[..., R], arguments: tuple[Any, ...], named: Mapping[str, Any]) -> R:
    return function(*arguments, **named)
