"""One row for each guider of diffusers: its parameters with their defaults, and the stack that does the same.

A stack is plain data, as `Guidance.from_dict` takes it. Read in diffusers 0.42.1, `diffusers/guiders`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import attrs

from guidance_core.errors import ConfigurationError
from guidance_core.hosts.guiders.config import GuiderConfig, Span

Table: TypeAlias = dict[str, Any]
"One plugin: its name and its parameters."

RUN: Mapping[str, Any] = {"start": 0.0, "stop": 1.0, "enabled": True}
FORM: Mapping[str, Any] = {"guidance_rescale": 0.0, "use_original_formulation": False, **RUN}


@attrs.frozen
class Row:
    """How one guider is converted."""

    methods: tuple[str, ...]
    "The plugins that do the same; the first gives it its name."
    defaults: Mapping[str, Any]
    "Its parameters."
    stack: Callable[[GuiderConfig], list[Table]]
    "Makes the stack of an enabled guider."


def form_of_cfg(method: str, parameters: Callable[[GuiderConfig], Table], **defaults: Any) -> Row:
    """Return the row of a guider that is a form of classifier-free guidance: one scale, one window, rescale."""

    def stack(config: GuiderConfig) -> list[Table]:
        table = {"plugin": method, "scale": _scale(config), **parameters(config)}
        return [table, *_rescale(config), *_interval(config.span())]

    return Row((method,), {**defaults, **FORM}, stack)


def perturbed(
    method: str, named: Callable[[str], str], parameters: Callable[[GuiderConfig], Table], **defaults: Any
) -> Row:
    """Return the row of a guider that adds w·(c − p) to classifier-free guidance, each in a window of its own.

    Args:
        method: the plugin of the second part.
        named: gives the guider's name of `scale`, `start` and `stop` of the second part.
        parameters: what else the plugin is given.
        defaults: the guider's parameters beside those that all have.
    """

    def stack(config: GuiderConfig) -> list[Table]:
        scale, weight = _scale(config), config.number(named("scale"))
        outer = config.span()
        inner = config.span(named("start"), named("stop"), ends="inside")
        parts: list[Table] = []
        guides = not math.isclose(scale, 1.0)
        if guides:
            parts.append({"plugin": "cfg", "scale": scale})
        moved = {"plugin": method, **parameters(config)}
        in_outer = ["cfg"] if guides else []
        if math.isclose(weight, 0.0):
            moved = {}
        elif config.flag("use_original_formulation") or (guides and inner.lies_in(outer)):
            parts.append({**moved, "scale": weight})
        else:  # without the first part the guider counts from p
            parts.append({**moved, "scale": round(weight - 1, 12)})
            if guides:
                parts.append({**moved, "scale": 1.0})
                in_outer.append(f"{method}#2")
        windows = _interval(outer, in_outer) if in_outer else []
        windows += _interval(inner, [method]) if moved else []
        return [*parts, *_rescale(config), *windows]

    return Row((method, "cfg"), {"guidance_scale": 7.5, **defaults, **FORM}, stack)


def _scale(config: GuiderConfig, name: str = "guidance_scale") -> float:
    """Return s of c + (s − 1)·d; the original formulation is c + s·d."""
    return round(config.number(name) + config.flag("use_original_formulation"), 12)


def _rescale(config: GuiderConfig) -> list[Table]:
    phi = config.number("guidance_rescale")
    return [{"plugin": "rescale", "phi": phi}] if phi > 0 else []


def _interval(span: Span, methods: list[str] | None = None) -> list[Table]:
    """Return the window as a plugin, for some methods or all; nothing where it holds every step."""
    if span.is_whole:
        return []
    table = {"plugin": "interval", "lo": span.start, "hi": span.stop, "by": "fraction", "ends": span.ends}
    return [{**table, "methods": methods} if methods else table]


def _apg(config: GuiderConfig, *, over: bool = True) -> Table:
    momentum = config.values["adaptive_projected_guidance_momentum"]
    dims = config.values["adaptive_projected_guidance_norm_dim"] if over else None
    extent = {"over": "sample" if dims is None else [dims] if isinstance(dims, int) else dims}
    return {
        "eta": config.number("eta"),
        "momentum": 0.0 if momentum is None else config.number("adaptive_projected_guidance_momentum"),
        "threshold": max(0.0, config.number("adaptive_projected_guidance_rescale")),
        **(extent if over else {}),
        "form": "paper" if config.flag("use_original_formulation") else "diffusers",
        "space": None,
    }


def _apg_mix(config: GuiderConfig) -> list[Table]:
    first, later = _scale(config), _scale(config, "adaptive_projected_guidance_scale")
    if math.isclose(first, 1.0):  # then the second part is off too
        table: Table = {"plugin": "cfg", "scale": 1.0}
    elif math.isclose(later, 1.0):  # then the first part goes on
        table = {"plugin": "cfg", "scale": first}
    else:
        start = config.whole("adaptive_projected_guidance_start_step")
        parts = _apg(config, over=False)
        table = {"plugin": "apg-mix", "scale": first, "apg_scale": later, "start_step": start, **parts}
    return [table, *_rescale(config), *_interval(config.span())]


def _fdg(config: GuiderConfig) -> list[Table]:
    scales = [round(each + config.flag("use_original_formulation"), 12) for each in config.numbers("guidance_scales")]
    rescale, starts, stops = (config.numbers(name) for name in ("guidance_rescale", "start", "stop"))
    if config.values["guidance_rescale_space"] not in ("data", "freq"):
        raise config.wrong("guidance_rescale_space", "data or freq")
    if config.values["guidance_rescale_space"] == "freq" and any(each > 0 for each in rescale):
        raise ConfigurationError(
            f"{config.guider}: guidance_rescale_space=freq rescales each band, which no method here does; use data."
        )
    for name, each in (("start", starts), ("stop", stops)):
        if len(set(each)) != 1:
            raise ConfigurationError(
                f"{config.guider}: {name} gives bands windows of their own, which no method here has; give one number."
            )
    table: Table = {
        "plugin": "fdg",
        "scales": scales,
        "parallel": [1.0] if config.values["parallel_weights"] is None else config.numbers("parallel_weights"),
        "form": "paper" if config.flag("use_original_formulation") else "diffusers",
        "space": None,
    }
    one = GuiderConfig(config.guider, {**config.values, "start": starts[0], "stop": stops[0]})
    corrected = [{"plugin": "rescale", "phi": rescale[0]}] if rescale and rescale[0] > 0 else []
    return [table, *corrected, *_interval(one.span())]


def _autoguidance(config: GuiderConfig) -> Table:
    hooks = "auto_guidance_config"
    whole_blocks = {"skip_attention": (True, True), "skip_ff": (True, True), "skip_attention_scores": (False, False)}
    blocks = config.layers("auto_guidance_layers", hooks, **whole_blocks)
    dropout = config.number("dropout") if config.values[hooks] is None else config.of_hooks(hooks, "dropout", 1.0)
    return {"blocks": blocks, "dropout": dropout, "form": "diffusers"}


def _pag(config: GuiderConfig) -> Table:
    identity = {
        "skip_attention": (True, False),
        "skip_attention_scores": (False, True),
        "skip_ff": (True, False),
        "dropout": (1.0, 1.0),
    }
    return {"blocks": config.layers("perturbed_guidance_layers", "perturbed_guidance_config", **identity)}


def _seg(config: GuiderConfig) -> Table:
    blocks = config.layers("seg_guidance_layers", "seg_guidance_config")
    return {"blocks": blocks, "sigma": config.number("seg_blur_sigma")}


def _ltx2(config: GuiderConfig) -> list[Table]:
    blocks = config.values["spatio_temporal_guidance_blocks"]
    table = {
        "plugin": "ltx2",
        "cfg_scale": config.number("guidance_scale"),
        "stg_scale": config.number("stg_scale"),
        "modality_scale": config.number("modality_scale"),
        "rescale_scale": max(0.0, config.number("guidance_rescale")),
        "stg_blocks": [] if blocks is None or blocks == [] else config.indices("spatio_temporal_guidance_blocks"),
    }
    return [table, *_interval(config.span())]


def _slg(config: GuiderConfig) -> Table:
    whole_blocks = {"skip_attention": (True, True), "skip_ff": (True, True), "dropout": (1.0, 1.0)}
    blocks = config.layers("skip_layer_guidance_layers", "skip_layer_config", **whole_blocks)
    return {"blocks": blocks, "start": 0.0, "stop": 1.0}  # `interval` has its window


ROWS: Mapping[str, Row] = {
    "AdaptiveProjectedGuidance": form_of_cfg(
        "apg",
        _apg,
        guidance_scale=7.5,
        adaptive_projected_guidance_momentum=None,
        adaptive_projected_guidance_rescale=15.0,
        adaptive_projected_guidance_norm_dim=None,
        eta=1.0,
    ),
    "AdaptiveProjectedMixGuidance": Row(
        ("apg-mix", "cfg"),
        {
            "guidance_scale": 3.5,
            "adaptive_projected_guidance_scale": 10.0,
            "adaptive_projected_guidance_momentum": -0.5,
            "adaptive_projected_guidance_rescale": 10.0,
            "eta": 0.0,
            "adaptive_projected_guidance_start_step": 5,
            **FORM,
        },
        _apg_mix,
    ),
    "AutoGuidance": form_of_cfg(
        "autoguidance",
        _autoguidance,
        guidance_scale=7.5,
        auto_guidance_layers=None,
        auto_guidance_config=None,
        dropout=None,
    ),
    "ClassifierFreeGuidance": form_of_cfg("cfg", lambda _: {}, guidance_scale=7.5),
    "ClassifierFreeZeroStarGuidance": form_of_cfg(
        "cfg-zero-star",
        lambda config: {"zero_steps": config.whole("zero_init_steps")},
        guidance_scale=7.5,
        zero_init_steps=1,
    ),
    "FrequencyDecoupledGuidance": Row(
        ("fdg",),
        {
            "guidance_scales": [10.0, 5.0],
            "parallel_weights": None,
            "guidance_rescale_space": "data",
            "upcast_to_double": True,
            **FORM,
        },
        _fdg,
    ),
    "LTX2Guidance": Row(
        ("ltx2",),
        {
            "guidance_scale": 1.0,
            "stg_scale": 0.0,
            "modality_scale": 1.0,
            "guidance_rescale": 0.0,
            "spatio_temporal_guidance_blocks": None,
            **RUN,
        },
        _ltx2,
    ),
    "MagnitudeAwareGuidance": form_of_cfg(
        "mambo-g", lambda config: {"alpha": config.number("alpha")}, guidance_scale=10.0, alpha=8.0
    ),
    "PerturbedAttentionGuidance": perturbed(
        "pag",
        "perturbed_guidance_{}".format,
        _pag,
        perturbed_guidance_scale=2.8,
        perturbed_guidance_start=0.01,
        perturbed_guidance_stop=0.2,
        perturbed_guidance_layers=None,
        perturbed_guidance_config=None,
    ),
    "SkipLayerGuidance": perturbed(
        "slg",
        "skip_layer_guidance_{}".format,
        _slg,
        skip_layer_guidance_scale=2.8,
        skip_layer_guidance_start=0.01,
        skip_layer_guidance_stop=0.2,
        skip_layer_guidance_layers=None,
        skip_layer_config=None,
    ),
    "SmoothedEnergyGuidance": perturbed(
        "seg",
        "seg_guidance_{}".format,
        _seg,
        seg_guidance_scale=2.8,
        seg_blur_sigma=9999999.0,
        seg_blur_threshold_inf=9999.0,
        seg_guidance_start=0.0,
        seg_guidance_stop=1.0,
        seg_guidance_layers=None,
        seg_guidance_config=None,
    ),
    "TangentialClassifierFreeGuidance": form_of_cfg("tcfg", lambda _: {}, guidance_scale=7.5),
}
"By the guider's class, which its configuration names."
