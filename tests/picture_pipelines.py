"""More of diffusers' text-to-image pipelines with small random components, and calls of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from small_pipelines import BETAS, ONE, STEPS, TWO, Case, seeded

EMBEDS = ("prompt_embeds", "negative_prompt_embeds")


def assembled(kind: type, **parts: Any) -> Any:
    """Return a pipeline without the components that are not given."""
    known = list(inspect.signature(kind.__init__).parameters.values())[1:]
    return kind(**{**{each.name: None for each in known if each.default is each.empty}, **parts})


def model(kind: type, **config: Any) -> Any:
    """Return a model of diffusers with random weights, the same each time."""
    return seeded(lambda: kind(**config).eval())


def randomized(module: Any, gain: float = 1.0) -> Any:
    """Return a model with random weights where it has zeros, which do nothing, and with all weights times `gain`."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in module.parameters():
            if not weight.any():
                weight.normal_(std=0.1, generator=generator)
            elif weight.ndim > 1:
                weight.mul_(gain)
    return module


def drawn(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Return random tensors, the same each time."""
    generator = torch.Generator().manual_seed(2)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def texts(batch: int, width: int = 16, tokens: int = 7) -> dict[str, torch.Tensor]:
    """Return embeddings of a prompt and of a negative prompt for each picture."""
    return drawn(**dict.fromkeys(EMBEDS, (batch, tokens, width)))


def masks(batch: int, name: str = "prompt_attention_mask", tokens: int = 7) -> dict[str, torch.Tensor]:
    """Return masks that leave all tokens in."""
    return {f"{which}{name}": torch.ones(batch, tokens, dtype=torch.long) for which in ("", "negative_")}


def called(given: dict[str, Any], size: int | None = 64, **more: Any) -> dict[str, Any]:
    """Return the arguments of a call with the embeddings given."""
    sizes = {} if size is None else {"height": size, "width": size}
    return {**given, **sizes, "num_inference_steps": STEPS, "output_type": "latent", **more}


def flow(**config: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**config)


def ddim(**config: Any) -> DDIMScheduler:
    return DDIMScheduler(clip_sample=False, **BETAS, **config)


def euler(**config: Any) -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(**BETAS, **config)


# Pictures from text.


def pixart(kind: type = diffusers.PixArtAlphaPipeline, **more: Any) -> Any:
    transformer = model(
        diffusers.PixArtTransformer2DModel,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=8,
        use_additional_conditions=False,
    )
    return assembled(kind, transformer=transformer, scheduler=ddim(), **more)


def sana() -> Any:
    transformer = model(
        diffusers.SanaTransformer2DModel,
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=8,
    )
    return assembled(diffusers.SanaPipeline, transformer=transformer, scheduler=flow(shift=3.0))


def lumina2() -> Any:
    transformer = model(
        diffusers.Lumina2Transformer2DModel,
        sample_size=8,
        in_channels=4,
        hidden_size=24,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=3,
        num_kv_heads=1,
        multiple_of=2,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(128, 128, 128),
        cap_feat_dim=16,
    )
    return assembled(diffusers.Lumina2Pipeline, transformer=transformer, scheduler=flow())


def aura_flow() -> Any:
    transformer = model(
        diffusers.AuraFlowTransformer2DModel,
        sample_size=8,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pos_embed_max_size=64,
    )
    return assembled(diffusers.AuraFlowPipeline, transformer=randomized(transformer, gain=2.0), scheduler=flow())


def chroma() -> Any:
    transformer = model(
        diffusers.ChromaTransformer2DModel,
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=16,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    return assembled(diffusers.ChromaPipeline, transformer=transformer, scheduler=flow())


def hunyuan_dit() -> Any:
    transformer = model(
        diffusers.HunyuanDiT2DModel,
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        hidden_size=16,
        cross_attention_dim=16,
        cross_attention_dim_t5=16,
        pooled_projection_dim=8,
        text_len=7,
        text_len_t5=5,
    )
    return assembled(
        diffusers.HunyuanDiTPipeline, transformer=transformer, scheduler=ddim(), requires_safety_checker=False
    )


def _of_hunyuan_dit(batch: int) -> dict[str, Any]:
    second = {f"{name}_2": value for name, value in texts(batch, tokens=5).items()}
    second_masks = {f"{name}_2": value for name, value in masks(batch, tokens=5).items()}
    return called({**texts(batch), **masks(batch), **second, **second_masks}, use_resolution_binning=False)


def hidream() -> Any:
    transformer = model(
        diffusers.HiDreamImageTransformer2DModel,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=[16, 16],
        text_emb_dim=16,
        num_routed_experts=2,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(8, 8),
        llama_layers=(0, 1),
        force_inference_output=True,
    )
    pipe = assembled(diffusers.HiDreamImagePipeline, transformer=transformer, scheduler=flow())
    pipe.default_sample_size = 8  # to whose area it brings every picture
    return pipe


def _of_hidream(batch: int) -> dict[str, Any]:
    given = drawn(
        prompt_embeds_t5=(batch, 7, 16),
        negative_prompt_embeds_t5=(batch, 7, 16),
        prompt_embeds_llama3=(2, batch, 7, 16),
        negative_prompt_embeds_llama3=(2, batch, 7, 16),
        pooled_prompt_embeds=(batch, 16),
        negative_pooled_prompt_embeds=(batch, 16),
    )
    return called(given)


def cogview3() -> Any:
    transformer = model(
        diffusers.CogView3PlusTransformer2DModel,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=16,
        time_embed_dim=16,
        condition_dim=4,
        pos_embed_max_size=8,
        sample_size=8,
    )
    return assembled(diffusers.CogView3PlusPipeline, transformer=transformer, scheduler=ddim())


def cogview4() -> Any:
    transformer = model(
        diffusers.CogView4Transformer2DModel,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=16,
        time_embed_dim=16,
        condition_dim=4,
        rope_axes_dim=(8, 8),
    )
    return assembled(diffusers.CogView4Pipeline, transformer=transformer, scheduler=flow())


def flux2_klein(kind: type = diffusers.Flux2KleinPipeline) -> Any:
    transformer = model(
        diffusers.Flux2Transformer2DModel,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    vae = model(
        diffusers.AutoencoderKLFlux2,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(8,),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=8,
    )
    return assembled(kind, transformer=randomized(transformer, gain=2.0), scheduler=flow(), vae=vae)


def hunyuan_image() -> Any:
    transformer = model(
        diffusers.HunyuanImageTransformer2DModel,
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=16,
        text_embed_2_dim=8,
        rope_axes_dim=(4, 4),
    )
    return assembled(
        diffusers.HunyuanImagePipeline,
        transformer=transformer,
        scheduler=flow(),
        guider=diffusers.ClassifierFreeGuidance(guidance_scale=5.0),
    )


def _of_hunyuan_image(batch: int) -> dict[str, Any]:
    second = {f"{name}_2": value for name, value in texts(batch, width=8, tokens=5).items()}
    second_masks = {f"{name}_2": value for name, value in masks(batch, "prompt_embeds_mask", tokens=5).items()}
    given = {**texts(batch), **masks(batch, "prompt_embeds_mask"), **second, **second_masks}
    return called({name.replace("embeds_mask_2", "embeds_mask_2"): value for name, value in given.items()}, size=256)


def prx() -> Any:
    transformer = model(
        diffusers.PRXTransformer2DModel,
        in_channels=4,
        context_in_dim=16,
        hidden_size=16,
        num_heads=2,
        depth=1,
        axes_dim=[4, 4],
    )
    return assembled(diffusers.PRXPipeline, transformer=randomized(transformer), scheduler=flow())


def _with_masks(batch: int) -> dict[str, Any]:
    return called({**texts(batch), **masks(batch)})


def _without_a_prompt(batch: int, size: int = 64) -> dict[str, Any]:
    given = {**texts(batch), **masks(batch), "negative_prompt": None}
    return called(given, size, use_resolution_binning=False)


CFG = {"guidance_scale": 5.0}
ABOVE = {"guidance_scale": 4.0}
"Of pipelines whose formula counts from the positive prediction, `c + s·(c − u)`."


def _case(name: str, make: Callable[[], Any], mechanism: str, inputs: Any = None, **more: Any) -> Case:
    return Case(
        name, make, inputs or _with_masks, more.pop("own", CFG), more.pop("spec", "cfg:scale=5"), mechanism, **more
    )


CASES = [
    _case("PixArt-α", pixart, ONE, _without_a_prompt),
    _case("PixArt-Σ", lambda: pixart(diffusers.PixArtSigmaPipeline), ONE, _without_a_prompt),
    _case("Sana", sana, ONE, lambda b: _without_a_prompt(b, size=256)),
    _case("Lumina 2", lumina2, TWO, spec="cfg:scale=5,normalize:form=match"),
    _case("AuraFlow", aura_flow, ONE),
    _case("Chroma", chroma, TWO, lambda b: called({**texts(b), **{k: v.float() for k, v in masks(b).items()}})),
    _case(
        "Hunyuan-DiT, rescale",
        hunyuan_dit,
        ONE,
        _of_hunyuan_dit,
        own={**CFG, "guidance_rescale": 0.7},
        spec="cfg:scale=5,rescale:phi=0.7",
    ),
    _case("HiDream", hidream, ONE, _of_hidream),
    _case("CogView 3 Plus", cogview3, ONE, lambda b: called(texts(b))),
    _case("CogView 4", cogview4, TWO, lambda b: called(texts(b, tokens=16))),
    _case("FLUX.2 klein", flux2_klein, TWO, lambda b: called(texts(b), size=8)),
    _case("HunyuanImage 2.1", hunyuan_image, TWO, _of_hunyuan_image, own={}),
    _case(
        "PRX",
        prx,
        ONE,
        lambda b: called(
            {**texts(b), **{k: v.bool() for k, v in masks(b).items()}}, size=256, use_resolution_binning=False
        ),
        takes_several=False,
    ),
]
