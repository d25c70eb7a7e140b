"""Which step may follow which."""

from __future__ import annotations

from collections.abc import Set
from operator import index as as_index
from typing import Any

from torch import Tensor

from guidance_core.errors import ConfigurationError, brief
from guidance_core.methods.moment import States
from guidance_core.steps.program import Program


def checked_index(given: Any, count: int) -> int:
    """Return the index of a step as an int.

    Raises:
        ConfigurationError: it is not a whole number, or the run has no such step.
    """
    is_far = isinstance(given, Tensor) and (given.device.type != "cpu" or given.ndim != 0)
    try:
        if isinstance(given, bool) or is_far or str(getattr(given, "dtype", "")).endswith("bool"):
            raise TypeError
        number = as_index(given)
    except Exception:
        hint = " Pass int(index)." if is_far else ""
        raise ConfigurationError(f"a step index must be a whole number; got {brief(given)}.{hint}") from None
    if not 0 <= number < count:
        hint = " That looks like a timestep; the index counts the steps." if number > count else ""
        raise ConfigurationError(
            f"step {brief(number, 40)} is out of range: the run has {count} steps, 0 to {count - 1}.{hint}"
        )
    return number


def check_may_turn(program: Program, last: int, index: int, states: States, kept: Set[str]) -> None:
    """Raise `ConfigurationError` where a run cannot go from one step to another that does not follow it.

    What a plugin keeps is that of the steps made so far, in their order. So a run in which something is kept makes its
    steps in order, unless every plugin that keeps something declares `any_order = True`.

    Args:
        program: of the run.
        last: the step made last.
        index: the step to make.
        states: what plugins keep in the run.
        kept: the outputs whose last x0 is kept for steps that hold them.
    """
    plugins = program.stack.plugins
    keeping = [
        f"plugin {name!r} keeps values"
        for name, by_output in states.items()
        if any(by_output.values()) and not getattr(type(plugins[name]), "any_order", False)
    ]
    keeping += [f"the last x0 of {', '.join(sorted(kept))} is kept"] if kept else []
    if not keeping:
        return
    following = "" if last + 1 == program.settings.count else f"step {last + 1}, or "
    raise ConfigurationError(
        f"step {index} cannot follow step {last}: {' and '.join(keeping)} from step to step, up to step {last}. "
        f"Make {following}step {last} again as its next evaluation, or start a new run, which may begin at any step."
    )
