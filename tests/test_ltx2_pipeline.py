"""A run with `LTX2Denoiser` ends where diffusers' own `LTX2Pipeline` ends, for models of type 2.0 and 2.3."""

from __future__ import annotations

import copy

import pytest
import torch

from guidance_core import Guidance

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import small_pipelines

from guidance_core.hosts.ltx2 import OUTPUTS, Grid, LTX2Denoiser

STEPS = 6
SIZES = {"height": 32, "width": 32, "num_frames": 5, "frame_rate": 25.0}
SPEC, SCALES = small_pipelines.LTX2_SPEC, small_pipelines.LTX2_OWN


class Recorded:
    """A pipeline's own result, and every call of its transformer."""

    def __init__(self, kind, batch):
        self.pipe = small_pipelines.ltx2(kind)
        self.calls = []
        hook = self.pipe.transformer.register_forward_pre_hook(
            lambda _, __, kwargs: self.calls.append(kwargs), with_kwargs=True
        )
        generator = torch.Generator().manual_seed(0)
        prompts = small_pipelines.ltx2_prompts(batch)
        made = self.pipe(
            **prompts, **SIZES, **SCALES, num_inference_steps=STEPS, generator=generator, output_type="latent"
        )
        hook.remove()
        self.video, self.audio = made.frames, made.audio
        first = self.calls[0]
        self.grid = Grid(first["num_frames"], first["height"], first["width"], first["audio_num_frames"])
        self.sample = first["hidden_states"][:batch], first["audio_hidden_states"][:batch]
        names = [f"{stream}encoder_{what}" for stream in ("", "audio_") for what in ("hidden_states", "attention_mask")]
        self.conditions = {
            "negative": {name: first[name][:batch] for name in names},
            "positive": {name: first[name][batch:] for name in names},
        }

    def decoded(self, video, audio):
        """Return packed latents in the form in which the pipeline returns its own."""
        pipe, grid = self.pipe, self.grid
        video = pipe._unpack_latents(video, grid.frames, grid.height, grid.width, 1, 1)
        video = pipe._denormalize_latents(
            video, pipe.vae.latents_mean, pipe.vae.latents_std, pipe.vae.config.scaling_factor
        )
        audio = pipe._denormalize_audio_latents(audio, pipe.audio_vae.latents_mean, pipe.audio_vae.latents_std)
        return video, pipe._unpack_audio_latents(audio, grid.audio_frames, num_mel_bins=2)


def guided(recorded, denoiser=LTX2Denoiser):
    """Return the latents of a run over the pipeline's own noise levels, and the calls of the transformer."""
    pipe, calls = recorded.pipe, []
    schedulers = pipe.scheduler, copy.deepcopy(pipe.scheduler)
    sigmas = schedulers[0].sigmas.tolist()
    for scheduler in schedulers:
        scheduler.set_timesteps(sigmas=sigmas[:-1])
    run = Guidance.from_spec(SPEC).start(
        conditions=recorded.conditions, sigmas=sigmas, prediction_type="flow", outputs=OUTPUTS
    )
    hook = pipe.transformer.register_forward_pre_hook(lambda _, __, kwargs: calls.append(kwargs), with_kwargs=True)
    sample = recorded.sample
    with torch.no_grad():
        for index, t in enumerate(schedulers[0].timesteps):
            denoise = denoiser(
                pipe.transformer, sample, sigmas[index], recorded.grid, fps=25.0, use_cross_timestep=True
            )
            velocities = run.step(index, sample, denoise)
            sample = tuple(
                scheduler.step(velocity, t, stream, return_dict=False)[0]
                for scheduler, velocity, stream in zip(schedulers, velocities, sample, strict=True)
            )
    hook.remove()
    return *recorded.decoded(*sample), calls


def largest(one, other):
    return float((one - other).abs().max())


@pytest.fixture(scope="module", params=["2.0", "2.3"])
def recorded(request):
    return Recorded(request.param, batch=1)


def test_latents_are_those_of_the_pipeline(recorded):
    video, audio, _ = guided(recorded)
    assert video.shape == recorded.video.shape
    assert audio.shape == recorded.audio.shape
    assert largest(video, recorded.video) <= 1e-5 * float(recorded.video.abs().max())
    assert largest(audio, recorded.audio) <= 1e-5 * float(recorded.audio.abs().max())


def test_latents_of_two_prompts_are_those_of_the_pipeline():
    recorded = Recorded("2.3", batch=2)
    video, audio, _ = guided(recorded)
    assert largest(video, recorded.video) <= 1e-5 * float(recorded.video.abs().max())
    assert largest(audio, recorded.audio) <= 1e-5 * float(recorded.audio.abs().max())


def test_the_transformer_is_called_as_the_pipeline_calls_it(recorded):
    _, _, calls = guided(recorded)
    stacked, perturbed, isolated = recorded.calls[:3]
    cond, neg, ours_perturbed, ours_isolated = calls[:4]
    for mine, theirs, rows in (
        (neg, stacked, slice(0, 1)),
        (cond, stacked, slice(1, 2)),
        (ours_perturbed, perturbed, slice(0, 1)),
        (ours_isolated, isolated, slice(0, 1)),
    ):
        for name, value in mine.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(value, theirs[name][rows], msg=lambda text, name=name: f"{name}: {text}")
            else:
                assert value == theirs[name], name


def test_an_unscaled_sigma_would_show(recorded):
    """The comparison tells a model that is handed sigma from 0 to 1 from one that is handed it as it should be."""

    class Unscaled(LTX2Denoiser):
        def __init__(self, model, *arguments, **options):
            super().__init__(
                lambda **inputs: model(**{**inputs, "sigma": inputs["sigma"] / 1000}), *arguments, **options
            )
            self._model.config = model.config

    video, _, _ = guided(recorded, Unscaled)
    assert largest(video, recorded.video) > 1e-3 * float(recorded.video.abs().max())
