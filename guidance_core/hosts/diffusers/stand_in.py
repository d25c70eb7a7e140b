"""What a pipeline finds in the place of its model while it is guided: all of the model, but for its calls."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any


class StandIn:
    """Passes everything on to a model, but for calls.

    The model itself is not touched, so that others who use it are not disturbed, and what is done to it in the
    meantime (hooks of an offloading pipeline, for example) stays.
    """

    def __init__(self, model: Any, called: Callable[..., Any]) -> None:
        """Stand in for a model.

        Args:
            model: the model.
            called: called in its place.
        """
        object.__setattr__(self, "_model", model)
        object.__setattr__(self, "_called", called)
        object.__setattr__(self, "_context", (None, {}))

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Have the call answered."""
        called = object.__getattribute__(self, "_called")
        return (called or object.__getattribute__(self, "_model"))(*arguments, **named)

    @contextlib.contextmanager
    def cache_context(self, name: str, **facts: Any) -> Iterator[None]:
        """Note which pass the pipeline believes to make; each branch gets a context of its own."""
        object.__setattr__(self, "_context", (name, facts))
        try:
            yield
        finally:
            object.__setattr__(self, "_context", (None, {}))

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The model's class, so that a pipeline which asks finds a model."""
        return type(object.__getattribute__(self, "_model"))

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_model"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(object.__getattribute__(self, "_model"), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(object.__getattribute__(self, "_model"), name)

    def __repr__(self) -> str:
        return repr(object.__getattribute__(self, "_model"))


def context_of(stand_in: Any) -> tuple[str | None, Mapping[str, Any]]:
    """Return the name of the cache context that a pipeline entered, and what it said besides."""
    context: tuple[str | None, Mapping[str, Any]] = object.__getattribute__(stand_in, "_context")
    return context


def retire(stand_in: Any) -> None:
    """Have a stand-in pass calls on too, since somebody may have kept it; and let go of what it answered with."""
    object.__setattr__(stand_in, "_called", None)
