"""Generations with ltx-pipelines' own samplers and a small model of ltx-core: functions that processes can import."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import hashlib
import importlib
import io
from types import SimpleNamespace
from typing import Any

import torch
from ltx_engine import loaded

from guidance_core import AllGatherExecutor
from guidance_core.hosts.ltx import StackDenoiser, guide

LAYERS, CAPTION, HEADS = 3, 24, 2
VIDEO, AUDIO_FRAMES, CHANNELS = (1, 16, 3, 2, 2), 5, 16


@dataclasses.dataclass
class Log:
    """What a transformer was asked for."""

    calls: int = 0
    passes: int = 0
    computed: dict[str, int] = dataclasses.field(default_factory=lambda: {"video": 0, "audio": 0})
    "Passes that computed an output."


class Counted(torch.nn.Module):
    """A transformer whose forward passes are counted."""

    def __init__(self, model: Any, log: Log) -> None:
        super().__init__()
        self.model, self.log = model, log

    def forward(self, video: Any, audio: Any, perturbations: Any) -> Any:
        given = {"video": video, "audio": audio}
        rows = next(each.latent.shape[0] for each in given.values() if each is not None)
        self.log.calls += 1
        self.log.passes += rows
        for output, each in given.items():
            self.log.computed[output] += rows if each is not None and each.enabled else 0
        return self.model(video, audio, perturbations)

    def __getattr__(self, name: str) -> Any:
        if name in ("num_blocks", "transformer_blocks"):
            return getattr(self.model, name)
        return super().__getattr__(name)


def velocity(theirs: Any, kind: str = "2.0", channels: int = CHANNELS) -> Any:
    """Return a small `LTXModel`; 2.3-type models modulate their text, and gate their attention."""
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
            in_channels=channels,
            out_channels=channels,
            num_layers=LAYERS,
            cross_attention_dim=sizes["video"],
            audio_num_attention_heads=HEADS,
            audio_attention_head_dim=8,
            audio_in_channels=channels,
            audio_out_channels=channels,
            audio_cross_attention_dim=sizes["audio"],
            cross_attention_adaln=is_newer,
            apply_gated_attention=is_newer,
            **projections,
        )
        for parameter in model.parameters():
            parameter.data = torch.randn_like(parameter) * (0.2 if parameter.ndim > 1 else 0.1)
    return model.eval().requires_grad_(False)


def transformer(theirs: Any, kind: str = "2.0") -> tuple[Any, Log]:
    """Return a small `X0Model`, and what it is asked for."""
    log = Log()
    return theirs.transformer.X0Model(Counted(velocity(theirs, kind), log)), log


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


class Builder:
    """What a `DiffusionStage` builds its transformer with: anew for each call, since it throws it away."""

    checkpoint, model_sd_ops, module_ops, loras = "small", None, (), ()

    def __init__(self, model: Any, log: Log) -> None:
        self._model, self._log = model, log

    def build(self, **_: Any) -> Any:
        return Counted(copy.deepcopy(self._model), self._log)

    def model_config(self) -> dict[str, Any]:
        return {}

    def with_module_ops(self, _: Any) -> Builder:
        return self

    with_sd_ops = with_loras = with_module_ops


def pipeline(theirs: Any, name: str) -> tuple[Any, Log]:
    """Return a pipeline of ltx-pipelines with its own call and stages, and a small model in them."""
    module = importlib.import_module(f"ltx_pipelines.{name}")
    module.tiling_scale_factors_for_vae = lambda path: None
    module.ensure_tiling_config = lambda config, **_: None
    if name.endswith("hq"):
        loop = theirs.samplers.res2s_audio_video_denoising_loop
        module.res2s_audio_video_denoising_loop = functools.partial(loop, model_dtype=torch.float32)
    kind = next(value for key, value in vars(module).items() if key.startswith("TI2Vid") and isinstance(value, type))
    made, log = kind.__new__(kind), Log()
    builder = Builder(velocity(theirs, "2.3", 128), log)
    for stage in ("stage_1", "stage_2") if "two" in name else ("stage",):
        setattr(made, stage, theirs.blocks.DiffusionStage(builder, torch.float32, torch.device("cpu")))
    encoded = [SimpleNamespace(video_encoding=v, audio_encoding=a) for v, a in (texts("2.3"), texts("2.3", 7))]
    image = drawn(11, 1, 128, 1, 2, 2)

    def conditioned(encode: Any) -> list[Any]:
        large = made.enlarged
        latent = image.repeat_interleave(2, 3).repeat_interleave(2, 4) if large else image
        return [theirs.conditioning.VideoConditionByLatentIndex(latent, 1.0, 0)]

    class Images:
        resolve_crf = staticmethod(lambda images: images)
        __call__ = staticmethod(conditioned)

    def upsampler(latent: Any) -> Any:
        made.enlarged = True
        return latent.repeat_interleave(2, 3).repeat_interleave(2, 4)

    made.enlarged = False
    made.device, made._scheduler, made.duration_predictor = torch.device("cpu"), theirs.schedulers.LTX2Scheduler(), None
    made.prompt_encoder, made.image_conditioner, made.upsampler = lambda *_, **__: encoded, Images(), upsampler
    made.video_decoder = Decoder()
    made.audio_decoder = lambda latent: latent
    return made, log


class Decoder:
    checkpoint_path, diffvae_optimization = "", None

    def __call__(self, latent: Any, *_: Any, **__: Any) -> Any:
        return latent


def generated(made: Any, params: Any, steps: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the latents that a pipeline decodes."""
    size = 64 if hasattr(made, "stage") else 128
    made.enlarged = False
    with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
        video, audio, *_ = made(
            prompt="",
            negative_prompt="",
            seed=3,
            height=size,
            width=size,
            num_frames=9,
            frame_rate=24.0,
            num_inference_steps=steps,
            video_guider_params=dataclasses.replace(params.video_guider_params, stg_blocks=[1]),
            audio_guider_params=dataclasses.replace(params.audio_guider_params, stg_blocks=[1]),
            images=[],
        )
    return video, audio


def staged(theirs: Any, model: Any, *, denoiser: Any, sigmas: torch.Tensor) -> tuple[Any, Any]:
    """Do as a stage does, with the Euler sampler."""
    return sampled(theirs, "euler", model, denoiser, states(theirs), sigmas)


def pipeline_on_ranks(group: Any, name: str) -> tuple[str, int]:
    """Return the bits of what a guided pipeline generates, and the passes of this process."""
    theirs = loaded("1.2.0")
    made, log = pipeline(theirs, name)
    guide(made, executor="serial" if group is None else AllGatherExecutor(group))
    return bits(*generated(made, theirs.constants.LTX_2_3_PARAMS)), log.passes


def bits(*tensors: torch.Tensor | None) -> str:
    whole = b"".join(each.contiguous().numpy().tobytes() for each in tensors if each is not None)
    return hashlib.sha256(whole).hexdigest()


def on_ranks(
    group: Any, version: str, kind: str, stack: Any, sampler: str, repeats: bool = False
) -> tuple[str, int, Any]:
    """Return the bits of a generation, and the passes of this process."""
    theirs = loaded(version)
    model, log = transformer(theirs, kind)
    given, _ = ours(
        theirs,
        model,
        kind,
        stack,
        executor="serial" if group is None else AllGatherExecutor(group, repeat_single=repeats),
    )
    made = sampled(theirs, sampler, model, given, states(theirs, clean=1.0), schedule(theirs))
    return bits(*made), log.passes, made
