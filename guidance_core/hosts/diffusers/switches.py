"""Modules that act otherwise for the length of a `with` block, in the thread that entered it alone.

diffusers' own hooks carry it: one for each module, however many threads change it at once, since diffusers' registry
loses a hook whose predecessor is taken off first. When the last block ends, the module is as it was before.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import attrs
from torch.nn import Module

from guidance_core.errors import ConfigurationError

Forward = Callable[..., Any]
Action = Callable[[Forward, tuple[Any, ...], dict[str, Any]], Any]
"Gets a module's own forward and the arguments of a call, and returns what the call returns."

NAME = "guidance_core"
"Of the hook, in the registry of a module."

_ACTIVE: ContextVar[Mapping[Module, Action]] = ContextVar("guidance_core_switches", default=MappingProxyType({}))
"What the modules do in this thread."


@attrs.define
class _Use:
    """A module with a hook."""

    registry: Any
    had: frozenset[str]
    "The attributes that it had before."
    blocks: int = 0
    "How many blocks use it."


_used: dict[Module, _Use] = {}
_lock = threading.Lock()


@contextlib.contextmanager
def switched(actions: Mapping[Module, Action]) -> Iterator[None]:
    """Have modules do something else when they are called inside the block, in this thread.

    Raises:
        ConfigurationError: one of them does so already, in this thread.
    """
    outer = _ACTIVE.get()
    if any(module in outer for module in actions):
        raise ConfigurationError("this model is perturbed already, in this thread; end the block that does so first.")
    with contextlib.ExitStack() as undone:
        for module in actions:
            _hold(module)
            undone.callback(_release, module)
        token = _ACTIVE.set({**outer, **actions})
        try:
            yield
        finally:
            _ACTIVE.reset(token)


def _hold(module: Module) -> None:
    hooks: Any = importlib.import_module("diffusers.hooks")
    with _lock:
        use = _used.get(module)
        if use is None:
            had = frozenset(vars(module))
            use = _Use(hooks.HookRegistry.check_if_exists_or_initialize(module), had)
            use.registry.register_hook(_switch_class()(), NAME)
            _used[module] = use
        use.blocks += 1


def _release(module: Module) -> None:
    with _lock:
        use = _used[module]
        use.blocks -= 1
        if use.blocks:
            return
        del _used[module]
        use.registry.remove_hook(NAME, recurse=False)
        if not use.registry.hooks:  # diffusers leaves its registry, and the module's own forward as an attribute
            left = [name for name, value in vars(module).items() if value is use.registry or name == "forward"]
            for name in set(left) - use.had:
                del vars(module)[name]


@functools.cache
def _switch_class() -> Any:
    """Return the class of the hook that does what the thread wants, or nothing; diffusers is imported only here."""
    hooks: Any = importlib.import_module("diffusers.hooks")

    class Switch(hooks.ModelHook):  # type: ignore[misc]
        def new_forward(self, module: Module, *args: Any, **kwargs: Any) -> Any:
            forward = self.fn_ref.original_forward
            action = _ACTIVE.get().get(module)
            return forward(*args, **kwargs) if action is None else action(forward, args, kwargs)

    return Switch
