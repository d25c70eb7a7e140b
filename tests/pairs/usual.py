"""The parameters that each shipped method is tried with; what is not listed is the class's default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from guidance_core.discovery import plugin_class
from guidance_core.discovery.shipped import PLUGINS, SHIPPED

BENEATH = "cfg"
"Stands beneath methods that act on others only."


@attrs.frozen
class Usual:
    """How one method is tried."""

    parameters: Mapping[str, Any] = attrs.field(factory=dict)
    conditions: tuple[str, ...] = ()
    "What it needs beside `positive` and `negative`."
    acts_alone: bool = True
    "Whether it does anything without another method."


def usual(*conditions: str, acts_alone: bool = True, **parameters: Any) -> Usual:
    """Write down how one method is tried."""
    return Usual(parameters, conditions, acts_alone)


USUAL: Mapping[str, Usual] = {
    "apg": usual(momentum=-0.5, threshold=2.0),
    "cfg": usual(scale=3.0),
    "cfg-zero-star": usual(),
    "gate": usual(acts_alone=False),
    "interval": usual(acts_alone=False, lo=0.4, hi=0.8),
    "ltx2": usual(cfg_scale=3.0, stg_scale=1.0, modality_scale=1.0, rescale_scale=0.7, stg_blocks=(2,)),
    "mambo-g": usual(),
    "normalize": usual(acts_alone=False, limit=0.9),
    "rescale": usual(acts_alone=False),
    "stg": usual(blocks=(3,)),
    "tcfg": usual(),
}

NAMES = tuple(sorted(SHIPPED[PLUGINS]))
CONDITIONS = tuple(sorted({name for each in USUAL.values() for name in each.conditions} | {"negative", "positive"}))


def of(name: str) -> Usual:
    """Return how a method is tried; with its defaults if nothing is written down."""
    return USUAL.get(name, Usual())


def made(name: str) -> Any:
    """Return the plugin."""
    return plugin_class(name)(**of(name).parameters)
