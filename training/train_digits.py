"""Train the digits transformer and the digits classifier that ship with guidance_core.

    python training/train_digits.py [--out DIR] [--steps N] [--seed N] [--minutes N]

Needs scikit-learn and safetensors, and takes a minute or two on two cores. The number of
optimisation steps decides when it ends, so that a seed gives one result on one kind of machine;
`--minutes` only gives up, writing nothing, where the machine is too slow. The transformer learns
from all 1,797 images, and is stopped early: trained ten times as long it needs no guidance to be
read correctly, and would show nothing. The classifier learns from 80 % of them and is tested on the rest.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import sklearn
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

from guidance_core.methods.perturbations import Perturbation, SkipBlocks, SkipSelfAttention
from guidance_core.models.digits import NULL_LABEL, DigitsClassifier, DigitsTransformer

BATCH = 128
LABEL_DROPOUT = 0.15
LEARNING_RATE = 1.5e-3
EMA_DECAY = 0.999
CLASSIFIER_EPOCHS = 60


def images_and_labels() -> tuple[Tensor, Tensor]:
    """Return the images, `[1797, 1, 8, 8]` in [-1, 1], and their digits."""
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1, torch.tensor(labels)


def train_transformer(images: Tensor, labels: Tensor, steps: int, deadline: float) -> tuple[nn.Module, float]:
    """Return the averaged model and its mean loss over the last tenth of the steps."""
    model = DigitsTransformer()
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    warmup = max(1, steps // 20)
    losses = []
    for step in range(steps):
        if time.monotonic() > deadline:
            raise SystemExit(f"Gave up at step {step} of {steps}: too slow. Allow more --minutes.")
        decay = 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, (step + 1) / warmup) * decay

        chosen = torch.randint(len(images), (BATCH,))
        x0, epsilon, sigma = images[chosen], torch.randn(BATCH, 1, 8, 8), torch.rand(BATCH)
        label = labels[chosen].masked_fill(torch.rand(BATCH) < LABEL_DROPOUT, NULL_LABEL)
        level = sigma[:, None, None, None]
        loss = F.mse_loss(model((1 - level) * x0 + level * epsilon, sigma, label), epsilon - x0)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

        momentum = min(EMA_DECAY, (step + 1) / (step + 10))
        with torch.no_grad():
            for kept, new in zip(average.parameters(), model.parameters(), strict=True):
                kept.lerp_(new, 1 - momentum)
        losses.append(loss.item())
        if step % 500 == 499:
            print(f"step {step + 1:5d}  loss {sum(losses[-500:]) / 500:.4f}", flush=True)
    last = losses[-max(1, steps // 10) :]
    return average.eval(), sum(last) / len(last)


def train_classifier(images: Tensor, labels: Tensor) -> tuple[nn.Module, float]:
    """Return the classifier and its accuracy on the held-out fifth of the images."""
    # The split that tests/test_models.py repeats.
    train, test = train_test_split(range(len(labels)), test_size=0.2, random_state=0, stratify=labels)
    model = DigitsClassifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    batches = len(train) // 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=CLASSIFIER_EPOCHS * batches)
    for _ in range(CLASSIFIER_EPOCHS):
        for chosen in torch.tensor(train)[torch.randperm(len(train))][: batches * 64].split(64):
            loss = F.cross_entropy(model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    return model, accuracy(model, images[test], labels[test])


@torch.no_grad()
def accuracy(classifier: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of `images` that the classifier reads as `labels`."""
    return (classifier(images).argmax(1) == labels).float().mean().item()


@torch.no_grad()
def draw(
    model: nn.Module,
    label: Tensor,
    *,
    scale: float = 1.0,
    strength: float = 0.0,
    perturbations: Sequence[Perturbation] = (),
    steps: int = 25,
    seed: int = 0,
) -> Tensor:
    """Draw one image for each label with Euler steps, CFG and spatio-temporal guidance."""
    x = torch.randn(len(label), 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    null = torch.full_like(label, NULL_LABEL)
    sigmas = torch.linspace(1, 0, steps + 1).tolist()
    for sigma, following in pairwise(sigmas):
        cond = model(x, sigma, label)
        guided = cond.clone()
        if scale != 1:
            guided += (scale - 1) * (cond - model(x, sigma, null))
        if strength:
            guided += strength * (cond - model(x, sigma, label, perturbations))
        x = x + (following - sigma) * guided
    return x


def report(model: nn.Module, classifier: nn.Module) -> None:
    """Print the classifier's accuracy on 50 drawn images of each digit."""
    label = torch.arange(10).repeat_interleave(50)
    for scale in (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0):
        print(f"cfg {scale:3.1f}  accuracy {accuracy(classifier, draw(model, label, scale=scale), label):.3f}")
    for kind in (SkipBlocks, SkipSelfAttention):
        for block in range(len(model.get_submodule("blocks")._modules)):
            drawn = draw(model, label, strength=1.0, perturbations=(kind((block,)),))
            print(f"stg 1.0 {kind.__name__}({block})  accuracy {accuracy(classifier, drawn, label):.3f}")


def save(model: nn.Module, path: Path, facts: dict[str, object]) -> None:
    """Write the weights as float16, with `facts` as metadata."""
    versions = {
        "torch": torch.__version__,
        "scikit-learn": sklearn.__version__,
        "data": "sklearn load_digits",
    }
    weights = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, path, {name: str(fact) for name, fact in (facts | versions).items()})
    # Measure what was stored, not what was trained.
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    print(f"{path}: {sum(map(Tensor.numel, weights.values()))} parameters, {path.stat().st_size} bytes")


def main() -> None:
    """Train both, write both files, print what they achieve."""
    parser = argparse.ArgumentParser(description="Train the digits models of guidance_core.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "guidance_core/models/weights")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=15.0, help="give up after this long")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    start = time.monotonic()

    images, labels = images_and_labels()
    torch.manual_seed(options.seed)
    classifier, test_accuracy = train_classifier(images, labels)
    print(
        f"classifier: held-out accuracy {test_accuracy:.4f} after {time.monotonic() - start:.0f} s",
        flush=True,
    )
    torch.manual_seed(options.seed)
    model, loss = train_transformer(images, labels, options.steps, start + 60 * options.minutes)
    print(f"transformer: loss {loss:.4f} after {time.monotonic() - start:.0f} s")

    facts = {"seed": options.seed, "classifier_test_accuracy": f"{test_accuracy:.4f}"}
    save(classifier, options.out / "classifier.safetensors", {**facts, "epochs": CLASSIFIER_EPOCHS})
    save(model, options.out / "digits.safetensors", {**facts, "steps": options.steps, "loss": f"{loss:.4f}"})
    report(model, classifier)


if __name__ == "__main__":
    main()
