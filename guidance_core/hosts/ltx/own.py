"""ltx-core's own parameters of guidance as a stack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from guidance_core.discovery import plugin_class
from guidance_core.errors import ConfigurationError, brief
from guidance_core.guidance import Guidance
from guidance_core.hosts.ltx.passes import OUTPUTS
from guidance_core.parameters.values import PerOutput

FIELDS = ("cfg_scale", "stg_scale", "stg_blocks", "rescale_scale", "modality_scale", "skip_step")
OFF: dict[str, Any] = {
    "cfg_scale": 1.0,
    "stg_scale": 0.0,
    "stg_blocks": [],
    "rescale_scale": 0.0,
    "modality_scale": 1.0,
    "skip_step": 0,
}
"Of a modality without a guider."


def stack_of(video: Any = None, audio: Any = None, sigmas: Sequence[float] = (1.0,)) -> Guidance:
    """Return the stack that ltx-core's guidance parameters describe.

        stack_of(params.video_guider_params, params.audio_guider_params)

    Args:
        video: `MultiModalGuiderParams` of the video, or a `MultiModalGuider` or `MultiModalGuiderFactory`; None for no
            guidance.
        audio: the same for the audio.
        sigmas: the schedule; a factory is called at its noise levels.

    Raises:
        ConfigurationError: an object does not have these parameters, or one of them cannot be used.
    """
    bounds = sorted({float(sigma) for sigma in sigmas[:-1] or sigmas}, reverse=True)
    rows = {bound: _row({"video": video, "audio": audio}, bound) for bound in bounds}
    first = rows[bounds[0]]
    method: Any = plugin_class("ltx2")
    made = method(**first) if all(row == first for row in rows.values()) else method.by_sigma(rows)
    return Guidance([attrs.evolve(made, midpoints="evaluated")])


def _row(guiders: Mapping[str, Any], sigma: float) -> dict[str, Any]:
    """Return the parameters of `LTX2` at a noise level, each by output."""
    found = {output: _parameters(guiders[output], sigma) for output in OUTPUTS}
    return {name: PerOutput({output: found[output][name] for output in OUTPUTS}) for name in FIELDS}


def _parameters(guider: Any, sigma: float) -> Mapping[str, Any]:
    if guider is None:
        return OFF
    params = getattr(guider, "params", guider)
    if callable(params):  # a factory
        params = params(sigma)
    missing = [name for name in FIELDS if not hasattr(params, name)]
    if missing:
        raise ConfigurationError(
            f"a modality's guidance is MultiModalGuiderParams of ltx-core, a guider or a factory of such; "
            f"{brief(guider)} has no {missing[0]}."
        )
    values = {name: getattr(params, name) for name in FIELDS}
    blocks = values["stg_blocks"]
    return values | {"stg_blocks": None if blocks is None else tuple(blocks)}
