"""What a run was started with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs


@attrs.frozen(eq=False)
class RunSettings:
    """What a run was started with, checked."""

    conditions: Mapping[str, Mapping[str, Any] | None] | None
    sigmas: Mapping[str | None, tuple[float, ...]]
    "By output; under None where all outputs share one list."
    alphas: tuple[float, ...] | None
    prediction_type: str
    outputs: tuple[str, ...] | None
    check_finite: bool
