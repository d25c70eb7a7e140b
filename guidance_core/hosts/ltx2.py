"""diffusers' LTX-2 transformer as a denoiser of two outputs, `video` and `audio`.

    model = small_transformer()
    inputs = small_inputs()
    run = guidance.start(conditions=inputs.conditions, sigmas=sigmas, prediction_type="flow", outputs=OUTPUTS)
    velocity = run.step(i, inputs.sample, LTX2Denoiser(model, inputs.sample, sigmas[i], inputs.grid))

A branch's perturbations become the model's own flags, or hooks where it has none. Needs the extra `hosts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from guidance_core.algebra.memory import copy_of
from guidance_core.errors import ConfigurationError
from guidance_core.hosts.diffusers.perturbed import changed, plan_of
from guidance_core.hosts.diffusers.versions import warn_of_version
from guidance_core.hosts.ltx2_flags import OUTPUTS, Flags, flags_of
from guidance_core.methods.perturbations import Perturbation, UseCondition
from guidance_core.steps.bound_branch import BoundBranch

__all__ = [
    "OUTPUTS",
    "SMALL",
    "Flags",
    "Grid",
    "Inputs",
    "LTX2Denoiser",
    "Sizes",
    "Streams",
    "flags_of",
    "inputs_of",
    "small_inputs",
    "small_transformer",
]

Streams = tuple[Tensor, Tensor]
"Video `[B, S_video, C]` and audio `[B, S_audio, C]`."


@attrs.frozen
class Grid:
    """The number of latent frames, rows and columns of the tokens."""

    frames: int = 4
    height: int = 8
    width: int = 12
    audio_frames: int = 32

    @property
    def tokens(self) -> tuple[int, int]:
        """Number of video and of audio tokens."""
        return self.frames * self.height * self.width, self.audio_frames


@attrs.frozen
class Sizes:
    """Sizes of a transformer of LTX-2's architecture. By default, a pass takes 0.2 s on a CPU core."""

    layers: int = 4
    heads: int = 8
    head_dim: int = 64
    audio_head_dim: int = 32
    channels: int = 128
    "Channels of the latents, of video and of audio."
    caption_channels: int = 256
    text_tokens: int = 16
    grid: Grid = Grid()


SMALL = Sizes()


@attrs.frozen(eq=False)
class Inputs:
    """The inputs for a run of the model."""

    sample: Streams
    conditions: dict[str, dict[str, Tensor]]
    grid: Grid


def small_transformer(sizes: Sizes = SMALL, *, seed: int = 0) -> Any:
    """Return an `LTX2VideoTransformer3DModel` with random weights, float32, the same for the same seed.

    Raises:
        ConfigurationError: diffusers is not installed.
    """
    model_class = _transformer_class()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(
            in_channels=sizes.channels,
            out_channels=sizes.channels,
            num_attention_heads=sizes.heads,
            attention_head_dim=sizes.head_dim,
            cross_attention_dim=sizes.heads * sizes.head_dim,
            audio_in_channels=sizes.channels,
            audio_out_channels=sizes.channels,
            audio_num_attention_heads=sizes.heads,
            audio_attention_head_dim=sizes.audio_head_dim,
            audio_cross_attention_dim=sizes.heads * sizes.audio_head_dim,
            caption_channels=sizes.caption_channels,
            num_layers=sizes.layers,
            perturbed_attn=True,
        )
    return model.eval().requires_grad_(False)


def small_inputs(sizes: Sizes = SMALL, *, batch: int = 1, seed: int = 0) -> Inputs:
    """Return random latents and the conditions `positive` and `negative`, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(tokens: int, channels: int) -> Tensor:
        return torch.randn(batch, tokens, channels, generator=generator)

    video, audio = (drawn(tokens, sizes.channels) for tokens in sizes.grid.tokens)
    conditions = {}
    for name in ("positive", "negative"):
        text = drawn(sizes.text_tokens, sizes.caption_channels)
        conditions[name] = {"encoder_hidden_states": text, "audio_encoder_hidden_states": text}
    return Inputs((video, audio), conditions, sizes.grid)


class LTX2Denoiser:
    """The forward passes of one step. A branch's inputs are the model's arguments of the same names.

    It accepts rows of the batch, and batches: branches with and without weakened self-attention share a forward pass,
    branches with isolated outputs have another one, and each branch that the model has no flags for has its own. If the
    model has `reuses_memory = True`, which a model that replays a CUDA graph needs, predictions are copied before its
    next forward pass.
    """

    takes_rows = True

    def __init__(
        self, model: Any, sample: Streams, sigma: float, grid: Grid, *, fps: float = 24.0, **options: Any
    ) -> None:
        """Describe a step.

        Args:
            model: diffusers' `LTX2VideoTransformer3DModel`.
            sample: the noisy latents.
            sigma: noise level of both, 0 to 1; the model gets it times 1000, as `timestep` and as `sigma`.
            grid: what the tokens stand for.
            fps: frames of the video per second.
            options: further arguments of the model, the same for every branch; diffusers' pipeline passes
                `use_cross_timestep=True`.
        """
        warn_of_version()
        self._model = model
        self.reuses_memory = bool(getattr(model, "reuses_memory", False))
        self._sample = sample
        self._sigma = sigma
        self._shared = {
            "num_frames": grid.frames,
            "height": grid.height,
            "width": grid.width,
            "audio_num_frames": grid.audio_frames,
            "fps": fps,
            **options,
        }

    def __call__(self, branch: BoundBranch) -> Streams:
        """Run one branch."""
        return self.batch([branch])[0]

    def batch(self, branches: Sequence[BoundBranch]) -> list[Streams]:
        """Run several branches in one forward pass, or in several if their perturbations require it.

        Raises:
            ConfigurationError: the model cannot make a perturbation.
        """
        flags = [_flags_or_none(branch, self._model) for branch in branches]
        results: dict[int, Streams] = {}
        sharing = _sharing(flags)
        for members in sharing:
            predictions = self._forward([branches[number] for number in members], [flags[number] for number in members])
            if self.reuses_memory and len(sharing) > 1:
                predictions = [copy_of(prediction) for prediction in predictions]
            results |= zip(members, predictions, strict=True)
        return [results[number] for number in range(len(branches))]

    def _forward(self, branches: Sequence[BoundBranch], flags: Sequence[Flags | None]) -> list[Streams]:
        whole = slice(None)
        parts = [branch.rows or whole for branch in branches]
        video, audio = (_joined([stream[rows] for rows in parts]) for stream in self._sample)
        given = [inputs_of(branch) for branch in branches]
        inputs: dict[str, Any] = {
            name: _joined([each[name][rows] for each, rows in zip(given, parts, strict=True)]) for name in given[0]
        }
        counts = [len(range(*rows.indices(self._sample[0].shape[0]))) for rows in parts]
        # float32, whatever the model's dtype; timestep and sigma are both in the model's own unit, 0 to 1000
        level = torch.full(video.shape[:1], self._sigma, device=video.device)
        timestep = level * self._model.config.timestep_scale_multiplier
        weakened = [each.blocks if each else () for each in flags]
        if any(weakened):
            inputs["spatio_temporal_guidance_blocks"] = list(max(weakened))
            if not all(weakened):  # 0 where self-attention is skipped, 1 elsewhere
                kept = [
                    0.0 if blocks else 1.0 for blocks, count in zip(weakened, counts, strict=True) for _ in range(count)
                ]
                inputs["perturbation_mask"] = video.new_tensor(kept)
        inputs["isolate_modalities"] = flags[0] is not None and flags[0].isolated
        with changed(self._model, () if flags[0] else _in_the_model(branches[0])) as arguments:
            made = self._model(
                hidden_states=video,
                audio_hidden_states=audio,
                timestep=timestep,
                sigma=timestep,
                return_dict=False,
                **{**inputs, **arguments},
                **self._shared,
            )
        return list(zip(*(stream.split(counts) for stream in made), strict=True))


def inputs_of(branch: BoundBranch) -> dict[str, Any]:
    """Return the model's arguments for a branch. A stream with the text of another condition gets that text."""
    inputs = dict(branch.inputs)
    for each in branch.perturbations:
        if isinstance(each, UseCondition):
            theirs = branch.also[each.condition]
            inputs |= {name: value for name, value in theirs.items() if _stream_of(name) == each.output}
    return inputs


def _stream_of(name: str) -> str:
    """Return the output whose stream gets the model's argument of this name."""
    return "audio" if name.startswith("audio_") else "video"


def _in_the_model(branch: BoundBranch) -> list[Perturbation]:
    """Return what a branch changes in the model; another text is one of its inputs."""
    return [each for each in branch.perturbations if not isinstance(each, UseCondition)]


def _flags_or_none(branch: BoundBranch, model: Any) -> Flags | None:
    """Return the model's flags for a branch; None where it needs hooks."""
    try:
        return flags_of(branch.perturbations, model.config)
    except ConfigurationError:
        plan_of(model, _in_the_model(branch))  # raises where hooks cannot do it either
        return None


def _sharing(flags: Sequence[Flags | None]) -> list[list[int]]:
    """Return which branches share a forward: those with flags, equally isolated, their blocks equal or none."""
    groups: list[list[int]] = []
    for number, mine in enumerate(flags):
        for group in groups:
            others = [each for other in group if (each := flags[other]) is not None]
            blocks = {each.blocks for each in others} - {()}
            if mine and others and others[0].isolated == mine.isolated and len((blocks | {mine.blocks}) - {()}) <= 1:
                group.append(number)
                break
        else:
            groups.append([number])
    return groups


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _transformer_class() -> Any:
    try:
        from diffusers import LTX2VideoTransformer3DModel
        from diffusers.utils import logging
    except ImportError as error:
        raise ConfigurationError(
            f"the LTX-2 transformer needs the extra 'hosts' ({error.name or 'diffusers'} is missing or too old): "
            "pip install 'guidance-core[hosts]'"
        ) from None
    logging.set_verbosity_error()
    return LTX2VideoTransformer3DModel
