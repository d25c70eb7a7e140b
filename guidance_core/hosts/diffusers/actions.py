"""What a module of a model does instead of what it does: a block is skipped, an attention changed or left out."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn import Module
from torch.overrides import TorchFunctionMode

from guidance_core.errors import DenoiserError
from guidance_core.hosts.diffusers.switches import Action, Forward

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
Change = Callable[[Tensor, Tensor, Tensor, Attend], Tensor]
"Gets query, key and value `[B, heads, tokens, C]`, and what torch makes of such; returns the same shape as the query."

OPERATION = torch.nn.functional.scaled_dot_product_attention
NAMES = ("query", "key", "value")


def attending(module: Module, change: Change, name: str) -> Action:
    """Return what an attention does with a change.

    Args:
        module: the attention.
        change: what becomes of its first call of torch's attention; further ones, of image prompts, stay.
        name: of the block, for messages.
    """

    def act(forward: Forward, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        with _Changing(change, f"the self-attention of {name} ({type(module).__name__})") as mode:
            made = forward(*arguments, **named)
        if not mode.is_done:
            raise DenoiserError(
                f"{mode.name} cannot be changed: its processor {type(getattr(module, 'processor', None)).__name__} "
                "does not use torch's scaled_dot_product_attention. Choose another with set_attn_processor(), or "
                "set_attention_backend('native')."
            )
        return made

    return act


class _Changing(TorchFunctionMode):
    """Changes the first attention that torch is asked for inside the block."""

    def __init__(self, change: Change, name: str) -> None:
        super().__init__()
        self.change, self.name = change, name
        self.is_done = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not OPERATION or self.is_done:
            return func(*args, **kwargs)
        self.is_done = True
        given = dict(zip(NAMES, args, strict=False)) | {name: kwargs[name] for name in NAMES if name in kwargs}
        query, key, value = (given[name] for name in NAMES)
        if query.shape[-2] != key.shape[-2]:
            raise DenoiserError(
                f"{self.name} has {query.shape[-2]} queries and {key.shape[-2]} keys, so that it is not one of tokens "
                "among themselves, and cannot be changed."
            )
        rest = args[len(NAMES) :], {name: each for name, each in kwargs.items() if name not in NAMES}

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            made: Tensor = func(query, key, value, *rest[0], **rest[1])
            return made

        return self.change(query, key, value, attend)


@attrs.define
class Seen:
    """The inputs of the model's call that is going on."""

    inputs: dict[str, Any] = attrs.field(factory=dict)


def noting(module: Module, seen: Seen) -> Action:
    """Return what a model does whose inputs are noted."""

    def act(forward: Forward, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        seen.inputs = given(module, arguments, named)
        try:
            return forward(*arguments, **named)
        finally:
            seen.inputs = {}

    return act


def after(change: Callable[[Any], Any]) -> Action:
    """Return what a module does whose result is changed."""

    def act(forward: Forward, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return change(forward(*arguments, **named))

    return act


def before(module: Module, name: str, change: Callable[[Tensor], Tensor]) -> Action:
    """Return what a module does that is given another tensor as its argument `name`."""

    def act(forward: Forward, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        all_given = given(module, arguments, named)
        return forward(**{**all_given, name: change(all_given[name])})

    return act


def both(inner: Action | None, outer: Action) -> Action:
    """Return what a module does that does two things."""
    if inner is None:
        return outer

    def act(forward: Forward, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return outer(lambda *args, **kwargs: inner(forward, args, kwargs), arguments, named)

    return act


def values(query: Tensor, key: Tensor, value: Tensor, attend: Attend) -> Tensor:
    """Each token gets its own value: the attention map is the identity."""
    heads = query.shape[-3]  # grouped queries share a value
    return value if value.shape[-3] == heads else value.repeat_interleave(heads // value.shape[-3], dim=-3)


def skipping(module: Module, returned: tuple[str, ...]) -> Action:
    """Return what a block does that is skipped: its results are its inputs, in its own order."""

    def act(forward: Forward, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        inputs = given(module, arguments, named)
        made = tuple(inputs[name] for name in returned)
        return made if len(made) > 1 else made[0]

    return act


def blind(module: Module) -> Action:
    """Return what an attention does that sees nothing: it adds zeros."""

    def act(forward: Forward, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return torch.zeros_like(given(module, arguments, named)["hidden_states"])

    return act


def given(module: Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a module's call by the names that its class gives them."""
    kind: Any = type(module)
    bound = _signature(kind).bind(None, *arguments, **named)
    bound.apply_defaults()
    found = dict(bound.arguments)
    found.pop(next(iter(found)))
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            found |= found.pop(name)
    return found


@functools.cache
def _signature(kind: Any) -> inspect.Signature:
    return inspect.signature(kind.forward)
