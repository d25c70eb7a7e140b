"""The arguments of diffusers' LTX-2 transformer that a branch's perturbations stand for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from guidance_core.errors import ConfigurationError
from guidance_core.methods.perturbations import IsolateOutputs, Perturbation, SkipSelfAttention, UseCondition

OUTPUTS = ("video", "audio")
"The names of the model's two outputs, in its order."


@attrs.frozen
class Flags:
    """The model's flags for a branch's perturbations."""

    isolated: bool
    "`isolate_modalities`"
    blocks: tuple[int, ...]
    "`spatio_temporal_guidance_blocks`"


def flags_of(perturbations: Iterable[Perturbation], config: Any) -> Flags:
    """Return the flags for a branch's perturbations, of a model with this configuration.

    Raises:
        ConfigurationError: the model has no flag for one of them, or does not have one of the blocks.
    """
    isolated = False
    skipped: dict[str, set[int]] = {output: set() for output in OUTPUTS}
    for each in perturbations:
        if isinstance(each, IsolateOutputs) and each.blocks is None and each.output is None:
            isolated = True
        elif isinstance(each, UseCondition):
            continue  # one of the inputs
        elif isinstance(each, SkipSelfAttention) and (each.output is None or each.output in skipped):
            blocks = range(config.num_layers) if each.blocks is None else each.blocks
            for output in OUTPUTS if each.output is None else (each.output,):
                skipped[output].update(blocks)
        else:
            raise ConfigurationError(
                f"diffusers' LTX-2 transformer has no flag for {each}; it can skip self-attention in blocks of "
                "video and audio, and isolate the two."
            )
    video, audio = skipped.values()
    if video != audio:
        raise ConfigurationError(
            "diffusers' LTX-2 transformer skips self-attention in the same blocks of video and audio or in none; "
            f"a branch asks for {sorted(video)} of video and {sorted(audio)} of audio."
        )
    if video and not config.perturbed_attn:
        raise ConfigurationError(
            "this LTX-2 transformer ignores skipped self-attention; make it with perturbed_attn=True."
        )
    if video and max(video) >= config.num_layers:
        raise ConfigurationError(
            f"block {max(video)} does not exist: the LTX-2 transformer has {config.num_layers} blocks."
        )
    return Flags(isolated, tuple(sorted(video)))
