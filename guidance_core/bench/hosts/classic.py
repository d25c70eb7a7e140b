"""Classic pipelines of diffusers with `guide`: Stable Diffusion, Wan and LTX-2."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch

from guidance_core.bench.hosts.subject import Counted, NotInstalledError, Subject, Way, drawn, saving, with_weights
from guidance_core.hosts.diffusers import guide
from guidance_core.hosts.diffusers.pipelines import pattern_of

STEPS = 5
SCALE = 5.0
TEXTS = ("prompt_embeds", "negative_prompt_embeds")


def diffusers_package() -> Any:
    """Return diffusers, quiet.

    Raises:
        NotInstalledError: it is not installed.
    """
    try:
        found: Any = importlib.import_module("diffusers")
    except ImportError:
        raise NotInstalledError("diffusers is not installed; pip install 'guidance-core[hosts]'") from None
    found.utils.logging.set_verbosity_error()
    found.utils.logging.disable_progress_bar()
    return found


def stable_diffusion(tiny: bool) -> Subject:
    """Return Stable Diffusion with Euler, whose model gets both conditions in one batch."""
    diffusers = diffusers_package()
    wide, size = (16, 64) if tiny else (128, 256)
    model = with_weights(
        lambda: diffusers.UNet2DConditionModel(
            block_out_channels=(wide, 2 * wide),
            layers_per_block=1,
            sample_size=size // 8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=wide,
            attention_head_dim=8,
            norm_num_groups=8,
        )
    )
    pipe = diffusers.StableDiffusionPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=model,
        scheduler=diffusers.EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )

    def inputs(seed: int) -> dict[str, Any]:
        texts = drawn(seed, **dict.fromkeys(TEXTS, (1, 16, wide)))
        return {**texts, "height": size, "width": size}

    return _subject("diffusers, Stable Diffusion", pipe, model, inputs, {"guidance_scale": SCALE})


def wan_pipeline(tiny: bool) -> Any:
    """Return a pipeline of Wan 2.1 without text encoder and VAE."""
    diffusers = diffusers_package()
    heads, layers = (2, 2) if tiny else (8, 7)
    model = with_weights(
        lambda: diffusers.WanTransformer3DModel(
            num_attention_heads=heads,
            attention_head_dim=32,
            in_channels=16,
            out_channels=16,
            text_dim=32,
            freq_dim=32,
            ffn_dim=4 * 32 * heads,
            num_layers=layers,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
        )
    )
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return diffusers.WanPipeline(
        tokenizer=None, text_encoder=None, vae=None, scheduler=scheduler, transformer=model, transformer_2=None
    )


def wan_inputs(tiny: bool, seed: int) -> dict[str, Any]:
    """Return the arguments of a call that are not its guidance."""
    size = 32 if tiny else 192
    return {**drawn(seed, **dict.fromkeys(TEXTS, (1, 16, 32))), "height": size, "width": size, "num_frames": 9}


def wan(tiny: bool) -> Subject:
    """Return Wan 2.1, which calls its model for one condition after the other."""
    pipe = wan_pipeline(tiny)
    own = {"guidance_scale": SCALE}
    return _subject("diffusers, Wan 2.1", pipe, pipe.transformer, lambda seed: wan_inputs(tiny, seed), own)


CAPTION, TEXT_LAYERS = 64, 2
LTX2_OWN = {
    "guidance_scale": 3.0,
    "audio_guidance_scale": 7.0,
    "stg_scale": 1.0,
    "audio_stg_scale": 1.0,
    "modality_scale": 3.0,
    "audio_modality_scale": 3.0,
    "guidance_rescale": 0.7,
    "audio_guidance_rescale": 0.7,
    "spatio_temporal_guidance_blocks": [1],
}
LTX2_SPEC = "ltx2:cfg_scale={video: 3, audio: 7},stg_scale=1,rescale_scale=0.7,stg_blocks=1,modality_scale=3"


def ltx2(tiny: bool) -> Subject:
    """Return LTX-2 with its four branches."""
    diffusers = diffusers_package()
    heads, layers, size = (2, 2, 64) if tiny else (8, 8, 768)
    model = with_weights(
        lambda: diffusers.LTX2VideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=heads,
            attention_head_dim=32,
            cross_attention_dim=32 * heads,
            audio_in_channels=4,
            audio_out_channels=4,
            audio_num_attention_heads=heads,
            audio_attention_head_dim=16,
            audio_cross_attention_dim=16 * heads,
            perturbed_attn=True,
            num_layers=layers,
            caption_channels=CAPTION,
            rope_double_precision=False,
            rope_type="split",
            use_prompt_adaln_single=True,
        )
    )
    pipe = diffusers.LTX2Pipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=_ltx2_vae(diffusers),
        audio_vae=_ltx2_audio_vae(diffusers),
        text_encoder=None,
        tokenizer=None,
        connectors=_ltx2_connectors(),
        transformer=model,
        vocoder=None,
    )

    def inputs(seed: int) -> dict[str, Any]:
        shape = (1, 16, CAPTION * TEXT_LAYERS)
        masks = {name.replace("embeds", "attention_mask"): torch.ones(shape[:2], dtype=torch.long) for name in TEXTS}
        sizes = {"height": size, "width": size, "num_frames": 9, "frame_rate": 25.0}
        return {**drawn(seed, **dict.fromkeys(TEXTS, shape)), **masks, **sizes}

    specs = saving(LTX2_SPEC, skip_step=f"{LTX2_SPEC},skip_step=1")
    return _subject("diffusers, LTX-2", pipe, model, inputs, LTX2_OWN, specs)


def _ltx2_vae(diffusers: Any) -> Any:
    return with_weights(
        lambda: diffusers.AutoencoderKLLTX2Video(
            latent_channels=4,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1),
        )
    )


def _ltx2_audio_vae(diffusers: Any) -> Any:
    return with_weights(
        lambda: diffusers.AutoencoderKLLTX2Audio(
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
    )


def _ltx2_connectors() -> Any:
    kind: Any = importlib.import_module("diffusers.pipelines.ltx2").LTX2TextConnectors
    return with_weights(
        lambda: kind(
            caption_channels=CAPTION,
            text_proj_in_factor=TEXT_LAYERS,
            video_connector_num_attention_heads=4,
            video_connector_attention_head_dim=CAPTION // 4,
            video_connector_num_layers=1,
            video_connector_num_learnable_registers=None,
            audio_connector_num_attention_heads=4,
            audio_connector_attention_head_dim=CAPTION // 4,
            audio_connector_num_layers=1,
            audio_connector_num_learnable_registers=None,
            connector_rope_base_seq_len=32,
            rope_double_precision=False,
            rope_type="split",
        )
    )


def _subject(
    name: str,
    pipe: Any,
    model: Any,
    inputs: Callable[[int], dict[str, Any]],
    own: Mapping[str, Any],
    specs: Mapping[str, str] | None = None,
) -> Subject:
    """Return a pipeline whose calls end with latents."""
    pipe.set_progress_bar_config(disable=True)
    counted = Counted()
    counted.watch(model, "hidden_states", "sample")

    def call(of: Callable[..., Any], seed: int, **more: Any) -> Any:
        generator = torch.Generator().manual_seed(seed)
        return of(
            **inputs(seed),
            **more,
            num_inference_steps=STEPS,
            generator=generator,
            output_type="latent",
            return_dict=False,
        )

    def ours(spec: str, way: Way, seed: int) -> Any:
        return call(guide(pipe, spec, executor=way), seed)

    return Subject(
        name,
        diffusers_package().__version__,
        STEPS,
        lambda seed: call(pipe, seed, **own),
        ours,
        specs or saving(f"cfg:scale={SCALE:g}"),
        counted,
        usual=None,
        other="serial" if pattern_of(pipe).is_stacked else "",
    )
