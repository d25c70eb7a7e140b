"""Train the letters models that ship with guidance_core: the transformer, its weaker sibling, and their judge.

    python training/train_letters.py [judge] [small] [model] [--out DIR] [--work DIR] [--steps N] [--threads N]

Needs matplotlib, pillow and safetensors. The three take ten minutes of one core that computes in bfloat16; that was
with MALLOC_MMAP_THRESHOLD_=4000000000 and MALLOC_TRIM_THRESHOLD_=4000000000, which let glibc keep its memory.
The number of optimisation steps decides when it ends, so that a seed gives one result on one kind of machine. A run
that was interrupted goes on from its last checkpoint in `--work`. The transformers are stopped early, so that guidance
has something to mend. The judge learns from other draws of the glyphs than they do, and is tested on a third set.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import matplotlib
import torch
from letters_data import drawings, pictures
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from guidance_core.models.letters import (
    ANY_CHARACTER,
    ANY_TYPEFACE,
    LettersTransformer,
    SmallLettersTransformer,
)
from guidance_core.models.letters_judge import LettersJudge

SEED = 0
TRAINING, JUDGING, HELD_OUT = 1, 2, 3
"Seeds of the draws that the transformers learn from, the judge learns from, and the judge is tested on."
BATCH = 64
DROPPED = 0.1
"Share of the samples that leave out the character alone, the typeface alone, and both."
EMA_DECAY = 0.998
WARMUP, DECAY = 100, 0.25
"Steps in which the learning rate rises, and the share of the steps in which it falls."
STEPS = {"model": 3000, "small": 1400, "judge": 2400}
RATES = {"model": 1.5e-3, "small": 2e-3, "judge": 3e-3}
MODELS = {"model": LettersTransformer, "small": SmallLettersTransformer, "judge": LettersJudge}
FILES = {"model": "letters", "small": "letters-small", "judge": "letters-judge"}

Data = tuple[Tensor, Tensor, Tensor]


def flow_loss(model: nn.Module, data: Data) -> Tensor:
    """Return how wrong the predicted flow is, at evenly drawn noise levels and with conditions left out."""
    x0, character, typeface = data
    epsilon, sigma, left_out = torch.randn_like(x0), torch.rand(len(x0)), torch.rand(len(x0))
    character = character.masked_fill(left_out < 2 * DROPPED, ANY_CHARACTER)
    typeface = typeface.masked_fill((left_out - 2 * DROPPED).abs() < DROPPED, ANY_TYPEFACE)
    level = sigma[:, None, None, None]
    return F.mse_loss(model((1 - level) * x0 + level * epsilon, sigma, character, typeface), epsilon - x0)


def judge_loss(judge: nn.Module, data: Data) -> Tensor:
    """Return the cross-entropy of character and typeface; noise keeps it from minding small faults."""
    x, character, typeface = data
    noise = 0.15 * torch.rand(len(x), 1, 1, 1) * torch.randn_like(x)
    said, set_in = judge(x + noise)
    return F.cross_entropy(said, character) + F.cross_entropy(set_in, typeface)


def train(part: str, data: Data, steps: int, work: Path) -> tuple[nn.Module, float]:
    """Return the averaged model and its mean loss over the last tenth of the steps."""
    torch.manual_seed(SEED)
    model = MODELS[part]()
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATES[part], betas=(0.9, 0.98), weight_decay=0.01)
    losses: list[float] = []
    parts: dict[str, Any] = {"model": model, "average": average, "optimizer": optimizer}
    checkpoint, begun, loss_of = work / f"{part}.pt", 0, judge_loss if part == "judge" else flow_loss
    if checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=False)
        for name, each in parts.items():
            each.load_state_dict(kept[name])
        torch.set_rng_state(kept["random"])
        losses, begun = kept["losses"], len(kept["losses"])
        print(f"{part}: goes on from step {begun}", flush=True)
    start = time.process_time()
    for step in range(begun, steps):
        # Falling at the end alone, so that a run that goes on may be given another end.
        rate = min(1.0, (step + 1) / WARMUP, (steps - step) / (DECAY * steps))
        optimizer.param_groups[0]["lr"] = RATES[part] * rate
        chosen = torch.randint(len(data[0]), (BATCH,))
        # Of the ways to attend, the plain one is several times as fast to train here: so few tokens in so small heads.
        with torch.autocast("cpu", torch.bfloat16, enabled=part != "judge"), sdpa_kernel(SDPBackend.MATH):
            loss = loss_of(model, tuple(each[chosen] for each in data))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        momentum = min(EMA_DECAY, (step + 1) / (step + 10))
        with torch.no_grad():
            for kept, new in zip(average.parameters(), model.parameters(), strict=True):
                kept.lerp_(new, 1 - momentum)
        losses.append(loss.item())
        if step % 100 == 99:
            seconds = time.process_time() - start
            print(f"{part} {step + 1:5d}  loss {sum(losses[-100:]) / 100:.4f}  {seconds:.0f} s of CPU", flush=True)
            saved = {name: each.state_dict() for name, each in parts.items()}
            torch.save(saved | {"losses": losses, "random": torch.get_rng_state()}, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
    last = losses[-max(1, steps // 10) :]
    return average.eval(), sum(last) / len(last)


@torch.no_grad()
def accuracies(judge: nn.Module, data: Data) -> tuple[float, float]:
    """Return the shares of pictures whose character and whose typeface the judge tells."""
    images, *right = data
    said = zip(*map(judge, images.split(512)), strict=True)
    found = [torch.cat(logits).argmax(1) for logits in said]
    character, typeface = ((one == other).float().mean().item() for one, other in zip(found, right, strict=True))
    return character, typeface


@torch.no_grad()
def measure(judge: nn.Module, images: Tensor) -> None:
    """Let the judge keep what the features of real pictures are like."""
    features = torch.cat([judge.features(each) for each in images.split(512)])
    judge.mean.copy_(features.mean(0))
    judge.covariance.copy_(features.T.cov())


def save(model: nn.Module, path: Path, facts: dict[str, object]) -> None:
    """Write the weights as float16, with `facts` as metadata."""
    versions = {"torch": torch.__version__, "matplotlib": matplotlib.__version__}
    kept = dict(model.named_buffers())  # statistics, of which half precision is too coarse
    weights = {
        name: (tensor if name in kept else tensor.half()).contiguous() for name, tensor in model.state_dict().items()
    }
    save_file(weights, path, {name: str(fact) for name, fact in (facts | versions).items()})
    # Measure what was stored, not what was trained.
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    print(f"{path}: {sum(map(Tensor.numel, weights.values()))} parameters, {path.stat().st_size} bytes", flush=True)


def main() -> None:
    """Train what is asked for, write the files, print what the judge achieves."""
    parser = argparse.ArgumentParser(description="Train the letters models of guidance_core.")
    parser.add_argument("parts", nargs="*", default=["judge", "small", "model"], help="judge, small, model")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "guidance_core/models/weights")
    parser.add_argument("--work", type=Path, default=Path("out/letters"), help="folder of the checkpoints")
    parser.add_argument("--steps", type=int, help="optimisation steps, instead of the usual number")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for folder in (options.out, options.work):
        folder.mkdir(parents=True, exist_ok=True)
    glyphs = drawings()
    for part in options.parts:
        steps = options.steps or STEPS[part]
        data = pictures(glyphs, 16, JUDGING) if part == "judge" else pictures(glyphs, 10, TRAINING)
        model, loss = train(part, data, steps, options.work)
        facts: dict[str, object] = {"seed": SEED, "steps": steps, "loss": f"{loss:.4f}"}
        if part == "judge":
            held_out = pictures(glyphs, 4, HELD_OUT)
            character, typeface = accuracies(model, held_out)
            measure(model, held_out[0])
            facts |= {"held_out_character": f"{character:.4f}", "held_out_typeface": f"{typeface:.4f}"}
        print(f"{part}: {facts}", flush=True)
        save(model, options.out / f"{FILES[part]}.safetensors", facts)


if __name__ == "__main__":
    main()
