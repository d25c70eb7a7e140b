"""A model whose next forward overwrites what the last one returned, on one process and on real ranks."""

from __future__ import annotations

from typing import Any

import torch
from rank_jobs import EXECUTORS, bits
from torch import Tensor

from guidance_core import Guidance, GuidanceError

CONDITIONS = {"positive": {"k": 1.0}, "negative": {"k": -2.0}}
SIGMAS = [1.0, 0.7, 0.4, 0.2, 0.0]
SPECS = (
    "cfg:scale=3,rescale:phi=0.7",
    "apg:scale=3,momentum=-0.5",
    "cfg:scale=3,gate:lo=0.5",
    "ltx2:cfg_scale=3,stg_scale=1,modality_scale=2",
    "cfg:scale=1",
    "",
)


def sample(seed: int = 0) -> Tensor:
    """Return the noisy sample of a run's start, `[4, 6]`."""
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(seed))


class Model:
    """A model that returns its own memory: one buffer (`one`), one for each branch (`own`), or new tensors."""

    takes_rows = True

    def __init__(self, memory: str = "new", *, reuses_memory: bool = False, is_hidden: bool = False) -> None:
        """Keep to the kind of memory; with `is_hidden` no write is counted, as in a CUDA graph."""
        self.memory = memory
        self.reuses_memory = reuses_memory
        self.is_hidden = is_hidden
        self.buffers: dict[str, Tensor] = {}
        self.x = torch.empty(0)

    def at(self, x: Tensor) -> Model:
        """Take the sample of a step."""
        self.x = x
        return self

    def __call__(self, branch: Any) -> Tensor:
        """Return the prediction of a branch."""
        x = self.x if branch.rows is None else self.x[branch.rows]
        made = torch.sin(x * branch.inputs["k"] + len(branch.perturbations) * 0.5)
        if self.memory == "new":
            return made
        name = "all" if self.memory == "one" else branch.name
        buffer = self.buffers.setdefault(f"{name} {tuple(made.shape)}", torch.empty_like(made))
        (buffer.data if self.is_hidden else buffer).copy_(made)
        return buffer

    def batch(self, branches: Any) -> list[Tensor]:
        """Return views of one forward for all branches, which interleave in memory."""
        made = torch.stack([Model().at(self.x)(branch) for branch in branches], dim=1)
        if self.memory != "new":
            made = self.buffers.setdefault(f"{tuple(made.shape)}", torch.empty_like(made)).copy_(made)
        return list(made.unbind(1))


def drawn(executor: Any, spec: str, model: Model) -> list[Tensor]:
    """Return what each step of a run returned, as it is when the run has ended."""
    run = Guidance.from_spec(spec).start(
        conditions=CONDITIONS, sigmas=SIGMAS, prediction_type="flow", executor=executor
    )
    x, results = sample(), []
    for i in range(len(SIGMAS) - 1):
        results.append(run.step(i, x, model.at(x)))
        x = x + (SIGMAS[i + 1] - SIGMAS[i]) * results[-1].clone()
    return results


def on_ranks(
    group: Any, name: str, spec: str, options: dict[str, Any], memory: str, is_told: bool, only: int | None = None
) -> str:
    """Return how a model that returns its memory, on rank `only` or all, fares: `equal`, `differs`, or an error."""
    model = Model(memory if only in (None, group.rank()) else "new", reuses_memory=is_told, is_hidden=True)
    expected = drawn(EXECUTORS[name](group, **options), spec, Model())
    try:
        results = drawn(EXECUTORS[name](group, **options), spec, model)
    except GuidanceError as error:
        return f"{type(error).__name__}: {error}"
    return "equal" if list(map(bits, results)) == list(map(bits, expected)) else "differs"


def writes_into_the_sample(group: Any, name: str, victim: int) -> str:
    """Return the error where the denoiser of one rank writes into the sample."""
    x = sample()
    run = Guidance.from_spec("cfg:scale=3").start(
        conditions=CONDITIONS, sigmas=SIGMAS, prediction_type="flow", executor=EXECUTORS[name](group)
    )

    def denoise(branch: Any) -> Tensor:
        if group.rank() == victim:
            x.mul_(2.0)
        return torch.sin(x)

    try:
        run.step(0, x, denoise)
    except GuidanceError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"
