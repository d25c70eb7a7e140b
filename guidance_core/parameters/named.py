"""The schedules that specs, JSON and TOML can name."""

from __future__ import annotations

from collections.abc import Mapping

from guidance_core.parameters.curves import Beta, Exponential
from guidance_core.parameters.phases import Counted, Phases
from guidance_core.parameters.schedules import Cosine, Linear, Table, Within

SCHEDULES: Mapping[str, type] = {
    "beta": Beta,
    "cosine": Cosine,
    "counted": Counted,
    "exponential": Exponential,
    "linear": Linear,
    "phases": Phases,
    "table": Table,
    "within": Within,
}
