"""Guide a pipeline of diffusers with a stack of methods, and save what it makes.

    python guide_a_pipeline.py --model stabilityai/stable-diffusion-xl-base-1.0 --prompt "a lake at dawn" \\
        --guidance "cfg:scale=7,rescale:phi=0.7"
    torchrun --nproc-per-node 2 guide_a_pipeline.py --model ... --executor all_gather     # on two GPUs

Without --model it runs Stable Diffusion's architecture with small random weights, on a CPU, and saves its latents: that
shows that the installation works, and no more.
"""

# pyright: reportPrivateImportUsage=false
# diffusers loads its names on demand, which that rule takes for private ones.

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import diffusers
import torch

from guidance_core.hosts.diffusers import guide


def main() -> None:
    """Make a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a pipeline on the Hub or in a folder")
    parser.add_argument("--prompt", default="a lake at dawn")
    parser.add_argument("--negative-prompt", default="blurry, low quality")
    parser.add_argument("--guidance", default="cfg:scale=5,rescale:phi=0.7", help="methods in one line")
    parser.add_argument("--executor", help="all_gather under torchrun; by default as the pipeline itself does")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("guided.png"))
    given = parser.parse_args()
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = f"cuda:{rank}" if torch.cuda.is_available() else "cpu"
    if "RANK" in os.environ:
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    generator = torch.Generator().manual_seed(given.seed)  # on every rank the same noise
    if given.model is None:
        pipe, inputs = small_pipeline(), {**small_prompts(), "output_type": "latent"}
    else:
        dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
        pipe = diffusers.DiffusionPipeline.from_pretrained(given.model, torch_dtype=dtype).to(device)
        inputs = {"prompt": given.prompt, "negative_prompt": given.negative_prompt}
    guided = guide(pipe, given.guidance, executor=given.executor)
    made = guided(**inputs, num_inference_steps=given.steps, generator=generator)
    if rank == 0:
        save(made, given.out)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def save(made: Any, out: Path) -> None:
    """Write a picture, a film or latents, and print where."""
    found = made.images if hasattr(made, "images") else made.frames
    if isinstance(found, torch.Tensor):
        out = out.with_suffix(".pt")
        torch.save(found, out)
    elif hasattr(made, "images"):
        found[0].save(out)
    else:
        out = out.with_suffix(".mp4")
        diffusers.utils.export_to_video(found[0], str(out))
    print(out)


def small_pipeline() -> diffusers.StableDiffusionPipeline:
    """Return Stable Diffusion with a small random model and no text encoder."""
    torch.manual_seed(0)
    model = diffusers.UNet2DConditionModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        norm_num_groups=8,
    )
    parts: dict[str, Any] = dict.fromkeys(("vae", "text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    parts |= {"unet": model, "scheduler": diffusers.EulerDiscreteScheduler()}
    return diffusers.StableDiffusionPipeline(requires_safety_checker=False, **parts)


def small_prompts() -> dict[str, torch.Tensor]:
    """Return the embeddings of two prompts."""
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(1, 7, 16, generator=generator) for name in ("prompt_embeds", "negative_prompt_embeds")}


if __name__ == "__main__":
    main()
