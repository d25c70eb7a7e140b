"""A model that exists in numbers only: what it predicts follows from the example, the move, the pass and its inputs."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from guidance_core import RandomPerturbation
from soak.examples import Example
from soak.stacks import FURTHER

CONDITIONS = ("positive", "negative", FURTHER)


class HostError(Exception):
    """What a host raises by itself."""


def text(example: Example, condition: str) -> Tensor:
    """Return the input of a condition, `[rows, 3, 4]`."""
    return _normal(example, condition, (example.rows, 3, 4))


def tensors(example: Example, what: object, rows: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Draw a tensor for each output, the same on every rank."""
    return {
        name: _normal(example, f"{what} {name}", (rows, *shape)).to(dtype) for name, shape in example.shapes.items()
    }


def _normal(example: Example, what: str, shape: Sequence[int]) -> Tensor:
    key = hashlib.blake2b(f"{example.seed} {example.number} {what}".encode(), digest_size=7).digest()
    return torch.randn(*shape, generator=torch.Generator().manual_seed(int.from_bytes(key, "big")))


def structured(example: Example, named: dict[str, Tensor]) -> Any:
    """Return tensors by output as the example's host has them."""
    if example.structure == "tensor":
        return named["output"]
    return tuple(named.values()) if example.structure == "tuple" else dict(named)


def by_name(example: Example, given: Any) -> dict[str, Tensor]:
    """Return a result by output."""
    if example.structure == "tensor":
        return {"output": given}
    return dict(zip(example.names, given, strict=True)) if example.structure == "tuple" else dict(given)


class Host:
    """The denoiser of one move; takes rows and batches."""

    takes_rows = True

    def __init__(
        self, example: Example, move: object, rows: int, working: torch.dtype | None = None, *, fails: bool = False
    ) -> None:
        """Predict for `rows` samples; in a wider dtype where `working` says so, without other numbers."""
        self.example, self.move, self.rows, self.working, self.fails = example, move, rows, working, fails
        self.ended = time.monotonic()
        "When the last forward did."
        self.spoilt: Callable[[Any], Any] = lambda prediction: prediction
        "What becomes of a prediction."

    def __call__(self, branch: Any) -> Any:
        if self.fails:
            raise HostError("out of memory")
        named = tensors(self.example, f"{self.move} {branch.name}", self.rows, self.example.predicted)
        read = sum((each["text"] for each in branch.also.values()), start=branch.inputs["text"])
        told = read.flatten(1).mean(1)
        made = {}
        for name, tensor in named.items():
            whole = tensor + told.to(tensor.dtype).view(-1, *(1,) * (tensor.ndim - 1))
            whole = whole if branch.rows is None else whole[branch.rows]
            for each in branch.perturbations:
                if isinstance(each, RandomPerturbation):  # what is drawn shows, for each row
                    drawn = torch.tensor([seed % 1000 / 1000 for seed in each.seeds]).to(whole)
                    whole = whole + drawn.view(-1, *(1,) * (whole.ndim - 1))
            made[name] = whole if self.working is None else whole.to(self.working)
        prediction = self.spoilt(structured(self.example, made))
        self.ended = time.monotonic()
        return prediction

    def batch(self, branches: Sequence[Any]) -> list[Any]:
        return [self(branch) for branch in branches]
