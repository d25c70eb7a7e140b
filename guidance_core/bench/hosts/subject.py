"""A host to be measured: whole runs of it, guided by itself and by a stack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs
import torch
from torch import Tensor

from guidance_core.errors import ConfigurationError
from guidance_core.executors import Executor

Way: TypeAlias = str | Executor | None
"What runs the branches of ours; None where the host chooses."


class NotInstalledError(ConfigurationError):
    """A host is not installed; the text says which, and what installs it."""


@attrs.frozen(eq=False)
class Subject:
    """A host with a small model."""

    name: str
    version: str
    steps: int
    "Evaluations of the sampler in a run."
    own: Callable[[int], Any]
    "Makes a run with the host's own guidance, with inputs of a seed; returns tensors."
    ours: Callable[[str, Way, int], Any]
    "Makes the same run with a stack, which an executor runs."
    specs: Mapping[str, str]
    "Stacks by contender: `equal` is that of the host's own guidance, the others run fewer passes."
    counted: Counted
    "Counts samples that go through the model."
    usual: Way = "serial"
    "What runs ours for a user who says nothing."
    other: str = ""
    "An executor to compare with the usual one, if there is another in one process."
    takes_ranks: bool = True
    "Whether branches can be spread over ranks."


class Counted:
    """Counts the samples that go through models."""

    def __init__(self) -> None:
        self.rows = 0

    def watch(self, model: Any, *names: str) -> None:
        """Count the rows of every forward of a module, of whose arguments one of these names is the sample."""

        def note(_: Any, given: Sequence[Any], named: Mapping[str, Any]) -> None:
            sample = given[0] if given else next(named[name] for name in names if name in named)
            self.rows += len(sample)

        model.register_forward_pre_hook(note, with_kwargs=True)


def saving(spec: str, **more: str) -> dict[str, str]:
    """Return a stack, and the same with what runs fewer passes."""
    fewer = {"interval": f"{spec},interval:lo=0.2,hi=0.7,by=fraction", "gate": f"{spec},gate:lo=0.5"}
    return {"equal": spec, **fewer, **more}


def drawn(seed: int, **shapes: Sequence[int]) -> dict[str, Tensor]:
    """Return normal noise of these shapes, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(tuple(shape), generator=generator) for name, shape in shapes.items()}


def with_weights(make: Callable[[], Any]) -> Any:
    """Return a module with random weights, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval().requires_grad_(False)


def tensors_in(made: Any) -> list[Tensor]:
    """Return the tensors of a result."""
    if isinstance(made, Tensor):
        return [made]
    if isinstance(made, Mapping):
        made = list(made.values())
    return [tensor for each in made for tensor in tensors_in(each)] if isinstance(made, list | tuple) else []


def apart(one: Any, other: Any) -> float:
    """Return the largest difference of two results, relative to the largest value."""
    pairs = zip(tensors_in(one), tensors_in(other), strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
