"""What became of a check."""

from __future__ import annotations

from typing import Any

import attrs

from guidance_core.conformance.case import Case
from guidance_core.conformance.registry import Check
from guidance_core.conformance.violation import Place

PASSED, FAILED, NOT_APPLICABLE = "passed", "failed", "not applicable"


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
    "`passed`, `failed` or `not applicable`."
    reason: str = ""
    "Why it does not apply, or why fewer examples were tried."
    examples: int = 0
    seconds: float = 0.0
    failure: Failure | None = None

    @property
    def is_bad(self) -> bool:
        """Whether the promise does not hold."""
        return self.status == FAILED
