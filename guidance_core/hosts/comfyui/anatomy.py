"""What a model of ComfyUI is made of, as far as perturbations need to know: its lists of blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from guidance_core.methods.attention import SoftIdentityAttention
from guidance_core.methods.capabilities import Capabilities
from guidance_core.methods.perturbations import IdentityAttention, Perturbation, SkipBlocks, SkipSelfAttention
from guidance_core.methods.requests import Branch

LISTS = {
    "double_block": ("double_blocks", "double_layers", "joint_blocks", "transformer_blocks", "blocks"),
    "single_block": ("single_blocks", "single_layers"),
}
"The attributes that hold a transformer's blocks, by what ComfyUI calls each of them."
NAMES = {"double_block": "double", "single_block": "single"}
UNET = {"down": ("input", "input_blocks"), "mid": ("middle", "middle_block"), "up": ("output", "output_blocks")}
"A U-Net's parts, with ComfyUI's name and attribute of each."
OF_ATTENTION = (IdentityAttention, SkipSelfAttention, SoftIdentityAttention)
OUTPUTS = ("video", "audio")

Place = tuple[Any, ...]
"What ComfyUI calls a block."


@attrs.frozen(eq=False)
class Anatomy:
    """A model's blocks, as perturbations count them."""

    name: str
    "Of the model's class."
    kind: str
    "`dit` or `attn1`: under which ComfyUI looks up what replaces a block, or a U-Net's self-attention."
    places: Mapping[str, Sequence[Place]]
    "By list of blocks."
    has_streams: bool = False
    "Whether a block continues video and audio."
    all_are_self: bool = False
    "Whether every attention in a block is one of all tokens, or of the picture's."

    @classmethod
    def of(cls, model: Any) -> Anatomy:
        """Look at a model's network; one without lists that are known has no blocks."""
        name = type(model).__name__
        if hasattr(model, "input_blocks"):
            return cls(name, "attn1", {part: found for part in UNET if (found := _of_unet(model, part))})
        lists = {kind: held for kind in LISTS if (held := _list(model, kind))}
        only = len(lists) == 1
        return cls(
            name,
            "dit",
            {"blocks" if only else NAMES[kind]: [(kind, i) for i in range(len(held))] for kind, held in lists.items()},
            has_streams=name.startswith("LTXAV"),
            all_are_self=hasattr(model, "joint_blocks"),
        )

    def supports(self, branch: Branch) -> str | None:
        """Return why the model cannot run a pass; None if it can."""
        able: tuple[type[Perturbation], ...] = OF_ATTENTION if self.kind == "attn1" else (SkipBlocks, *OF_ATTENTION)
        if self.has_streams:
            able = (SkipBlocks,)
        if branch.perturbations and not self.places:
            return f"the blocks of {self.name} are not known"
        for each in branch.perturbations:
            if each.output is not None and not (self.has_streams and each.output in OUTPUTS):
                return f"{each} acts on the output {each.output!r}, which the model does not have"
        counts = {name: len(places) for name, places in self.places.items()}
        return Capabilities(able, blocks=counts or None)(branch)

    def of_change(self, change: Perturbation) -> Sequence[Place]:
        """Return the blocks that a perturbation acts on; without a list and blocks, those of all lists."""
        if change.stack is None and change.blocks is None:
            return [place for places in self.places.values() for place in places]
        places = self.places[next(iter(self.places)) if change.stack is None else change.stack]
        return places if change.blocks is None else [places[number] for number in change.blocks]


def _list(model: Any, kind: str) -> Any:
    return next((held for name in LISTS[kind] if (held := getattr(model, name, None)) is not None), None)


def _of_unet(model: Any, part: str) -> list[Place]:
    """Return the self-attentions of a part of a U-Net, in the order of its layers."""
    name, attribute = UNET[part]
    held = getattr(model, attribute)
    if held is None:
        return []
    layers = enumerate(held) if part != "mid" else [(0, held)]
    return [
        (name, number, index)
        for number, layer in layers
        for transformer in layer
        for index in range(len(getattr(transformer, "transformer_blocks", ())))
    ]
