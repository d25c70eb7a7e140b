"""Generations with ltx-pipelines' own samplers and a small model of ltx-core: functions that processes can import."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
from typing import Any

import torch
from ltx_engine import loaded

from guidance_core.hosts.ltx import StackDenoiser

LAYERS, CAPTION, HEADS = 3, 24, 2
VIDEO, AUDIO_FRAMES, CHANNELS = (1, 16, 3, 2, 2), 5, 16


class Counted(torch.nn.Module):
    """A transformer whose forward passes are counted, and how many of each output they computed."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.velocity_model = model
        self.passes, self.computed = 0, {"video": 0, "audio": 0}

    def forward(self, video: Any, audio: Any, perturbations: Any) -> Any:
        given = {"video": video, "audio": audio}
        rows = next(each.latent.shape[0] for each in given.values() if each is not None)
        self.passes += rows
        for output, each in given.items():
            self.computed[output] += rows if each is not None and each.enabled else 0
        return self.velocity_model(video, audio, perturbations)


def transformer(theirs: Any, kind: str = "2.0") -> Any:
    """Return a small `X0Model`; 2.3-type models modulate their text, and gate their attention."""
    is_newer = kind != "2.0"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        sizes = {"video": HEADS * 16, "audio": HEADS * 8}
        project = theirs.adaln.PixArtAlphaTextProjection
        projections = {} if is_newer else {
            "caption_projection": project(CAPTION, sizes["video"]),
            "audio_caption_projection": project(CAPTION, sizes["audio"]),
        }  # fmt: skip
        model = theirs.transformer.LTXModel(
            num_attention_heads=HEADS,
            attention_head_dim=16,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_layers=LAYERS,
            cross_attention_dim=sizes["video"],
            audio_num_attention_heads=HEADS,
            audio_attention_head_dim=8,
            audio_in_channels=CHANNELS,
            audio_out_channels=CHANNELS,
            audio_cross_attention_dim=sizes["audio"],
            cross_attention_adaln=is_newer,
            apply_gated_attention=is_newer,
            **projections,
        )
        for parameter in model.parameters():
            parameter.data = torch.randn_like(parameter) * (0.2 if parameter.ndim > 1 else 0.1)
    counted = Counted(model.eval().requires_grad_(False))
    return _x0(theirs, counted)


def _x0(theirs: Any, counted: Counted) -> Any:
    model = theirs.transformer.X0Model(counted)
    if theirs.version != "1.0.0":
        type(counted).num_blocks = property(lambda self: self.velocity_model.num_blocks)  # type: ignore[attr-defined]
    return model


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def texts(kind: str = "2.0", seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    sizes = (CAPTION, CAPTION) if kind == "2.0" else (HEADS * 16, HEADS * 8)
    return drawn(seed, 1, 6, sizes[0]), drawn(seed + 1, 1, 6, sizes[1])


def states(theirs: Any, *, clean: float | None = None, frozen: bool = False, outputs: str = "both") -> tuple[Any, Any]:
    """Return noisy states of video and audio, built by ltx-core's own tools.

    `clean` is the strength of a first frame that is given, as in image-to-video.
    """
    from ltx_core.components.patchifiers import AudioPatchifier, VideoLatentPatchifier
    from ltx_core.tools import AudioLatentTools, VideoLatentTools
    from ltx_core.types import AudioLatentShape, VideoLatentShape

    noiser = theirs.noisers.GaussianNoiser(torch.Generator().manual_seed(3))
    video_tools = VideoLatentTools(VideoLatentPatchifier(patch_size=1), VideoLatentShape(*VIDEO), 24.0)
    audio_tools = AudioLatentTools(AudioPatchifier(patch_size=1), AudioLatentShape(1, 4, AUDIO_FRAMES, 4))
    items = []
    if clean is not None:
        image = drawn(11, 1, VIDEO[1], 1, *VIDEO[3:])
        items = [theirs.conditioning.VideoConditionByLatentIndex(image, clean, 0)]
    made = []
    for tools, conditionings in ((video_tools, items), (audio_tools, [])):
        state = theirs.helpers.state_with_conditionings(
            tools.create_initial_state("cpu", torch.float32), conditionings, tools
        )
        made.append(noiser(state, 1.0))
    if frozen:
        made[1] = dataclasses.replace(
            made[1], denoise_mask=torch.zeros_like(made[1].denoise_mask), clean_latent=made[1].latent, frozen=True
        )
    return (made[0] if outputs != "audio" else None), (made[1] if outputs != "video" else None)


def sampled(
    theirs: Any, sampler: str, model: Any, denoiser: Any, begun: tuple[Any, Any], sigmas: Any
) -> tuple[Any, Any]:
    """Return the latents that a sampler of ltx-pipelines ends with."""
    samplers, steps = theirs.samplers, theirs.steps
    loops = {
        "euler": (samplers.euler_denoising_loop, steps.EulerDiffusionStep, {}),
        "gradient": (samplers.gradient_estimating_euler_denoising_loop, steps.EulerDiffusionStep, {}),
        "res2s": (
            samplers.res2s_audio_video_denoising_loop,
            steps.Res2sDiffusionStep,
            {"model_dtype": torch.float32, "noise_seed": 4},
        ),
    }
    if theirs.version != "1.0.0":
        more = {"model_dtype": torch.float32, "noise_seed": 4}
        loops["ancestral"] = samplers.euler_ancestral_denoising_loop, steps.EulerAncestralDiffusionStep, more
        loops["cfg++"] = samplers.euler_cfg_pp_denoising_loop, steps.EulerCfgPpDiffusionStep, more
    loop, stepper, options = loops[sampler]
    given = {"transformer": model, "denoiser": denoiser} if theirs.version != "1.0.0" else {"denoise_fn": denoiser}
    with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
        ended = loop(sigmas=sigmas, video_state=begun[0], audio_state=begun[1], stepper=stepper(), **given, **options)
    return tuple(None if each is None else each.latent for each in ended)  # type: ignore[return-value]


def schedule(theirs: Any, steps: int = 6) -> torch.Tensor:
    return theirs.schedulers.LTX2Scheduler().execute(steps=steps).to(torch.float32)


def native(theirs: Any, model: Any, kind: str, video: Any, audio: Any, *, factory: bool = False, **options: Any) -> Any:
    """Return ltx-pipelines' own denoiser with these parameters, or factories, and texts."""
    positive, negative = options.pop("positive", texts(kind)), options.pop("negative", texts(kind, 7))
    guider = theirs.guiders.create_multimodal_guider_factory if factory else theirs.guiders.MultiModalGuider
    guiders = [guider(params, context) for params, context in zip((video, audio), negative, strict=True)]
    if theirs.version == "1.0.0":
        function = theirs.helpers.multi_modal_guider_denoising_func
        if factory:
            function = theirs.helpers.multi_modal_guider_factory_denoising_func
        return function(*guiders, *positive, model)
    own = theirs.denoisers.FactoryGuidedDenoiser if factory else theirs.denoisers.GuidedDenoiser
    return own(*positive, *guiders, **options)


def ours(theirs: Any, model: Any, kind: str, stack: Any, **options: Any) -> Any:
    """Return our denoiser in the form that the samplers of this version take, and itself."""
    conditions = {"positive": texts(kind), "negative": texts(kind, 7)}
    denoiser = StackDenoiser(stack, conditions, **options)
    return (denoiser.with_transformer(model) if theirs.version == "1.0.0" else denoiser), denoiser


def bits(*tensors: torch.Tensor | None) -> str:
    whole = b"".join(each.contiguous().numpy().tobytes() for each in tensors if each is not None)
    return hashlib.sha256(whole).hexdigest()


def on_ranks(version: str, kind: str, stack: str, sampler: str, executor: str) -> tuple[str, int, Any]:
    """Return the bits of a generation, and the passes of this process."""
    theirs = loaded(version)
    model = transformer(theirs, kind)
    given, _ = ours(theirs, model, kind, stack, executor=executor)
    made = sampled(theirs, sampler, model, given, states(theirs, clean=1.0), schedule(theirs))
    return bits(*made), model.velocity_model.passes, made
