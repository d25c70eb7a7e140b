"""What a model of diffusers is made of, as far as perturbations need to know: its lists of blocks, and their parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs
from torch.nn import Module, ModuleList

from guidance_core.errors import ConfigurationError
from guidance_core.methods.capabilities import ONLY, Capabilities
from guidance_core.methods.perturbations import Perturbation
from guidance_core.methods.requests import Branch

VIDEO, AUDIO = "video", "audio"
WHOLE = ""
"The stream of a model with one output."


@attrs.frozen
class Form:
    """A class of blocks."""

    returns: tuple[str, ...] = ("hidden_states",)
    "The arguments of its forward that its results continue, in the order of the results."
    attention: Mapping[str, tuple[str, ...]] = MappingProxyType({WHOLE: ("attn1",)})
    "The names of its self-attentions, by stream. An attention of all tokens, the text's among them, is one."
    added: Mapping[str, tuple[str, ...]] = MappingProxyType({WHOLE: ("attn1", "ff")})
    "The names of its parts whose results are added to a stream, but for attention to the text, by stream."
    between: Mapping[str, str] = MappingProxyType({})
    "The name of the attention with which a stream looks at the other, by stream."
    is_united: bool = False
    "Whether the tokens of picture and text, and of padding, are one sequence, whose parts the block does not know."


def _joint(*added: str) -> Form:
    """Return the form of a block in which the tokens of picture and text attend to all."""
    return Form(("encoder_hidden_states", "hidden_states"), {WHOLE: ("attn", "attn2")}, {WHOLE: added})


def _picture_first(attention: str, *added: str) -> Form:
    """Return the form of such a block that returns the picture's tokens before the text's."""
    return Form(("hidden_states", "encoder_hidden_states"), {WHOLE: (attention,)}, {WHOLE: (attention, *added)})


def _united(*added: str, attention: str = "attn", returns: str = "hidden_states") -> Form:
    """Return the form of a block that gets the tokens of picture and text as one sequence."""
    return Form((returns,), {WHOLE: (attention,)}, {WHOLE: added}, is_united=True)


def _fixed(*added: str, returns: tuple[str, ...] = ("hidden_states",)) -> Form:
    """Return the form of a block whose self-attention cannot be changed: it is none of torch's, or not one call."""
    return Form(returns, {WHOLE: ()}, {WHOLE: added})


_VIDEO_PAIR = _picture_first("attn", "ff", "ff_context")
FORMS: Mapping[str, Form] = {
    "AllegroTransformerBlock": Form(),
    "AuraFlowJointTransformerBlock": _joint("attn", "ff", "ff_context"),
    "AuraFlowSingleTransformerBlock": _united("attn", "ff"),
    "BasicTransformerBlock": Form(),
    "ChromaSingleTransformerBlock": _united("proj_out"),
    "ChromaTransformerBlock": _joint("attn", "ff", "ff_context"),
    "CogVideoXBlock": _picture_first("attn1", "ff"),
    "CogView3PlusTransformerBlock": _picture_first("attn1", "ff"),
    "CogView4TransformerBlock": _picture_first("attn1", "ff"),
    "CosmosTransformerBlock": Form(),
    "Flux2SingleTransformerBlock": _united("attn"),  # its feed-forward part is in it
    "Flux2TransformerBlock": _joint("attn", "ff", "ff_context"),
    "FluxSingleTransformerBlock": _joint("proj_out"),
    "FluxTransformerBlock": _joint("attn", "ff", "ff_context"),
    "HunyuanImageSingleTransformerBlock": Form(_VIDEO_PAIR.returns, _VIDEO_PAIR.attention, {WHOLE: ("proj_out",)}),
    "HunyuanImageTransformerBlock": _VIDEO_PAIR,
    "HunyuanVideo15TransformerBlock": _VIDEO_PAIR,
    "HunyuanVideoSingleTransformerBlock": Form(_VIDEO_PAIR.returns, _VIDEO_PAIR.attention, {WHOLE: ("proj_out",)}),
    "HunyuanVideoTransformerBlock": _VIDEO_PAIR,
    "JointTransformerBlock": _joint("attn", "attn2", "ff", "ff_context"),  # attn2 in Stable Diffusion 3.5 medium
    "LTX2VideoTransformerBlock": Form(
        ("hidden_states", "audio_hidden_states"),
        {VIDEO: ("attn1",), AUDIO: ("audio_attn1",)},
        {VIDEO: ("attn1", "ff"), AUDIO: ("audio_attn1", "audio_ff")},
        {VIDEO: "audio_to_video_attn", AUDIO: "video_to_audio_attn"},
    ),
    "LTXVideoTransformerBlock": Form(),
    "Lumina2TransformerBlock": _united("attn", "feed_forward"),
    "MochiTransformerBlock": _fixed(
        "attn1", "ff", "ff_context", returns=("hidden_states", "encoder_hidden_states")
    ),  # attends row by row
    "PRXBlock": _fixed("attention", "down_proj"),  # the text's tokens are keys alone
    "QwenImageTransformerBlock": _joint("attn", "img_mlp", "txt_mlp"),
    "SanaTransformerBlock": _fixed("attn1", "ff"),  # linear attention
    "SanaVideoTransformerBlock": _fixed("attn1", "ff"),
    "SkyReelsV2TransformerBlock": Form(added={WHOLE: ("attn1", "ffn")}),
    "WanTransformerBlock": Form(added={WHOLE: ("attn1", "ffn")}),
    "ZImageTransformerBlock": _united("attention", "feed_forward", attention="attention", returns="x"),
}
"By the name of the class in diffusers."

STACKS = {
    "transformer_blocks": "double",
    "joint_transformer_blocks": "double",
    "single_transformer_blocks": "single",
}
"The names of the lists of blocks of a model with several, by attribute; the others keep the attribute's."

REFINERS = ("noise_refiner", "context_refiner", "siglip_refiner")
"Lists of blocks that prepare the tokens of pictures or text, and are not perturbed."

UNET = {"down": "down_blocks", "mid": "mid_block", "up": "up_blocks"}
"A U-Net's blocks are those of its transformers, counted in the order of its layers."


@attrs.frozen(eq=False)
class Block:
    """A block of a model."""

    module: Module
    form: Form
    number: int
    "As perturbations count it, in its list."
    place: int
    "Among the blocks of all lists."
    name: str
    "For messages."

    def self_attentions(self, output: str | None) -> dict[str, tuple[Module, ...]]:
        """Return the self-attentions by stream, of one or of all."""
        found = self._parts(self.form.attention, output)
        return {
            stream: tuple(each for each in parts.values() if not getattr(each, "is_cross_attention", False))
            for stream, parts in found.items()
        }

    def added(self, output: str | None) -> dict[str, Module]:
        """Return the parts whose results are added to one stream or to all, by name."""
        found = self._parts(self.form.added, output)
        return {name: module for parts in found.values() for name, module in parts.items()}

    def _parts(self, names: Mapping[str, tuple[str, ...]], output: str | None) -> dict[str, dict[str, Module]]:
        return {
            stream: {name: part for name in given if (part := getattr(self.module, name, None)) is not None}
            for stream, given in names.items()
            if output in (None, stream)
        }


@attrs.frozen
class Anatomy:
    """A model's lists of blocks."""

    model: Module
    "What holds the lists, without its wrappers."
    stacks: Mapping[str, Sequence[Block]]
    "The blocks by list, as perturbations count them."
    outputs: tuple[str, ...]
    "The names of its streams; none where it has one."

    def places(self, change: Perturbation) -> tuple[Block, ...]:
        """Return the blocks that a perturbation acts on; without blocks and a list, those of all lists.

        Raises:
            ConfigurationError: there is no such list, block or output.
        """
        if change.output is not None and change.output not in self.outputs:
            have = f"outputs are {', '.join(self.outputs)}" if self.outputs else "only output has no name"
            raise ConfigurationError(f"{change} acts on the output {change.output!r}, but the model's {have}.")
        reason = Capabilities(type(change), blocks=self.counts)(Branch("places", perturbations=(change,)))
        if reason is not None:
            raise ConfigurationError(f"{reason}.")
        if change.stack is None and change.blocks is None:
            return tuple(block for blocks in self.stacks.values() for block in blocks)
        blocks = self.stacks[change.stack if change.stack is not None else next(iter(self.stacks))]
        return tuple(blocks if change.blocks is None else (blocks[number] for number in change.blocks))

    @property
    def counts(self) -> dict[str, int]:
        """How many blocks each list has."""
        return {name: len(blocks) for name, blocks in self.stacks.items()}


def unwrapped(model: Any) -> Iterator[Any]:
    """Yield a model, and what torch.compile, DataParallel or PEFT wrapped around it, from the outside in."""
    while model is not None:
        yield model
        if hasattr(model, "get_base_model"):
            model = model.get_base_model()
        else:
            model = getattr(model, "_orig_mod", getattr(model, "module", None))


def anatomy_of(model: Any) -> Anatomy:
    """Return what a model is made of.

    Raises:
        ConfigurationError: it has no list of blocks that are known.
    """
    for each in unwrapped(model):
        if isinstance(each, Module) and (stacks := _lists(each) or _layers(each)):
            form = next(block.form for blocks in stacks.values() for block in blocks)
            return Anatomy(each, stacks, tuple(name for name in form.attention if name != WHOLE))
    raise ConfigurationError(
        f"the blocks of {type(model).__name__} are not known, so that it cannot be perturbed; docs/diffusers.md lists "
        "the models of diffusers whose blocks are."
    )


def _lists(model: Module) -> dict[str, Sequence[Block]]:
    """Return the lists of blocks of a transformer."""
    found: dict[str, Sequence[Block]] = {}
    for attribute, child in model.named_children():
        if attribute in REFINERS:
            continue
        if isinstance(child, ModuleList) and len(child) and all(form_of(block) is not None for block in child):
            found[STACKS.get(attribute, attribute)] = _blocks(child, attribute, found)
    return {ONLY: next(iter(found.values()))} if len(found) == 1 else found


def _layers(model: Module) -> dict[str, Sequence[Block]]:
    """Return the blocks in the layers of a U-Net; there may be layers without any."""
    found: dict[str, Sequence[Block]] = {}
    for name, attribute in UNET.items():
        layers = getattr(model, attribute, None)
        members = list(layers.modules()) if isinstance(layers, Module) else []
        blocks = [block for block in members if form_of(block) is not None]
        if blocks:
            found[name] = _blocks(blocks, f"{name} transformers", found)
    return found


def _blocks(modules: Iterable[Module], name: str, before: Mapping[str, Sequence[Block]]) -> tuple[Block, ...]:
    first = sum(map(len, before.values()))
    return tuple(
        Block(each, form_of(each) or Form(), number, first + number, f"{name}[{number}]")
        for number, each in enumerate(modules)
    )


def form_of(block: Any) -> Form | None:
    """Return the form of a block of diffusers, also of a class that inherits its forward; None for others."""
    kind: Any = type(block)
    for each in kind.__mro__:
        if each.__name__ in FORMS and each.__module__.startswith("diffusers."):
            return FORMS[each.__name__] if kind.forward is each.forward else None
    return None
