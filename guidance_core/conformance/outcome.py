"""What became of a check."""

from __future__ import annotations

from typing import Any

import attrs

from guidance_core.conformance.case import Case
from guidance_core.conformance.registry import Check
from guidance_core.conformance.violation import Place

PASSED, FAILED, NOT_APPLICABLE, SKIPPED = "passed", "failed", "not applicable", "skipped"
EXPECTED_FAILURE, UNEXPECTED_PASS = "failed as expected", "passed unexpectedly"


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
