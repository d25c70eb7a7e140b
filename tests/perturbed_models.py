"""Small random models of diffusers with the inputs of a call, and their perturbations made by hand.

python tests/perturbed_models.py            the table of docs/diffusers-perturbations.md: what runs on which models
python tests/perturbed_models.py --write    write it into the page
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import every_pipeline
import small_pipelines as small
import torch
from diffusers import DiTTransformer2DModel, LTXVideoTransformer3DModel, PixArtTransformer2DModel
from torch import Tensor

from guidance_core import Branch, ConfigurationError, Perturbation
from guidance_core.hosts.diffusers import capabilities_of
from guidance_core.hosts.diffusers.perturbed import plan_of

PAGE = Path(__file__).parents[1] / "docs" / "diffusers-perturbations.md"
BEGIN, END = "<!-- perturbations -->", "<!-- end of perturbations -->"
ROWS = 2
SEEDS = (1, 2)
"For random changes, one a row."
OPERATION = torch.nn.functional.scaled_dot_product_attention


@attrs.frozen
class Case:
    """A model and the inputs of a call."""

    name: str
    model: Callable[[], Any]
    inputs: Callable[[], dict[str, Any]]
    blocks: dict[str, int]
    attention: dict[str, tuple[str, ...]] = attrs.field(factory=lambda: {"": ("attn",)})
    "The self-attentions of a block, by stream."
    grid: dict[str, tuple[int, ...]] = attrs.field(factory=lambda: {"": (3, 4)})
    "By stream."
    windows: str = ""
    "The name of the input that windows cut."

    def made(self, model: Any, dtype: torch.dtype | None = None, **more: Any) -> tuple[Tensor, ...]:
        def cast(value: Any) -> Any:
            if isinstance(value, list):
                return [cast(each) for each in value]
            return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() and dtype else value

        with torch.no_grad():
            made = model(**{name: cast(value) for name, value in self.inputs().items()}, **more, return_dict=False)
        return tuple(tensor for each in made for tensor in (each if isinstance(each, list) else [each]))

    def blurring(self, change: Any, stream: str) -> Callable[..., Tensor]:
        """Return a hook of a projection of queries; text comes first where it shares the projection."""
        grid = self.grid[stream]

        def blur(module: Any, given: Any, queries: Tensor) -> Tensor:
            tokens = torch.Size(grid).numel()
            return torch.cat([queries[:, :-tokens], change.blurred(queries[:, -tokens:], grid)], dim=1)

        return blur

    def lists(self, model: Any) -> dict[str, list[Any]]:
        """Return the blocks as perturbations count them."""
        if "mid" in self.blocks:
            layers = {"down": model.down_blocks, "mid": model.mid_block, "up": model.up_blocks}
            return {
                name: [each for each in part.modules() if type(each).__name__ == "BasicTransformerBlock"]
                for name, part in layers.items()
            }
        if "single" in self.blocks:
            double = getattr(model, "joint_transformer_blocks", None) or model.transformer_blocks
            return {"double": list(double), "single": list(model.single_transformer_blocks)}
        names = ("blocks", "layers", "transformer_blocks")
        return {"blocks": list(next(getattr(model, name) for name in names if hasattr(model, name)))}


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


LEVEL = torch.full((ROWS,), 500.0)


def _flux() -> dict[str, Any]:
    places = torch.zeros(3, 4, 3)
    places[..., 1], places[..., 2] = torch.arange(3)[:, None], torch.arange(4)
    return {
        "hidden_states": drawn(ROWS, 12, 16),
        "encoder_hidden_states": drawn(ROWS, 5, 16),
        "pooled_projections": drawn(ROWS, 24),
        "timestep": LEVEL / 1000,
        "guidance": torch.full((ROWS,), 3.5),
        "img_ids": places.reshape(-1, 3),
        "txt_ids": torch.zeros(5, 3),
    }


def _sd3() -> dict[str, Any]:
    return {
        "hidden_states": drawn(ROWS, 4, 4, 8),
        "encoder_hidden_states": drawn(ROWS, 5, 16),
        "pooled_projections": drawn(ROWS, 24),
        "timestep": LEVEL,
    }


def _qwen() -> dict[str, Any]:
    return {
        "hidden_states": drawn(ROWS, 12, 16),
        "encoder_hidden_states": drawn(ROWS, 5, 16),
        "encoder_hidden_states_mask": torch.ones(ROWS, 5, dtype=torch.bool),
        "timestep": LEVEL / 1000,
        "img_shapes": [[(1, 3, 4)]] * ROWS,
    }


def _wan() -> dict[str, Any]:
    return {"hidden_states": drawn(ROWS, 4, 2, 4, 8), "timestep": LEVEL, "encoder_hidden_states": drawn(ROWS, 5, 16)}


def _ltx2() -> dict[str, Any]:
    return {
        "hidden_states": drawn(ROWS, 12, 4),
        "audio_hidden_states": drawn(ROWS, 3, 4),
        "encoder_hidden_states": drawn(ROWS, 5, small.CAPTION),
        "audio_encoder_hidden_states": drawn(ROWS, 5, small.CAPTION),
        "timestep": LEVEL,
        "sigma": LEVEL,
        "num_frames": 1,
        "height": 3,
        "width": 4,
        "audio_num_frames": 3,
    }


def _unet() -> dict[str, Any]:
    return {"sample": drawn(ROWS, 4, 6, 8), "timestep": LEVEL, "encoder_hidden_states": drawn(ROWS, 5, 16)}


def _pixart() -> dict[str, Any]:
    return {
        "hidden_states": drawn(ROWS, 4, 4, 8),
        "encoder_hidden_states": drawn(ROWS, 5, 16),
        "timestep": LEVEL,
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def _dit() -> dict[str, Any]:
    return {"hidden_states": drawn(ROWS, 4, 8, 8), "timestep": LEVEL.long(), "class_labels": torch.tensor([1, 2])}


def _ltx() -> dict[str, Any]:
    return {
        "hidden_states": drawn(ROWS, 12, 4),
        "encoder_hidden_states": drawn(ROWS, 5, 16),
        "timestep": LEVEL,
        "encoder_attention_mask": torch.ones(ROWS, 5),
        "num_frames": 1,
        "height": 3,
        "width": 4,
    }


HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}


def flux() -> Any:
    from diffusers import FluxTransformer2DModel

    return small.seeded(
        lambda: FluxTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=2, num_single_layers=3, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=16, pooled_projection_dim=24, axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        ).eval()
    )  # fmt: skip


def pixart() -> Any:
    return small.seeded(
        lambda: PixArtTransformer2DModel(
            **HEADS, in_channels=4, out_channels=4, num_layers=3, sample_size=8, patch_size=2, caption_channels=16,
            cross_attention_dim=16,
        ).eval()
    )  # fmt: skip


def dit() -> Any:
    return small.seeded(
        lambda: DiTTransformer2DModel(
            **HEADS, in_channels=4, out_channels=4, num_layers=3, sample_size=8, patch_size=2, num_embeds_ada_norm=10,
            norm_num_groups=4,
        ).eval()
    )  # fmt: skip


def ltx() -> Any:
    return small.seeded(
        lambda: LTXVideoTransformer3DModel(
            **HEADS, in_channels=4, out_channels=4, num_layers=3, caption_channels=16, cross_attention_dim=16
        ).eval()
    )


ATTN1 = {"": ("attn1",)}
BOTH = {"video": ("attn1",), "audio": ("audio_attn1",)}
STREAMS = {"video": (1, 3, 4), "audio": (3,)}
JOINT = {"": ("attn", "attn2")}
PICTURE, SAMPLE = "hidden_states", "sample"


def _ltx2_case(kind: str) -> Case:
    make = lambda: small.ltx2(kind).transformer
    return Case(f"LTX-2, type {kind}", make, _ltx2, {"blocks": 2}, BOTH, STREAMS)


UNITED = (
    "AuraFlowSingleTransformerBlock", "ChromaSingleTransformerBlock", "Flux2SingleTransformerBlock",
    "Lumina2TransformerBlock", "ZImageTransformerBlock",
)  # fmt: skip
"Blocks that get text and picture as one sequence."
UNET_LISTS = {"down": 1, "mid": 1, "up": 2}

CASES = [
    Case("DiT", dit, _dit, {"blocks": 3}, ATTN1, {"": (4, 4)}, windows=PICTURE),
    Case("Flux", flux, _flux, {"double": 2, "single": 3}, JOINT),
    _ltx2_case("2.0"),
    _ltx2_case("2.3"),
    Case("LTX-Video", ltx, _ltx, {"blocks": 3}, ATTN1, {"": (1, 3, 4)}),
    Case("PixArt", pixart, _pixart, {"blocks": 3}, ATTN1, {"": (2, 4)}, windows=PICTURE),
    Case("Qwen-Image", lambda: small.qwen_image().transformer, _qwen, {"blocks": 2}, JOINT, {"": (1, 3, 4)}),
    Case("Stable Diffusion", lambda: small.seeded(small.unet), _unet, UNET_LISTS, ATTN1, windows=SAMPLE),
    Case(
        "Stable Diffusion 3",
        lambda: small.stable_diffusion_3().transformer,
        _sd3,
        {"blocks": 3},
        JOINT,
        {"": (4, 8)},
        windows=PICTURE,
    ),
    Case("Wan", lambda: small.wan().transformer, _wan, {"blocks": 2}, ATTN1, {"": (2, 2, 4)}, windows=PICTURE),
]


class _SeenError(Exception):
    """Ends a call of a pipeline whose model was called."""


@functools.cache
def _called(name: str) -> tuple[Any, dict[str, Any]]:
    """Return the model of a guided pipeline, and the inputs of two samples with which the pipeline calls it."""
    (case,) = (case for case in every_pipeline.CASES if case.name == name)
    pipe = case.pipeline()
    model, calls = pipe.transformer, []

    def note(module: Any, given: Any, named: dict[str, Any]) -> None:
        calls.append((given, {key: value for key, value in named.items() if key != "return_dict"}))
        raise _SeenError

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    with contextlib.suppress(_SeenError):
        pipe(
            **case.inputs(1 if case.mechanism == small.ONE else 2),
            **case.own,
            generator=torch.Generator().manual_seed(0),
        )
    hook.remove()
    given, named = calls[0]
    return model, dict(inspect.signature(type(model).forward).bind(model, *given, **named).arguments) | {"self": None}


def _of_pipeline(pipeline: str, name: str, blocks: dict[str, int], attention: tuple[str, ...]) -> Case:
    """Return the model of a guided pipeline, whose queries cannot be blurred."""

    def inputs() -> dict[str, Any]:
        return {key: value for key, value in _called(pipeline)[1].items() if key not in ("self", "return_dict")}

    return Case(name, lambda: copy.deepcopy(_called(pipeline)[0]), inputs, blocks, {"": attention}, {})


CASES += [
    _of_pipeline("Allegro", "Allegro", {"blocks": 1}, ("attn1",)),
    _of_pipeline("AuraFlow", "AuraFlow", {"double": 1, "single": 1}, ("attn",)),
    _of_pipeline("Chroma", "Chroma", {"double": 1, "single": 1}, ("attn",)),
    _of_pipeline("CogVideoX", "CogVideoX", {"blocks": 1}, ("attn1",)),
    _of_pipeline("CogView 3 Plus", "CogView 3 Plus", {"blocks": 1}, ("attn1",)),
    _of_pipeline("CogView 4", "CogView 4", {"blocks": 2}, ("attn1",)),
    _of_pipeline("Cosmos 2", "Cosmos 2", {"blocks": 2}, ("attn1",)),
    _of_pipeline("FLUX.2 klein", "FLUX.2", {"double": 1, "single": 1}, ("attn",)),
    _of_pipeline("HunyuanImage 2.1", "HunyuanImage", {"double": 1, "single": 1}, ("attn",)),
    _of_pipeline("HunyuanVideo", "HunyuanVideo", {"double": 1, "single": 1}, ("attn",)),
    _of_pipeline("HunyuanVideo 1.5", "HunyuanVideo 1.5", {"blocks": 1}, ("attn",)),
    _of_pipeline("Lumina 2", "Lumina 2", {"blocks": 2}, ("attn",)),
    _of_pipeline("Mochi", "Mochi", {"blocks": 2}, ()),
    _of_pipeline("PRX", "PRX", {"blocks": 1}, ()),
    _of_pipeline("Sana", "Sana", {"blocks": 2}, ()),
    _of_pipeline("Sana-Video", "Sana-Video", {"blocks": 2}, ()),
    _of_pipeline("SkyReels 2", "SkyReels 2", {"blocks": 2}, ("attn1",)),
    _of_pipeline("Z-Image", "Z-Image", {"blocks": 1}, ("attention",)),
]


def case_named(name: str) -> Case:
    (case,) = (case for case in CASES if case.name == name)
    return case


def equal(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    return all(map(torch.equal, one, other))


TEXT_LAST = ("CogV", "Hunyuan", "Mochi")
"How the names of blocks begin that return the tokens of the picture first."
PAIRS = (
    "AuraFlowJointTransformerBlock", "ChromaTransformerBlock", "CogVideoXBlock", "CogView3PlusTransformerBlock",
    "CogView4TransformerBlock", "Flux2TransformerBlock", "FluxSingleTransformerBlock", "FluxTransformerBlock",
    "HunyuanImageSingleTransformerBlock", "HunyuanImageTransformerBlock", "HunyuanVideo15TransformerBlock",
    "HunyuanVideoSingleTransformerBlock", "HunyuanVideoTransformerBlock", "JointTransformerBlock",
    "MochiTransformerBlock", "QwenImageTransformerBlock",
)  # fmt: skip
"Blocks that return the tokens of picture and text apart."


class Through(torch.nn.Module):
    """Stands in a place of a block, and gives its inputs back."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.kind = type(block).__name__
        self.context_pre_only = getattr(block, "context_pre_only", None)
        self.norm1 = getattr(block, "norm1", None)  # DiT's last layer asks the first block for its embedding
        self.signature = inspect.signature(type(block).forward)

    def forward(self, *given: Any, **named: Any) -> Any:
        inputs = self.signature.bind(self, *given, **named).arguments
        if self.kind == "LTX2VideoTransformerBlock":
            return inputs["hidden_states"], inputs["audio_hidden_states"]
        if self.kind not in PAIRS:
            return inputs["x" if self.kind == "ZImageTransformerBlock" else "hidden_states"]
        pair = inputs["encoder_hidden_states"], inputs["hidden_states"]
        return pair[::-1] if self.kind.startswith(TEXT_LAST) else pair


def without_blocks(case: Case, stack: str, numbers: tuple[int, ...]) -> Any:
    """Return a model in which blocks are not there at all."""
    model = case.model()
    gone = {id(case.lists(model)[stack][number]) for number in numbers}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if id(child) in gone:
                setattr(parent, name, Through(child))
    return model


@contextlib.contextmanager
def attending_otherwise(case: Case, model: Any, places: list[tuple[str, int]], change: Any) -> Iterator[None]:
    """Have torch's attention be another function, in the self-attentions of chosen blocks alone."""
    inside: list[bool] = []
    hooks, lists = [], case.lists(model)
    for stack, number in places:
        for names in case.attention.values():
            for name in names:
                attention = getattr(lists[stack][number], name, None)
                if attention is not None:
                    hooks.append(attention.register_forward_pre_hook(lambda *_: inside.append(True)))
                    hooks.append(attention.register_forward_hook(lambda *_: inside.clear()))

    def operation(query: Tensor, key: Tensor, value: Tensor, **more: Any) -> Tensor:
        return change(query, key, value, **more) if inside else OPERATION(query, key, value, **more)

    torch.nn.functional.scaled_dot_product_attention = operation
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = OPERATION
        for hook in hooks:
            hook.remove()


def masked_to_itself(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
    """Attention whose map is the identity, by a mask and torch's own softmax."""
    return OPERATION(query, key, value, attn_mask=torch.eye(query.shape[-2], dtype=torch.bool))


@contextlib.contextmanager
def given_otherwise(block: Any, place: int, change: Any) -> Iterator[None]:
    """Have the streams of a block shuffled as a change says, before they enter it."""
    names = ("hidden_states", "audio_hidden_states")

    def shuffle(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        new = {name: change.shuffled(named[name], place) for name in names if name in named}
        first = tuple(change.shuffled(each, place) if number == 0 else each for number, each in enumerate(given))
        return first, {**named, **new}

    hook = block.register_forward_pre_hook(shuffle, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@contextlib.contextmanager
def adding_nothing(block: Any) -> Iterator[None]:
    """Have the self-attentions and feed-forward parts of a block add zeros."""
    parts = ("attn", "attn1", "audio_attn1", "ff", "ffn", "ff_context", "audio_ff", "img_mlp", "txt_mlp")
    parts += ("attention", "down_proj", "feed_forward")

    def zeros(module: Any, given: Any, made: Any) -> Any:
        return made * 0 if isinstance(made, Tensor) else tuple(each * 0 for each in made)

    hooks = [getattr(block, name).register_forward_hook(zeros) for name in parts if hasattr(block, name)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def state_of(model: Any) -> dict[str, Any]:
    """Return everything that a hook could leave in a model, by module."""
    return {
        name: (
            sorted(vars(module)),
            vars(module).get("forward"),
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            type(getattr(module, "processor", None)),
        )
        for name, module in model.named_modules()
    }


def table() -> str:
    """Return which perturbations run on which models, and by what."""
    found = {case.name: _by_kind(case) for case in CASES}
    kinds = list(dict.fromkeys(kind for row in found.values() for kind in row))
    listed = "pipelines of [the table](diffusers-pipelines.md)"
    heads = ["model", listed, *(f"`{kind}`" for kind in kinds), "lists of blocks"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    pipelines = _pipelines()
    for case in CASES:
        kind = type(case.model()).__name__
        makes = [found[case.name].get(each, "–") for each in kinds]
        own = pipelines.get(kind, [])
        if kind == "LTX2VideoTransformer3DModel":
            own = [name for name in own if name == case.name]
        lists = ", ".join(f"`{name}`" for name in case.blocks)
        lines.append(f"| {case.name} | {_listed(own)} | {' | '.join(makes)} | {lists} |")
    known = {type(case.model()).__name__ for case in CASES}
    for kind in sorted(pipelines.keys() - known):
        own = pipelines[kind]
        model = next(model for case in every_pipeline.CASES if type(model := _model(case)).__name__ == kind)
        try:
            able = [each.__name__ for each in capabilities_of(model).perturbations]
        except ConfigurationError:
            able = []
        makes = ["untested" if each in able else "–" for each in kinds]
        lists = ", ".join(f"`{name}`" for name in capabilities_of(model).blocks) if able else "–"
        lines.append(f"| `{kind}` | {_listed(own)} | {' | '.join(makes)} | {lists} |")
    return "\n".join([BEGIN, *lines, END])


def _pipelines() -> dict[str, list[str]]:
    """Return the names of the guided pipelines by the class of their models."""
    found: dict[str, list[str]] = {}
    for case in every_pipeline.CASES:
        found.setdefault(type(_model(case)).__name__, []).append(case.name)
    return found


def _model(case: Any) -> Any:
    pipe = case.pipeline()
    return getattr(pipe, "unet", None) or pipe.transformer


def _listed(names: list[str]) -> str:
    return "; ".join(names) if names else "–"


def _by_kind(case: Case) -> dict[str, str]:
    model = case.model()
    kinds: tuple[type[Perturbation], ...] = capabilities_of(model).perturbations
    found = {}
    for kind in kinds:
        branch = Branch("tried", perturbations=(kind(0),), strength=1.0)
        assert capabilities_of(model)(branch) is None
        found[kind.__name__] = (
            "argument"
            if plan_of(model, (kind(0) if kind.__name__ != "IsolateOutputs" else kind(),)).arguments
            else "hooks"
        )
    return found


def main() -> None:
    """Print the table, or write it into the page."""
    made = table()
    if "--write" not in sys.argv:
        print(made)
        return
    text = PAGE.read_text()
    PAGE.write_text(text[: text.index(BEGIN)] + made + text[text.index(END) + len(END) :])


if __name__ == "__main__":
    main()
