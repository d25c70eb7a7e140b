"""The parameters that each shipped method is tried with; what is not listed is the class's default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from torch import Tensor

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
    spares: bool = False
    "Whether it spares passes of others, so that there must be some."
    differentiates: bool = False
    "Whether it needs gradients through the model, which executors of several ranks refuse."


def likely(x: Tensor, sigma: float) -> Tensor:
    """Return what stands for a classifier: log p of each sample, `[B]`, larger for dark ones."""
    return (-x).sigmoid().flatten(1).sum(1)


def far(x0: Tensor) -> Tensor:
    """Return a loss of each estimate, `[B]`: how far its mean is from a half."""
    return 10 * (x0.flatten(1).mean(1) - 0.5) ** 2


def usual(
    *conditions: str,
    acts_alone: bool = True,
    sets: str = "",
    spares: bool = False,
    differentiates: bool = False,
    **parameters: Any,
) -> Usual:
    """Write down how one method is tried."""
    return Usual(parameters, conditions, acts_alone, sets, spares, differentiates)


USUAL: Mapping[str, Usual] = {
    "adaptive": usual(acts_alone=False, spares=True, threshold=0.9),
    "apg": usual(momentum=-0.5, threshold=2.0),
    "apg-mix": usual(start_step=2),
    "autoguidance": usual(blocks=(2, 3)),
    "cads": usual(acts_alone=False),
    "cfg": usual(scale=3.0),
    "cfg-plus-plus": usual(weight=0.8),
    "cfg-zero-star": usual(),
    "classifier": usual(log_prob=likely, scale=0.5),
    "dual": usual("image"),
    "dynamic-thresholding": usual(),
    "ep-cfg": usual(acts_alone=False),
    "fdg": usual(),
    "fresca": usual(),
    "gate": usual(acts_alone=False, spares=True),
    "icg": usual(),
    "interval": usual(acts_alone=False, lo=0.4, hi=0.8),
    "ltx2": usual(cfg_scale=3.0, stg_scale=1.0, modality_scale=1.0, rescale_scale=0.7, stg_blocks=(2,)),
    "m-swg": usual(),
    "mambo-g": usual(),
    "momentum": usual(acts_alone=False),
    "multi-condition": usual("extra"),
    "nag": usual(acts_alone=False),
    "normalize": usual(acts_alone=False, sets="norm", limit=0.9),
    "pag": usual(blocks=(3,)),
    "perp-neg": usual("empty"),
    "renorm": usual(acts_alone=False, sets="norm", form="channel"),
    "rounded-cfg": usual(),
    "renorm-text": usual("image", "text", sets="norm"),
    "rescale": usual(acts_alone=False),
    "s2": usual(count=4),
    "seg": usual(),
    "skimmed": usual(),
    "slg": usual(blocks=(1,), start=0.0, stop=1.0),
    "smc-cfg": usual(),
    "softpag": usual(),
    "stg": usual(blocks=(3,)),
    "swg": usual(),
    "tag": usual(acts_alone=False),
    "tcfg": usual(),
    "tpg": usual(),
    "tsg": usual(),
    "universal": usual(differentiates=True, loss=far),
}

POINTLESS: Mapping[tuple[str, str], str] = {
    ("adaptive", "icg"): "`icg` runs no pass with the condition `negative`, which `adaptive` compares with c.",
    ("adaptive", "renorm-text"): "as above; `condition=text` gives `adaptive` something to compare.",
}
"Pairs of which one method has nothing to do, with the reason."

NAMES = tuple(sorted(SHIPPED[PLUGINS]))
CONDITIONS = tuple(sorted({name for each in USUAL.values() for name in each.conditions} | {"negative", "positive"}))


def of(name: str) -> Usual:
    """Return how a method is tried; with its defaults if nothing is written down."""
    return USUAL.get(name, Usual())


def made(name: str) -> Any:
    """Return the plugin."""
    return plugin_class(name)(**of(name).parameters)
