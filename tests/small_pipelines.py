"""diffusers' pipelines with small random components, the same for the same seed."""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    FlowMatchEulerDiscreteScheduler,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors
from diffusers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()

CAPTION, LAYERS = 32, 2
"Width of a prompt's embedding, and how many of the text encoder's layers it holds."


def ltx2(kind: str) -> LTX2Pipeline:
    """Return a pipeline of type `2.0`, or of type `2.3`, whose transformer modulates the prompt by sigma."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        modulated = kind == "2.3"
        heads = {"num_attention_heads": 4, "attention_head_dim": 8, "cross_attention_dim": 32}
        audio_heads = {
            "audio_num_attention_heads": 4,
            "audio_attention_head_dim": 8,
            "audio_cross_attention_dim": 32,
        }
        transformer = LTX2VideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            **heads,
            audio_in_channels=4,
            audio_out_channels=4,
            **audio_heads,
            gated_attn=modulated,
            cross_attn_mod=modulated,
            audio_gated_attn=modulated,
            audio_cross_attn_mod=modulated,
            perturbed_attn=True,
            num_layers=2,
            caption_channels=CAPTION,
            vae_scale_factors=(2, 2, 2),
            rope_double_precision=False,
            rope_type="split",
            use_prompt_adaln_single=True,
        )
        connectors = LTX2TextConnectors(
            caption_channels=CAPTION,
            text_proj_in_factor=LAYERS,
            video_connector_num_attention_heads=4,
            video_connector_attention_head_dim=8,
            video_connector_num_layers=1,
            video_connector_num_learnable_registers=None,
            audio_connector_num_attention_heads=4,
            audio_connector_attention_head_dim=8,
            audio_connector_num_layers=1,
            audio_connector_num_learnable_registers=None,
            connector_rope_base_seq_len=32,
            rope_double_precision=False,
            rope_type="split",
        )
        vae = AutoencoderKLLTX2Video(
            latent_channels=4,
            block_out_channels=(8,),
            decoder_block_out_channels=(8,),
            layers_per_block=(1,),
            decoder_layers_per_block=(1, 1),
            spatio_temporal_scaling=(True,),
            decoder_spatio_temporal_scaling=(True,),
            decoder_inject_noise=(False, False),
            downsample_type=("spatial",),
            upsample_residual=(False,),
            upsample_factor=(1,),
            patch_size=1,
            patch_size_t=1,
        )
        audio_vae = AutoencoderKLLTX2Audio(
            base_channels=4,
            output_channels=2,
            ch_mult=(1,),
            num_res_blocks=1,
            attn_resolutions=None,
            in_channels=2,
            resolution=32,
            latent_channels=2,
            mid_block_add_attention=False,
            mel_bins=8,
        )
    return LTX2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        audio_vae=audio_vae,
        text_encoder=None,
        tokenizer=None,
        connectors=connectors.eval(),
        transformer=transformer.eval(),
        vocoder=None,
    )


def ltx2_prompts(batch: int = 1) -> dict[str, torch.Tensor]:
    """Return embeddings of a prompt and a negative prompt as the pipeline takes them."""
    generator = torch.Generator().manual_seed(1)
    shape = (batch, 8, CAPTION * LAYERS)
    return {
        "prompt_embeds": torch.randn(shape, generator=generator),
        "prompt_attention_mask": torch.ones(shape[:2], dtype=torch.long),
        "negative_prompt_embeds": torch.randn(shape, generator=generator),
        "negative_prompt_attention_mask": torch.ones(shape[:2], dtype=torch.long),
    }
