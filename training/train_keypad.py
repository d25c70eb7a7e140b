"""Train the Keypad model that ships with guidance_core.

    nice -n 10 python training/train_keypad.py [--out DIR] [--steps N] [--seed N] [--checkpoint FILE]

Needs scikit-learn and safetensors, and takes about eight minutes on one quiet core. A checkpoint is written every 100
steps; the same command goes on from it and ends with the same weights, as every step draws from a seed of its own. The
model is stopped early: trained longer, its pictures and sounds agree without guidance, and it would show nothing.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path

import sklearn
import torch
from keypad_data import clips, dropped
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from guidance_core.models.keypad import KeypadTransformer

CLIPS = 20_000
BATCH = 64
DROPOUT = 0.2
"Share of patterns, and of tempos, that training leaves open."
ISOLATED = 0.1
"Share of samples without attention between the streams, so that the isolated pass has been seen in training."
LEARNING_RATE = 2e-3
EMA_DECAY = 0.998
EVERY = 100
ROUNDS = (2500, 2000)
"Steps in which the learning rate falls, twice."


def train(steps: int, seed: int, checkpoint: Path) -> KeypadTransformer:
    """Return the averaged model after a number of steps, going on from a checkpoint if there is one."""
    torch.manual_seed(seed)
    model = KeypadTransformer()
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01, fused=True)
    video, audio, prompts, _ = clips(CLIPS, "model", torch.Generator().manual_seed(seed))
    first, start, losses = 0, time.monotonic(), []
    if checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(kept["model"])
        average.load_state_dict(kept["average"])
        optimizer.load_state_dict(kept["optimizer"])
        first = kept["step"]
    for step in range(first, steps):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * _rate(step)
        generator = torch.Generator().manual_seed(1_000_000 * (seed + 1) + step)
        chosen = torch.randint(CLIPS, (BATCH,), generator=generator)
        loss = _loss(model, {"video": video[chosen], "audio": audio[chosen]}, prompts[chosen], generator)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        momentum = min(EMA_DECAY, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - momentum)
        losses.append(loss.item())
        if (step + 1) % EVERY == 0:
            mean = sum(losses[-EVERY:]) / len(losses[-EVERY:])
            print(f"step {step + 1:5d}  loss {mean:.4f}  {time.monotonic() - start:.0f} s", flush=True)
            states = {"model": model.state_dict(), "average": average.state_dict()}
            torch.save({"step": step + 1, "optimizer": optimizer.state_dict(), **states}, checkpoint)
    return average.eval()


def _rate(step: int) -> float:
    """Return the share of the learning rate: along a cosine in each round, anew from half in the second."""
    after = step - ROUNDS[0]
    place, top = (step / ROUNDS[0], 1.0) if after < 0 else (after / ROUNDS[1], 0.5)
    return top * min(1.0, (step + 1) / 100) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, place))))


def _loss(model: KeypadTransformer, x0: dict[str, Tensor], prompts: Tensor, generator: torch.Generator) -> Tensor:
    count = len(prompts)
    sigma = torch.randn(count, generator=generator).sigmoid()
    noise = {name: torch.randn(each.shape, generator=generator) for name, each in x0.items()}
    levels = {name: sigma.view(-1, *[1] * (each.ndim - 1)) for name, each in x0.items()}
    x = {name: (1 - levels[name]) * each + levels[name] * noise[name] for name, each in x0.items()}
    text = model.embedded(dropped(prompts, DROPOUT, generator))
    crossing = (torch.rand(count, generator=generator) >= ISOLATED).float()
    flow = model(x, sigma, text, crossing=crossing)
    return sum((F.mse_loss(flow[name], noise[name] - x0[name]) for name in x0), torch.zeros(()))


def save(model: nn.Module, path: Path, facts: dict[str, object]) -> None:
    """Write the weights as float16, with `facts` as metadata."""
    facts = {**facts, "torch": torch.__version__, "scikit-learn": sklearn.__version__, "data": "sklearn load_digits"}
    weights = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, path, {name: str(fact) for name, fact in facts.items()})
    print(f"{path}: {sum(map(Tensor.numel, weights.values()))} parameters, {path.stat().st_size} bytes")


def main() -> None:
    """Train, and write the weights."""
    parser = argparse.ArgumentParser(description="Train the Keypad model of guidance_core.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "guidance_core/models/weights")
    parser.add_argument("--steps", type=int, default=sum(ROUNDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, default=Path("out/keypad.pt"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    options.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    model = train(options.steps, options.seed, options.checkpoint)
    save(model, options.out / "keypad.safetensors", {"seed": options.seed, "steps": options.steps})


if __name__ == "__main__":
    main()
