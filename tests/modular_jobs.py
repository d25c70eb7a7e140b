"""Modular pipelines and split sequences of diffusers on several ranks: functions that processes can import."""

from __future__ import annotations

import warnings
from typing import Any
from unittest import mock

import diffusers
import torch
from diffusers_jobs import bits
from diffusers_judged import made_with
from every_pipeline import CASES
from small_pipelines import STEPS, seeded, wan
from torch.distributed.device_mesh import init_device_mesh

from guidance_core import AllGatherExecutor, Degrees
from guidance_core.hosts.diffusers import guide
from guidance_core.hosts.diffusers.modular import StackGuidance

warnings.simplefilter("ignore")


def modular_wan() -> Any:
    """Return a Modular pipeline from embeddings to latents."""
    blocks = diffusers.modular_pipelines.WanBlocks()
    for name in ("text_encoder", "decode"):
        blocks.sub_blocks.pop(name)
    pipe, classic = blocks.init_pipeline(), wan()
    pipe.update_components(transformer=classic.transformer, scheduler=classic.scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def made(pipe: Any, guider: Any, batch: int = 1) -> torch.Tensor:
    """Return the latents of a call with a guider."""
    pipe.update_components(guider=guider)
    shapes = dict.fromkeys(("prompt_embeds", "negative_prompt_embeds"), (batch, 7, 16))
    given = seeded(lambda: {name: torch.randn(shape) for name, shape in shapes.items()})
    given["latents"] = seeded(lambda: torch.randn(batch, 4, 2, 4, 4), 5)
    return pipe(**given, height=32, width=32, num_frames=5, num_inference_steps=STEPS, output="latents")


def on_ranks(group: Any, spec: str) -> tuple[str, int]:
    """Return the digest of a call whose guider spreads the passes over the ranks, and this rank's forwards."""
    pipe, forwards = modular_wan(), []
    pipe.transformer.register_forward_pre_hook(lambda *_: forwards.append(1))
    guider = StackGuidance(spec).follow(pipe.scheduler, executor=AllGatherExecutor(group))
    with guider:
        return bits([made(pipe, guider)]), len(forwards)


def failing(group: Any) -> str:
    """Return the error of a call in which the model fails on rank 1."""
    pipe = modular_wan()

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    if group.rank() == 1:
        pipe.transformer.register_forward_pre_hook(fail)
    guider = StackGuidance("cfg:scale=5").follow(pipe.scheduler, executor=AllGatherExecutor(group))
    try:
        with guider:
            made(pipe, guider)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def split(group: Any, spec: str) -> tuple[list[torch.Tensor], list[int], int]:
    """Return the latents of a guided call on 2 × 2 ranks, the tokens of its attentions, and this rank's forwards.

    Two groups share out the branches; the ranks of a group split the sequence of each pass.
    """
    (case,) = (case for case in CASES if case.name == "Wan 2.1")
    degrees = Degrees(guidance=2, sequence=2)
    sizes = (degrees.guidance, 1, degrees.sequence)
    mesh = init_device_mesh("cpu", sizes, mesh_dim_names=("guidance", "ring", "ulysses"))
    pipe, forwards, tokens = case.pipeline(), [], []
    pipe.transformer.register_forward_pre_hook(lambda *_: forwards.append(1))
    config = diffusers.ContextParallelConfig(ulysses_degree=degrees.sequence, mesh=mesh["ring", "ulysses"])
    with mock.patch("torch.accelerator.device_count", return_value=1):  # diffusers counts no processor
        pipe.transformer.enable_parallelism(config=config)
    pipe.transformer.blocks[1].register_forward_pre_hook(lambda _, given: tokens.append(given[0].shape[1]))
    executor = AllGatherExecutor(mesh, mesh_dim="guidance")
    found = made_with(guide(pipe, spec, executor=executor), **case.inputs(1))
    return [each for each in found if isinstance(each, torch.Tensor)], tokens, len(forwards)
