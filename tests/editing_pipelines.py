"""diffusers' pipelines that get more than a text, with small random components: pictures, masks, controls."""

from __future__ import annotations

import sys
from typing import Any

import diffusers
import torch
from diffusers import ControlNetModel
from picture_pipelines import (
    CFG,
    assembled,
    called,
    ddim,
    drawn,
    euler,
    flow,
    flux2_klein,
    masks,
    model,
    randomized,
    texts,
)
from PIL import Image
from small_pipelines import (
    ONE,
    TWO,
    Case,
    flux,
    qwen_image,
    seeded,
    stable_diffusion_3,
    stable_diffusion_xl,
    unet,
)

POOLED = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")


def with_pooled(batch: int, width: int = 24) -> dict[str, torch.Tensor]:
    return {**texts(batch), **drawn(**dict.fromkeys(POOLED, (batch, width)))}


def vae(**config: Any) -> Any:
    """Return an autoencoder whose latents have an eighth of a picture's sides."""
    return model(
        diffusers.AutoencoderKL,
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=2,
        latent_channels=4,
        layers_per_block=1,
        **config,
    )


def picture(channels: int = 3, size: int = 64) -> torch.Tensor:
    return drawn(picture=(1, channels, size, size))["picture"].clamp(-2, 2) / 4 + 0.5


def mask(size: int = 64) -> torch.Tensor:
    made = torch.zeros(1, 1, size, size)
    made[..., : size // 2] = 1.0
    return made


def _sd(kind: type, **parts: Any) -> Any:
    given = {"unet": seeded(unet), "vae": vae(), "scheduler": euler(), "requires_safety_checker": False, **parts}
    return assembled(kind, **given)


def controlnet(**config: Any) -> Any:
    return randomized(
        model(
            ControlNetModel,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=8,
            norm_num_groups=8,
            conditioning_embedding_out_channels=(4, 4, 4, 4),
            **config,
        )
    )


def ip_adapted() -> Any:
    """Return a pipeline whose U-Net looks at a picture through an adapter."""
    pipe = _sd(diffusers.StableDiffusionPipeline)
    generator = torch.Generator().manual_seed(4)
    tokens, width, clip = 4, 16, 12
    attentions = [
        module for name, module in pipe.unet.named_modules() if name.endswith("attn2") and hasattr(module, "to_k")
    ]
    adapter = {}
    for place, each in enumerate(attentions):
        for what in ("k", "v"):
            shape = (each.to_k.out_features, width)
            adapter[f"{2 * place + 1}.to_{what}_ip.weight"] = torch.randn(shape, generator=generator) / 4
    image = {
        "proj.weight": torch.randn(tokens * width, clip, generator=generator) / 4,
        "proj.bias": torch.zeros(tokens * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    pipe.unet._load_ip_adapter_weights([{"image_proj": image, "ip_adapter": adapter}])
    return pipe


def _xl(kind: type, **parts: Any) -> Any:
    base = stable_diffusion_xl()
    return assembled(kind, unet=base.unet, scheduler=base.scheduler, vae=vae(), **parts)


def _xl_control() -> Any:
    return controlnet(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 24,
        use_linear_projection=True,
    )


def sd3_control() -> Any:
    base = stable_diffusion_3()
    control = randomized(
        model(
            diffusers.SD3ControlNetModel,
            sample_size=8,
            patch_size=1,
            in_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            caption_projection_dim=16,
            pooled_projection_dim=24,
            out_channels=4,
            pos_embed_max_size=16,
        )
    )
    return assembled(
        diffusers.StableDiffusion3ControlNetPipeline,
        transformer=base.transformer,
        scheduler=base.scheduler,
        controlnet=control,
        vae=vae(),
    )


def _flux(kind: type, **parts: Any) -> Any:
    base = flux()
    return assembled(kind, transformer=base.transformer, scheduler=base.scheduler, vae=vae(shift_factor=0.1), **parts)


def flux_control() -> Any:
    control = model(
        diffusers.FluxControlNetModel,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=24,
        axes_dims_rope=[4, 4, 8],
    )
    return _flux(diffusers.FluxControlNetPipeline, controlnet=randomized(control))


def _qwen_vae() -> Any:
    return model(
        diffusers.AutoencoderKLQwenImage, base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        temperal_downsample=[False, True, True], latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip


def qwen_edit() -> Any:
    base = qwen_image()
    kind = diffusers.QwenImageEditPipeline
    # the pipeline makes a million pixels of every picture
    sys.modules[kind.__module__].calculate_dimensions = lambda area, ratio: (32, 48, None)
    return assembled(kind, transformer=base.transformer, scheduler=base.scheduler, vae=_qwen_vae())


def _of_qwen(batch: int, **more: Any) -> dict[str, Any]:
    return called({**texts(batch), **masks(batch, "prompt_embeds_mask")}, **more)


TRUE = {"true_cfg_scale": 5.0}

CASES = [
    Case(
        "Stable Diffusion, image to image",
        lambda: _sd(diffusers.StableDiffusionImg2ImgPipeline),
        lambda b: called(texts(b), None, image=picture(), strength=0.99),
        CFG,
        "cfg:scale=5",
        ONE,
        steps=4,
    ),
    Case(
        "Stable Diffusion, image to image with DDIM",
        lambda: _sd(diffusers.StableDiffusionImg2ImgPipeline, scheduler=ddim()),
        lambda b: called(texts(b), None, image=picture(), strength=0.7),
        CFG,
        "cfg:scale=5",
        ONE,
        steps=3,
    ),
    Case(
        "Stable Diffusion, inpainting",
        lambda: _sd(diffusers.StableDiffusionInpaintPipeline),
        lambda b: called(texts(b), image=picture(), mask_image=mask()),
        CFG,
        "cfg:scale=5",
        ONE,
    ),
    Case(
        "Stable Diffusion, inpainting with 9 channels",
        lambda: _sd(diffusers.StableDiffusionInpaintPipeline, unet=seeded(lambda: unet(in_channels=9))),
        lambda b: called(texts(b), image=picture(), mask_image=mask()),
        CFG,
        "cfg:scale=5",
        ONE,
    ),
    Case(
        "Stable Diffusion, ControlNet",
        lambda: _sd(diffusers.StableDiffusionControlNetPipeline, controlnet=controlnet()),
        lambda b: called(texts(b), image=picture()),
        CFG,
        "cfg:scale=5",
        ONE,
    ),
    Case(
        "Stable Diffusion, IP-Adapter",
        ip_adapted,
        lambda b: called(texts(b), ip_adapter_image_embeds=[drawn(image=(2, 1, 12))["image"]]),
        CFG,
        "cfg:scale=5",
        ONE,
    ),
    Case(
        "Stable Diffusion, PAG",
        lambda: _sd(diffusers.StableDiffusionPAGPipeline),
        lambda b: called(texts(b)),
        {**CFG, "pag_scale": 0.0},
        "cfg:scale=5",
        ONE,
    ),
    Case(
        "Stable Diffusion XL, image to image",
        lambda: _xl(diffusers.StableDiffusionXLImg2ImgPipeline),
        lambda b: called(with_pooled(b), None, image=picture(), strength=0.99),
        CFG,
        "cfg:scale=5",
        ONE,
        steps=4,
    ),
    Case(
        "Stable Diffusion XL, inpainting",
        lambda: _xl(diffusers.StableDiffusionXLInpaintPipeline),
        lambda b: called(with_pooled(b), image=picture(), mask_image=mask()),
        CFG,
        "cfg:scale=5",
        ONE,
        steps=4,
    ),
    Case(
        "Stable Diffusion XL, ControlNet",
        lambda: _xl(diffusers.StableDiffusionXLControlNetPipeline, controlnet=_xl_control()),
        lambda b: called(with_pooled(b), image=picture()),
        CFG,
        "cfg:scale=5",
        ONE,
    ),
    Case(
        "Stable Diffusion 3, image to image",
        lambda: assembled(
            diffusers.StableDiffusion3Img2ImgPipeline,
            transformer=stable_diffusion_3().transformer,
            scheduler=flow(shift=3.0),
            vae=vae(shift_factor=0.1),
        ),
        lambda b: called(with_pooled(b), image=picture(), strength=0.99),
        CFG,
        "cfg:scale=5",
        ONE,
    ),
    Case(
        "Stable Diffusion 3, ControlNet",
        sd3_control,
        lambda b: called(with_pooled(b), control_image=picture()),
        CFG,
        "cfg:scale=5",
        ONE,
    ),
    Case(
        "Flux, image to image",
        lambda: _flux(diffusers.FluxImg2ImgPipeline),
        lambda b: called(with_pooled(b), image=picture(), strength=0.99),
        TRUE,
        "cfg:scale=5",
        TWO,
    ),
    Case(
        "Flux, ControlNet",
        flux_control,
        lambda b: called(with_pooled(b), control_image=picture()),
        TRUE,
        "cfg:scale=5",
        TWO,
    ),
    Case(
        "Flux Kontext",
        lambda: _flux(diffusers.FluxKontextPipeline),
        lambda b: called(with_pooled(b), image=picture(), _auto_resize=False, max_area=4096),
        TRUE,
        "cfg:scale=5",
        TWO,
    ),
    Case(
        "FLUX.2 klein, with a picture",
        flux2_klein,
        lambda b: called(texts(b), size=8, image=Image.new("RGB", (64, 64), (200, 90, 10))),
        CFG,
        "cfg:scale=5",
        TWO,
    ),
    Case(
        "Qwen-Image-Edit",
        qwen_edit,
        lambda b: _of_qwen(b, image=Image.new("RGB", (32, 48), (200, 90, 10))),
        {"true_cfg_scale": 4.0},
        "cfg:scale=4,normalize:form=match",
        TWO,
    ),
]
