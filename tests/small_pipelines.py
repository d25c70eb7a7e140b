"""diffusers' pipelines with small random components, the same for the same seed, and calls of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import torch
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    HeunDiscreteScheduler,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
    PNDMScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors
from diffusers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()


def seeded(make: Callable[[], Any], seed: int = 0) -> Any:
    """Return what `make` makes with torch's generator at a seed, which is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


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


def unet(**more: Any) -> UNet2DConditionModel:
    config: dict[str, Any] = {
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**{**config, **more}).eval()


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def stable_diffusion(scheduler: Any) -> StableDiffusionPipeline:
    """Return a pipeline with a scheduler of the class `scheduler`, or with the scheduler given."""
    return StableDiffusionPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=seeded(unet),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl() -> StableDiffusionXLPipeline:
    model = seeded(
        lambda: unet(
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 24,
            use_linear_projection=True,
        )
    )
    return StableDiffusionXLPipeline(
        vae=None,
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=model,
        scheduler=EulerDiscreteScheduler(**BETAS),
        add_watermarker=False,
    )


def stable_diffusion_3() -> StableDiffusion3Pipeline:
    model = seeded(
        lambda: SD3Transformer2DModel(
            sample_size=8,
            patch_size=1,
            in_channels=4,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            caption_projection_dim=16,
            pooled_projection_dim=24,
            out_channels=4,
            pos_embed_max_size=16,
        ).eval()
    )
    nothing = dict.fromkeys(
        ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
    )
    return StableDiffusion3Pipeline(
        transformer=model, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), image_encoder=None,
        feature_extractor=None, **nothing,
    )  # fmt: skip


def flux() -> FluxPipeline:
    model = seeded(
        lambda: FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=24,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        ).eval()
    )
    nothing = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    return FluxPipeline(transformer=model, scheduler=FlowMatchEulerDiscreteScheduler(), **nothing)


def qwen_image() -> QwenImagePipeline:
    model = seeded(
        lambda: QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(8, 4, 4),
        ).eval()
    )
    nothing = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    return QwenImagePipeline(transformer=model, scheduler=FlowMatchEulerDiscreteScheduler(), **nothing)


def wan(*, experts: int = 1) -> WanPipeline:
    def model() -> WanTransformer3DModel:
        return WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=16,
            freq_dim=32,
            ffn_dim=32,
            num_layers=2,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
        ).eval()

    return WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        transformer=seeded(model),
        transformer_2=seeded(model, seed=1) if experts == 2 else None,
        boundary_ratio=0.6 if experts == 2 else None,
    )


def z_image() -> ZImagePipeline:
    model = seeded(
        lambda: ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[4, 6, 6],
            axes_lens=[128, 32, 32],
        ).eval()
    )
    for weight in model.parameters():  # some begin as zeros or as memory that is not initialized
        with torch.no_grad():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())) / 4)
    nothing = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    return ZImagePipeline(transformer=model, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), **nothing)


# Calls of them, as people write them.


STEPS = 5


@attrs.frozen
class Case:
    """A pipeline, a call of it with guidance of its own, and the stack that does the same."""

    name: str
    make: Callable[[], Any]
    inputs: Callable[[int], dict[str, Any]]
    "The arguments of a call for a number of prompts, without those of its guidance."
    own: dict[str, Any]
    "The arguments of its own guidance."
    spec: str
    "The stack that is equal to it."
    mechanism: str
    takes_several: bool = True
    "Whether the pipeline itself takes several prompts."
    steps: int = STEPS
    "How many steps the call makes."

    def pipeline(self) -> Any:
        """Return the pipeline, quiet."""
        pipe = self.make()
        pipe.set_progress_bar_config(disable=True)
        return pipe


def _drawn(*names_and_shapes: tuple[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {name: torch.randn(shape, generator=generator) for name, shape in names_and_shapes}


def _prompts(batch: int, *, pooled: bool = False, mask: bool = False, size: int = 64, **more: Any) -> dict[str, Any]:
    shapes = [("prompt_embeds", (batch, 7, 16)), ("negative_prompt_embeds", (batch, 7, 16))]
    if pooled:
        shapes += [("pooled_prompt_embeds", (batch, 24)), ("negative_pooled_prompt_embeds", (batch, 24))]
    masks = {f"{name}prompt_embeds_mask": torch.ones(batch, 7, dtype=torch.long) for name in ("", "negative_")}
    given = {**_drawn(*shapes), **(masks if mask else {})}
    return {**given, "height": size, "width": size, "num_inference_steps": STEPS, "output_type": "latent", **more}


def _with_pooled(batch: int) -> dict[str, Any]:
    return _prompts(batch, pooled=True)


def _with_mask(batch: int) -> dict[str, Any]:
    return _prompts(batch, mask=True)


def _listed(batch: int) -> dict[str, Any]:
    """Return prompts as lists, with an entry for each."""
    given = _prompts(batch)
    return {name: list(value) if "embeds" in name else value for name, value in given.items()}


def _of_video(batch: int) -> dict[str, Any]:
    return _prompts(batch, size=32, num_frames=5)


def _of_video_and_audio(batch: int) -> dict[str, Any]:
    sizes = {"height": 32, "width": 32, "num_frames": 5, "frame_rate": 25.0}
    return {**ltx2_prompts(batch), **sizes, "num_inference_steps": STEPS, "output_type": "latent"}


LTX2_OWN = {
    "guidance_scale": 3.0,
    "audio_guidance_scale": 7.0,
    "stg_scale": 1.0,
    "audio_stg_scale": 1.0,
    "modality_scale": 3.0,
    "audio_modality_scale": 2.0,
    "guidance_rescale": 0.7,
    "audio_guidance_rescale": 0.7,
    "spatio_temporal_guidance_blocks": [1],
}
LTX2_SPEC = (
    "ltx2:cfg_scale={video: 3, audio: 7},stg_scale=1,rescale_scale=0.7,stg_blocks=1,modality_scale={video: 3, audio: 2}"
)
ONE, TWO = "one stacked call", "two calls"

CASES = [
    Case(
        "Stable Diffusion, DDIM",
        lambda: stable_diffusion(DDIMScheduler(clip_sample=False, **BETAS)),
        _prompts,
        {"guidance_scale": 5.0},
        "cfg:scale=5",
        ONE,
    ),
    Case(
        "Stable Diffusion, PNDM",
        lambda: stable_diffusion(PNDMScheduler(skip_prk_steps=True, steps_offset=1, **BETAS)),
        _prompts,
        {"guidance_scale": 5.0},
        "cfg:scale=5",
        ONE,
    ),
    Case(
        "Stable Diffusion, Euler",
        lambda: stable_diffusion(EulerDiscreteScheduler(**BETAS)),
        _prompts,
        {"guidance_scale": 5.0},
        "cfg:scale=5",
        ONE,
    ),
    Case(
        "Stable Diffusion, Euler, v prediction",
        lambda: stable_diffusion(EulerDiscreteScheduler(prediction_type="v_prediction", **BETAS)),
        _prompts,
        {"guidance_scale": 5.0},
        "cfg:scale=5",
        ONE,
    ),
    Case(
        "Stable Diffusion, Heun",
        lambda: stable_diffusion(HeunDiscreteScheduler(**BETAS)),
        _prompts,
        {"guidance_scale": 5.0},
        "cfg:scale=5",
        ONE,
    ),
    Case(
        "Stable Diffusion XL, rescale",
        stable_diffusion_xl,
        _with_pooled,
        {"guidance_scale": 5.0, "guidance_rescale": 0.7},
        "cfg:scale=5,rescale:phi=0.7",
        ONE,
    ),
    Case("Stable Diffusion 3", stable_diffusion_3, _with_pooled, {"guidance_scale": 5.0}, "cfg:scale=5", ONE),
    Case("Flux", flux, _with_pooled, {"true_cfg_scale": 5.0}, "cfg:scale=5", TWO),
    Case("Qwen-Image", qwen_image, _with_mask, {"true_cfg_scale": 4.0}, "cfg:scale=4,normalize:form=match", TWO),
    Case("Z-Image", z_image, _listed, {"guidance_scale": 4.0}, "cfg:scale=5", ONE),
    Case("Wan 2.1", wan, _of_video, {"guidance_scale": 5.0}, "cfg:scale=5", TWO),
    Case("Wan 2.2, two experts", lambda: wan(experts=2), _of_video, {"guidance_scale": 5.0}, "cfg:scale=5", TWO),
    Case("LTX-2, type 2.0", lambda: ltx2("2.0"), _of_video_and_audio, LTX2_OWN, LTX2_SPEC, ONE),
    Case("LTX-2, type 2.3", lambda: ltx2("2.3"), _of_video_and_audio, LTX2_OWN, LTX2_SPEC, ONE),
]
