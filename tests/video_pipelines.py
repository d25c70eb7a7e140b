"""More of diffusers' text-to-video and image-to-video pipelines with small random components, and calls of them."""

from __future__ import annotations

import sys
from typing import Any

import diffusers
import torch
from diffusers import UniPCMultistepScheduler
from picture_pipelines import CFG, assembled, called, ddim, drawn, flow, masks, model, texts
from small_pipelines import ONE, TWO, Case, seeded


def ltx() -> Any:
    transformer = model(
        diffusers.LTXVideoTransformer3DModel,
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=2,
        caption_channels=16,
    )
    return assembled(diffusers.LTXPipeline, transformer=transformer, scheduler=flow(), vae=_ltx_vae())


def _ltx_vae() -> Any:
    return model(
        diffusers.AutoencoderKLLTXVideo,
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False, False, False, False, False),
        upsample_residual=(False, False, False, False),
        upsample_factor=(1, 1, 1, 1),
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )


def hunyuan_video() -> Any:
    transformer = model(
        diffusers.HunyuanVideoTransformer3DModel,
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=1,
        guidance_embeds=True,
        text_embed_dim=16,
        pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4),
    )
    return assembled(diffusers.HunyuanVideoPipeline, transformer=transformer, scheduler=flow())


def _of_hunyuan_video(batch: int) -> dict[str, Any]:
    pooled = drawn(pooled_prompt_embeds=(batch, 8), negative_pooled_prompt_embeds=(batch, 8))
    return called({**texts(batch), **masks(batch), **pooled}, size=32, num_frames=5)


def hunyuan_video_15() -> Any:
    transformer = model(
        diffusers.HunyuanVideo15Transformer3DModel,
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_refiner_layers=1,
        text_embed_dim=16,
        text_embed_2_dim=8,
        image_embed_dim=12,
        rope_axes_dim=(2, 2, 4),
        target_size=16,
        task_type="t2v",
    )
    vae = model(
        diffusers.AutoencoderKLHunyuanVideo15,
        latent_channels=4,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=4,
    )
    return assembled(
        diffusers.HunyuanVideo15Pipeline,
        transformer=transformer,
        scheduler=flow(),
        vae=vae,
        guider=diffusers.ClassifierFreeGuidance(guidance_scale=5.0),
    )


def _of_hunyuan_video_15(batch: int) -> dict[str, Any]:
    second = {f"{name}_2": value for name, value in texts(batch, width=8, tokens=5).items()}
    second_masks = {f"{name}_2": value for name, value in masks(batch, "prompt_embeds_mask", tokens=5).items()}
    given = {**texts(batch), **masks(batch, "prompt_embeds_mask"), **second, **second_masks}
    return called(given, size=16, num_frames=5)


def cogvideox() -> Any:
    transformer = model(
        diffusers.CogVideoXTransformer3DModel,
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=16,
        num_layers=1,
        sample_width=8,
        sample_height=8,
        sample_frames=5,
        max_text_seq_length=7,
        use_rotary_positional_embeddings=True,
    )
    scheduler = diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction", clip_sample=False)
    return assembled(diffusers.CogVideoXPipeline, transformer=transformer, scheduler=scheduler)


def mochi() -> Any:
    transformer = model(
        diffusers.MochiTransformer3DModel,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        in_channels=12,
        text_embed_dim=16,
        time_embed_dim=4,
        max_sequence_length=7,
    )
    return assembled(diffusers.MochiPipeline, transformer=transformer, scheduler=flow(invert_sigmas=True))


def allegro() -> Any:
    transformer = model(
        diffusers.AllegroTransformer3DModel,
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        cross_attention_dim=24,
        sample_width=8,
        sample_height=8,
        sample_frames=8,
        caption_channels=16,
    )
    return assembled(diffusers.AllegroPipeline, transformer=transformer, scheduler=ddim())


def latte() -> Any:
    transformer = model(
        diffusers.LatteTransformer3DModel,
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        cross_attention_dim=16,
        attention_bias=True,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=16,
        video_length=1,
    )
    return assembled(diffusers.LattePipeline, transformer=transformer, scheduler=ddim())


def _without_a_prompt(batch: int, size: int = 64, **more: Any) -> dict[str, Any]:
    return called({**texts(batch), "negative_prompt": None}, size, **more)


def cosmos2() -> Any:
    transformer = model(
        diffusers.CosmosTransformer3DModel,
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        mlp_ratio=2,
        text_embed_dim=16,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
        rope_scale=(1.0, 4.0, 4.0),
        concat_padding_mask=True,
        extra_pos_embed_type=None,
    )
    scheduler = flow(use_karras_sigmas=True)
    return assembled(UnguardedCosmos2, transformer=transformer, scheduler=scheduler)


class Transforms:
    """The one function of torchvision that Cosmos uses, on a mask of zeros, for where torchvision is not installed."""

    class functional:
        @staticmethod
        def resize(mask: torch.Tensor, size: Any, **_: Any) -> torch.Tensor:
            return torch.nn.functional.interpolate(mask, size=list(size))

    class InterpolationMode:
        NEAREST = None


vars(sys.modules[diffusers.CosmosTransformer3DModel.__module__]).setdefault("transforms", Transforms)


def animate_diff() -> Any:
    unet = model(
        diffusers.UNetMotionModel,
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        cross_attention_dim=16,
        num_attention_heads=2,
        motion_num_attention_heads=2,
        norm_num_groups=8,
    )
    return assembled(diffusers.AnimateDiffPipeline, unet=unet, scheduler=ddim(), motion_adapter=None)


def sana_video() -> Any:
    transformer = model(
        diffusers.SanaVideoTransformer3DModel,
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=16,
        sample_size=8,
    )
    return assembled(diffusers.SanaVideoPipeline, transformer=transformer, scheduler=flow())


def skyreels() -> Any:
    transformer = model(
        diffusers.SkyReelsV2Transformer3DModel,
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )
    return assembled(diffusers.SkyReelsV2Pipeline, transformer=transformer, scheduler=_flow_unipc())


def _flow_unipc() -> Any:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def _wan_vae() -> Any:
    return model(
        diffusers.AutoencoderKLWan, base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )  # fmt: skip


def wan_image_to_video() -> Any:
    config = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 36,
        "out_channels": 16,
        "text_dim": 16,
        "freq_dim": 32,
        "ffn_dim": 32,
        "num_layers": 2,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 32,
    }

    def transformer(seed: int = 0) -> Any:
        return seeded(lambda: diffusers.WanTransformer3DModel(**config).eval(), seed)

    return diffusers.WanImageToVideoPipeline(
        tokenizer=None, text_encoder=None, vae=_wan_vae(), scheduler=_flow_unipc(), transformer=transformer(),
        transformer_2=transformer(1), boundary_ratio=0.6,
    )  # fmt: skip


def wan_vace() -> Any:
    transformer = model(
        diffusers.WanVACETransformer3DModel,
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=16,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
        vace_layers=[0],
        vace_in_channels=96,
    )
    return diffusers.WanVACEPipeline(
        tokenizer=None, text_encoder=None, vae=_wan_vae(), scheduler=_flow_unipc(), transformer=transformer
    )


def _of_wan(batch: int, **more: Any) -> dict[str, Any]:
    return called(texts(batch), size=32, num_frames=5, **more)


def _image(size: int = 32) -> torch.Tensor:
    return drawn(image=(1, 3, size, size))["image"].clamp(-1, 1) / 2 + 0.5


class Unguarded(torch.nn.Module):
    """Finds everything safe."""

    device = torch.device("cpu")
    dtype = torch.float32


class UnguardedCosmos2(diffusers.Cosmos2TextToImagePipeline):
    """Cosmos without the guardrail, which downloads models."""

    def __init__(self, text_encoder, tokenizer, transformer, vae, scheduler, safety_checker=None):
        super().__init__(text_encoder, tokenizer, transformer, vae, scheduler, Unguarded())


CASES = [
    Case(
        "LTX-Video, rescale",
        ltx,
        lambda b: called({**texts(b), **masks(b)}, size=32, num_frames=9),
        {**CFG, "guidance_rescale": 0.7},
        "cfg:scale=5,rescale:phi=0.7",
        ONE,
    ),
    Case("HunyuanVideo", hunyuan_video, _of_hunyuan_video, {"true_cfg_scale": 5.0}, "cfg:scale=5", TWO),
    Case("HunyuanVideo 1.5", hunyuan_video_15, _of_hunyuan_video_15, {}, "cfg:scale=5", TWO),
    Case("CogVideoX", cogvideox, lambda b: called(texts(b), num_frames=5), CFG, "cfg:scale=5", ONE),
    Case(
        "Mochi",
        mochi,
        lambda b: called({**texts(b), **{k: v.bool() for k, v in masks(b).items()}}, size=32, num_frames=7),
        CFG,
        "cfg:scale=5",
        ONE,
    ),
    Case(
        "Allegro",
        allegro,
        lambda b: called({**texts(b), **masks(b), "negative_prompt": None}, num_frames=8),
        CFG,
        "cfg:scale=5",
        ONE,
    ),
    Case("Latte", latte, lambda b: _without_a_prompt(b, video_length=1, clean_caption=False), CFG, "cfg:scale=5", ONE),
    Case("Cosmos 2", cosmos2, lambda b: called(texts(b)), {"guidance_scale": 4.0}, "cfg:scale=5", TWO),
    Case("AnimateDiff", animate_diff, lambda b: called(texts(b), num_frames=3), CFG, "cfg:scale=5", ONE),
    Case(
        "Sana-Video",
        sana_video,
        lambda b: called({**texts(b), **masks(b), "negative_prompt": None}, frames=5, use_resolution_binning=False),
        CFG,
        "cfg:scale=5",
        ONE,
    ),
    Case("SkyReels 2", skyreels, _of_wan, CFG, "cfg:scale=5", TWO),
    Case("Wan 2.2, image to video", wan_image_to_video, lambda b: _of_wan(b, image=_image()), CFG, "cfg:scale=5", TWO),
    Case("Wan VACE", wan_vace, _of_wan, CFG, "cfg:scale=5", TWO, takes_several=False),
]
