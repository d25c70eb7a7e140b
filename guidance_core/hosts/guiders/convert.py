"""From a guider's configuration to the stack that does the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from guidance_core.discovery import plugin_class
from guidance_core.errors import ConfigurationError, UnknownNameError, brief, suggest
from guidance_core.guidance import Guidance
from guidance_core.hosts.guiders.config import GuiderConfig
from guidance_core.hosts.guiders.rows import ROWS, Table

OUTPUTS = ("video", "audio")


def guidance_of(config: Mapping[str, Any], *, audio: Mapping[str, Any] | None = None) -> Guidance:
    """Return the stack that guides as one of diffusers' guiders does, step by step.

    Windows are shares of the steps, rounded down to whole steps as diffusers rounds them, so that the stack is right
    for every number of steps. A guider that is not enabled is the empty stack.

    Args:
        config: the guider's configuration, as `guider_config.json` holds it.
        audio: that of the audio guider, of an LTX-2 pipeline.

    Raises:
        UnknownNameError: the guider, or one of its parameters, is not known.
        ConfigurationError: a value cannot be converted, or a method is not installed.
    """
    made = _stack(config)
    if audio is not None:
        made = _both(made, _stack(audio), _guider(config), _guider(audio))
    return Guidance.from_dict({"guidance": made})


def _guider(config: Mapping[str, Any]) -> str:
    """Return the class that a configuration names."""
    name = config.get("_class_name")
    if not isinstance(name, str):
        raise ConfigurationError(
            "this is not a guider's configuration: it has no _class_name. diffusers writes one as guider_config.json."
        )
    if name not in ROWS:
        raise UnknownNameError(f"no stack is known for the guider {brief(name)}.{suggest(name, ROWS)}")
    return name


def _stack(config: Mapping[str, Any]) -> list[Table]:
    name = _guider(config)
    row = ROWS[name]
    given = {key: value for key, value in config.items() if not key.startswith("_")}
    for key in given:
        if key not in row.defaults:
            raise UnknownNameError(f"{name} has no parameter {brief(key)} here.{suggest(key, row.defaults)}")
    checked = GuiderConfig(name, {**row.defaults, **given})
    for method in row.methods:
        try:
            plugin_class(method)
        except UnknownNameError:
            raise ConfigurationError(f"{name} is the method {method!r} here, which is not installed.") from None
    made = row.stack(checked)
    return made if checked.flag("enabled") else []


def _both(video: list[Table], audio: list[Table], first: str, second: str) -> list[Table]:
    """Return the stack of LTX-2's two guiders, with values for each output where they differ."""
    if (first, second) != ("LTX2Guidance", "LTX2Guidance"):
        raise ConfigurationError(f"only an LTX2Guidance has an audio guider beside it; got {first} and {second}.")
    if not video or not audio:
        raise ConfigurationError("one of the two guiders is not enabled; convert the other one alone.")
    if video[1:] != audio[1:]:
        raise ConfigurationError("the two guiders have different windows, which one stack cannot have.")
    # The perturbed pass is one forward of the model, whose blocks are those of the video guider.
    scales = [name for name in video[0] if name.endswith("_scale")]
    pairs = {name: dict(zip(OUTPUTS, (video[0][name], audio[0][name]), strict=True)) for name in scales}
    return [{**video[0], **pairs}, *video[1:]]
