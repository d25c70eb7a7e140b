"""The grid that the tokens of a model form, from the inputs of its call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from guidance_core.errors import ConfigurationError
from guidance_core.hosts.diffusers.anatomy import AUDIO, VIDEO, WHOLE

Grid: TypeAlias = tuple[int, ...]
Grids: TypeAlias = Mapping[str, Grid]
"By stream."


def _of_patches(config: Any, inputs: Mapping[str, Any]) -> Grids:
    """A picture or a video that the model cuts into patches itself."""
    sample: Tensor = inputs["hidden_states"]
    sizes = patch_of(config, sample.ndim - 2)
    return {WHOLE: tuple(length // size for length, size in zip(sample.shape[2:], sizes, strict=True))}


def _of_layers(config: Any, inputs: Mapping[str, Any]) -> Grids:
    return {WHOLE: tuple(inputs["sample"].shape[2:])}


def _of_video(config: Any, inputs: Mapping[str, Any]) -> Grids:
    return {WHOLE: (inputs["num_frames"], inputs["height"], inputs["width"])}


def _of_video_and_audio(config: Any, inputs: Mapping[str, Any]) -> Grids:
    return {VIDEO: _of_video(config, inputs)[WHOLE], AUDIO: (inputs["audio_num_frames"],)}


def _of_shapes(config: Any, inputs: Mapping[str, Any]) -> Grids:
    shapes = inputs["img_shapes"][0]
    if len(shapes) != 1:
        raise ConfigurationError(SEVERAL.format(count=len(shapes)))
    return {WHOLE: tuple(shapes[0])}


SEVERAL = "the tokens of this call are those of {count} pictures, whose queries cannot be blurred; give one picture."

_seen = WeakTensorKeyDictionary()
"Grids by the tensor that describes them, which a device is asked for once, not in every step."


def _of_places(config: Any, inputs: Mapping[str, Any]) -> Grids:
    """Flux gets the place of each token, the last one in the corner."""
    places: Tensor = inputs["img_ids"]
    if places not in _seen:
        _seen[places] = tuple(int(last) + 1 for last in places.reshape(-1, places.shape[-1])[-1, 1:].tolist())
    if math.prod(_seen[places]) != places.shape[-2]:
        raise ConfigurationError(SEVERAL.format(count="more than one"))
    return {WHOLE: _seen[places]}


GRIDS: Mapping[str, Callable[[Any, Mapping[str, Any]], Grids]] = {
    "DiTTransformer2DModel": _of_patches,
    "FluxTransformer2DModel": _of_places,
    "LTX2VideoTransformer3DModel": _of_video_and_audio,
    "LTXVideoTransformer3DModel": _of_video,
    "PixArtTransformer2DModel": _of_patches,
    "QwenImageTransformer2DModel": _of_shapes,
    "SD3Transformer2DModel": _of_patches,
    "UNet2DConditionModel": _of_layers,
    "WanTransformer3DModel": _of_patches,
}
"By the model's class; they get its configuration and the inputs of a call."

UNETS = ("UNet2DConditionModel",)
SPATIAL = {
    name: "sample" if name in UNETS else "hidden_states"
    for name, of in GRIDS.items()
    if of in (_of_patches, _of_layers)
}
"The names of the inputs that are samples with a height and a width, by the model's class."


def patch_of(config: Any, dims: int) -> Grid:
    """Return the length of a patch along each dimension of a sample: 1 where the model has none."""
    size = config.get("patch_size") or 1
    return tuple(size) if isinstance(size, (tuple, list)) else (size,) * dims


def fitted(grid: Grid, tokens: int, *, is_halved: bool) -> Grid | None:
    """Return the grid of a layer with a number of tokens; None if there is none.

    Args:
        grid: that of the sample.
        tokens: of the layer; of text too, where both share an attention.
        is_halved: whether height and width are halved from layer to layer, as in a U-Net.
    """
    if not is_halved:
        return grid if math.prod(grid) <= tokens else None
    while math.prod(grid) > tokens and max(grid) > 1:
        grid = tuple((length + 1) // 2 for length in grid)
    return grid if math.prod(grid) == tokens else None
