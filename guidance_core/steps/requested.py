"""What the plugins ask for in a step, in the stack's order and through its wrappers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import attrs

from guidance_core.errors import (
    PluginError,
)
from guidance_core.methods.hooks import Hook, Implementation, around
from guidance_core.methods.requests import Amend, Branch, Hold, Needs, Request
from guidance_core.methods.step import Step


def asked_of(hooks: Mapping[str, Hook], steps: Mapping[str, Step]) -> list[Request]:
    """Return what the plugins ask for, in the stack's order, each request marked with its plugin.

    A plugin that asks for nothing is off: its other hooks are not called in this step.
    """
    asked: list[Request] = []
    off: set[str] = set()
    for implementation in hooks["build_branches"].plain:
        result = implementation(steps[implementation.plugin])
        mine = [] if result is None else _marked(implementation, result)
        asked += mine
        if not mine:
            off.add(implementation.plugin)
    acting = [
        found.plugin for name in ("combine", "postprocess") for found in (*hooks[name].plain, *hooks[name].wrappers)
    ]
    stating = {request.plugin for request in asked if isinstance(request, Needs)}
    asked += [Needs(plugin=name) for name in dict.fromkeys(acting) if name not in stating | off]
    return asked


def through_wrappers(
    wrappers: Sequence[Implementation], steps: Mapping[str, Step], asked: list[Request]
) -> list[Request]:
    """Pass what was asked through the wrappers, the last of which is the outermost."""
    if not wrappers:
        return list(asked)
    *inside, wrapper = wrappers
    inner = partial(through_wrappers, inside, steps, asked)
    result = around(wrapper, (steps[wrapper.plugin],), inner)()
    marked = _marked(wrapper, result)
    own = [new for old, new in zip(result, marked, strict=True) if new is not old and isinstance(new, Needs)]
    return [
        request
        for request in marked
        if not own
        or not isinstance(request, Needs)
        or request.plugin != wrapper.plugin
        or any(request is new for new in own)
    ]


def _marked(implementation: Implementation, result: Any) -> list[Request]:
    if not isinstance(result, (list, tuple)):
        raise implementation.wrong("a list of Branch, Amend, Needs and Hold", result)
    marked: list[Request] = []
    for request in result:
        if not isinstance(request, Branch | Amend | Needs | Hold):
            raise implementation.wrong("a list of Branch, Amend, Needs and Hold", request)
        marked.append(request if request.plugin else attrs.evolve(request, plugin=implementation.plugin))
    return marked


def held_outputs(requests: Sequence[Request], outputs: tuple[str, ...]) -> frozenset[str]:
    """Return the outputs that a plugin wants to keep their last x0, or raise `PluginError` for an unknown one."""
    held: set[str] = set()
    for request in requests:
        if isinstance(request, Hold):
            unknown = set(request.outputs or ()) - set(outputs)
            if unknown:
                raise PluginError(
                    f"plugin {request.plugin!r} holds {', '.join(sorted(unknown))}; "
                    f"the run's outputs are {', '.join(outputs)}."
                )
            held |= set(outputs if request.outputs is None else request.outputs)
    return frozenset(held)
