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
    "Whether it moves the prediction away from c without another method, so that there is something to correct."
    sets: str = ""
    "What it sets: of two that set the same, one may leave the other nothing to do."


def usual(*conditions: str, acts_alone: bool = True, sets: str = "", **parameters: Any) -> Usual:
    """Write down how one method is tried."""
    return Usual(parameters, conditions, acts_alone, sets)


# Lines for methods that do not ship do no harm: what is tried is what ships.
USUAL: Mapping[str, Usual] = {
    "apg": usual(momentum=-0.5, threshold=2.0),
    "cads": usual(acts_alone=False),
    "cfg": usual(scale=3.0),
    "cfg-zero-star": usual(),
    "dual": usual("image"),
    "gate": usual(acts_alone=False),
    "interval": usual(acts_alone=False, lo=0.4, hi=0.8),
    "ltx2": usual(cfg_scale=3.0, stg_scale=1.0, modality_scale=1.0, rescale_scale=0.7, stg_blocks=(2,)),
    "mambo-g": usual(),
    "multi-condition": usual("extra"),
    "nag": usual(acts_alone=False),
    "normalize": usual(acts_alone=False, sets="norm", limit=0.9),
    "perp-neg": usual("empty"),
    "renorm": usual(acts_alone=False, sets="norm"),
    "renorm-text": usual("image", "text", sets="norm"),
    "rescale": usual(acts_alone=False),
    "s2": usual(count=6),
    "slg": usual(blocks=(1,), start=0.0, stop=1.0),
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
