"""How thoroughly to check, and what became of a check."""

from __future__ import annotations

from typing import Any

import attrs

from guidance_core.conformance.case import Case
from guidance_core.conformance.registry import Check
from guidance_core.conformance.violation import Place
from guidance_core.errors import ConfigurationError

PASSED, FAILED, NOT_APPLICABLE, SKIPPED = "passed", "failed", "not applicable", "skipped"
EXPECTED_FAILURE, UNEXPECTED_PASS = "failed as expected", "passed unexpectedly"


@attrs.frozen
class Options:
    """How thoroughly to check."""

    max_examples: int = 20
    "For a check of average cost; costly ones make fewer."
    seed: int | None = None
    "Of the random choice of examples; None for another choice each time."
    ranks: int = 4
    "The most ranks that checks of several processes use; 0 leaves those checks out."
    time_limit: float = 60.0
    "Seconds that one check may take."
    replay: bool = True
    "Whether failing examples are kept in `.hypothesis` and tried first the next time."

    def __attrs_post_init__(self) -> None:
        if self.max_examples < 1:
            raise ConfigurationError(f"max_examples must be at least 1; got {self.max_examples}.")
        if self.ranks < 0 or self.ranks > 8:
            raise ConfigurationError(f"ranks must be 0 (none) to 8; got {self.ranks}.")
        if not self.time_limit > 0:
            raise ConfigurationError(f"time_limit must be positive; got {self.time_limit}.")


@attrs.frozen
class Failure:
    """The smallest example found for which a promise does not hold."""

    what: str
    "What happened, in a sentence or two."
    place: Place | None = None
    case: Case | None = None
    ranks: int | None = None
    trace: str = ""
    "The end of the traceback, where the plugin raised."
    hangs: bool = False
    "Whether the time limit passed."


@attrs.frozen
class Outcome:
    """What became of one check."""

    check: Check
    subject: Any = attrs.field(repr=False)
    status: str
    reason: str = ""
    examples: int = 0
    seconds: float = 0.0
    failure: Failure | None = None

    @property
    def is_bad(self) -> bool:
        """Whether it counts as a failure of the whole."""
        return self.status in (FAILED, UNEXPECTED_PASS)
