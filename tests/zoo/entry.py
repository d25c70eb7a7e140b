"""An entry of the zoo: what is broken, how, and the check that is to notice."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from guidance_core import Executor, discovery
from guidance_core.conformance import executor_subject_of, subject_of
from guidance_core.conformance import shared_ranks as shared

SOUND = "\n\n    guided = c + (s − 1)·(c − u)\n\nSource: arXiv:2207.12598, eq. 6."
"What the docstring of a plugin says besides, so that only those fail `documented` that mean to."

ENTRIES: list[Broken] = []


@attrs.frozen
class Broken:
    """A plugin or executor with one mistake."""

    cls: type
    caught_by: str
    "Name of the check that is meant for it."
    mistake: str
    says: tuple[str, ...] = attrs.field(converter=lambda given: (given,) if isinstance(given, str) else given)
    "Words of that check's report, one of which it must have, so that it does not fail for another reason."
    published_as: str = ""
    "The entry point that it is taken to have."
    spoils_ranks: bool = False
    "Whether the processes that ran it cannot be used for another."

    @property
    def kind(self) -> str:
        return "executor" if issubclass(self.cls, Executor) else "plugin"

    @property
    def subject(self) -> Any:
        return executor_subject_of(self.cls) if self.kind == "executor" else subject_of(self.cls)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Have it published inside the block, if it is to be, and its ranks ended with it, if they have to."""
        with contextlib.ExitStack() as stack:
            if self.published_as:
                stack.enter_context(discovery.published(self.published_as, self.cls))
            try:
                yield
            finally:
                if self.spoils_ranks:
                    shared.close()


def broken(caught_by: str, *says: str, mistake: str = "", **more: Any) -> Callable[[type], type]:
    """Add a class to the zoo; its docstring is the mistake, unless that is said beside it."""

    def add(cls: type) -> type:
        text = mistake or inspect.cleandoc(cls.__doc__ or "")
        ENTRIES.append(Broken(cls, caught_by, text, says, **more))
        if not mistake and not issubclass(cls, Executor):
            cls.__doc__ = text + SOUND
        return cls

    return add
