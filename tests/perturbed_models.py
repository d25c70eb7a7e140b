"""Small random models of diffusers with the inputs of a call, and their perturbations made by hand."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import small_pipelines as small
import torch
from diffusers import DiTTransformer2DModel, LTXVideoTransformer3DModel, PixArtTransformer2DModel
from torch import Tensor

ROWS = 2
OPERATION = torch.nn.functional.scaled_dot_product_attention


@attrs.frozen
class Case:
    """A model and the inputs of a call."""

    name: str
    model: Callable[[], Any]
    inputs: Callable[[], dict[str, Any]]
    blocks: dict[str, int]
    attention: dict[str, tuple[str, ...]] = {"": ("attn",)}
    "The self-attentions of a block, by stream."

    def made(self, model: Any, **more: Any) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return tuple(model(**self.inputs(), **more, return_dict=False))

    def lists(self, model: Any) -> dict[str, list[Any]]:
        """Return the blocks as perturbations count them."""
        if "mid" in self.blocks:
            layers = {"down": model.down_blocks, "mid": model.mid_block, "up": model.up_blocks}
            return {
                name: [each for each in part.modules() if type(each).__name__ == "BasicTransformerBlock"]
                for name, part in layers.items()
            }
        if "single" in self.blocks:
            return {"double": list(model.transformer_blocks), "single": list(model.single_transformer_blocks)}
        return {"blocks": list(model.blocks if hasattr(model, "blocks") else model.transformer_blocks)}


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
        "hidden_states": drawn(ROWS, 4, 4, 6),
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
    return {"hidden_states": drawn(ROWS, 4, 2, 4, 6), "timestep": LEVEL, "encoder_hidden_states": drawn(ROWS, 5, 16)}


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
        "hidden_states": drawn(ROWS, 4, 4, 6),
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

CASES = [
    Case("DiT", dit, _dit, {"blocks": 3}, ATTN1),
    Case("Flux", flux, _flux, {"double": 2, "single": 3}),
    Case("LTX-2, type 2.0", lambda: small.ltx2("2.0").transformer, _ltx2, {"blocks": 2}, BOTH),
    Case("LTX-2, type 2.3", lambda: small.ltx2("2.3").transformer, _ltx2, {"blocks": 2}, BOTH),
    Case("LTX-Video", ltx, _ltx, {"blocks": 3}, ATTN1),
    Case("PixArt", pixart, _pixart, {"blocks": 3}, ATTN1),
    Case("Qwen-Image", lambda: small.qwen_image().transformer, _qwen, {"blocks": 2}),
    Case("Stable Diffusion", lambda: small.seeded(small.unet), _unet, {"down": 1, "mid": 1, "up": 2}, ATTN1),
    Case("Stable Diffusion 3", lambda: small.stable_diffusion_3().transformer, _sd3, {"blocks": 3}),
    Case("Wan", lambda: small.wan().transformer, _wan, {"blocks": 2}, ATTN1),
]


class Through(torch.nn.Module):
    """Stands in a place of a block, and gives its inputs back."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.kind = type(block).__name__
        self.context_pre_only = getattr(block, "context_pre_only", None)

    def forward(self, hidden_states: Tensor, *given: Any, **named: Any) -> Any:
        if self.kind in ("BasicTransformerBlock", "LTXVideoTransformerBlock", "WanTransformerBlock"):
            return hidden_states
        if self.kind == "LTX2VideoTransformerBlock":
            return hidden_states, named["audio_hidden_states"]
        return named["encoder_hidden_states"], hidden_states


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
def attending_otherwise(case: Case, model: Any, places: list[tuple[str, int]], streams: tuple[str, ...], change: Any):
    """Have torch's attention be another function, in chosen attentions of chosen blocks alone."""
    inside: list[bool] = []
    hooks, lists = [], case.lists(model)
    for stack, number in places:
        for stream in streams:
            for name in case.attention[stream]:
                attention = getattr(lists[stack][number], name)
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


def copied(model: Any) -> Any:
    return copy.deepcopy(model)


def changes(case: Case) -> Iterator[Any]:
    """Yield a perturbation of each kind, at places that every model has."""
    yield from ()
