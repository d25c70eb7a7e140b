"""Modules that act otherwise for the length of a `with` block, in the thread that entered it alone.

diffusers' own hooks carry it: one hook for each module, however many threads change it at once, since its registry loses a
hook whose predecessor is taken off first. When the last block ends, the module is as it was before.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import attrs
from torch.nn import Module

from guidance_core.errors import ConfigurationError

Forward = Callable[..., Any]
Action = Callable[[Forward, tuple[Any, ...], dict[str, Any]], Any]
"Gets a module's own forward and the arguments of a call, and returns what the call returns."

NAME = "guidance_core"
"Of the hook, in the registry of a module."

_ACTIVE: ContextVar[Mapping[Module, Action]] = ContextVar("guidance_core_switches", default={})
"What the modules do in this thread."


@attrs.define
class _Use:
    """A module with a hook."""

    blocks: int
    "How many blocks use it."
    had_registry: bool
    had_forward: bool
    "Whether it had an attribute `forward` of its own, as a module with other hooks has."


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
    from diffusers.hooks import HookRegistry

    with _lock:
        use = _used.get(module)
        if use is None:
            use = _Use(0, hasattr(module, "_diffusers_hook"), "forward" in vars(module))
            HookRegistry.check_if_exists_or_initialize(module).register_hook(_switch_class()(), NAME)
            _used[module] = use
        use.blocks += 1


def _release(module: Module) -> None:
    with _lock:
        use = _used[module]
        use.blocks -= 1
        if use.blocks > 0:
            return
        del _used[module]
        registry: Any = module._diffusers_hook
        registry.remove_hook(NAME, recurse=False)
        if not registry.hooks:  # diffusers leaves both behind
            if not use.had_forward:
                vars(module).pop("forward", None)
            if not use.had_registry:
                vars(module).pop("_diffusers_hook", None)


@functools.cache
def _switch_class() -> Any:
    """Return the class of the hook that does what the thread wants, or nothing; diffusers is imported only here."""
    from diffusers.hooks import ModelHook

    class Switch(ModelHook):  # type: ignore[misc]
        def new_forward(self, module: Module, *args: Any, **kwargs: Any) -> Any:
            forward = self.fn_ref.original_forward
            action = _ACTIVE.get().get(module)
            return forward(*args, **kwargs) if action is None else action(forward, args, kwargs)

    return Switch
