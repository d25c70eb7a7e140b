"""The embedded transformer with random changes and edits, on several ranks."""

from __future__ import annotations

from typing import Any

import torch

from guidance_core import AllGatherExecutor, AllReduceExecutor, Capabilities, Guidance, StackedDenoiser
from guidance_core.models import letters_condition, load_small_letters_model
from guidance_core.models.changes import POSSIBLE

SPEC = (
    "icg:scale=3,tpg:blocks=[2, 3],autoguidance:scale=2,dropout=0.3,tsg:scale=2,s2:scale=0.5,share=0.3,cads:noise=0.2,"
    "swg:scale=0.5"
)
SIGMAS = [0.9, 0.6, 0.3, 0.0]


def run_of(executor: Any, seeds: Any) -> list[torch.Tensor]:
    model = load_small_letters_model()
    x = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(3))
    run = Guidance.from_spec(SPEC).start(
        conditions={"positive": letters_condition(torch.tensor([3, 7, 1]), torch.tensor([0, 4, 9]))},
        sigmas=SIGMAS,
        prediction_type="flow",
        executor=executor,
        seeds=seeds,
        supports=Capabilities(POSSIBLE, blocks=4, heads=4),
    )
    results = []
    for i in range(len(SIGMAS) - 1):
        shared = {"x": x, "sigma": SIGMAS[i]}
        denoise = StackedDenoiser(model, shared, adapt=lambda branch: {"perturbations": branch.perturbations})
        with torch.no_grad():
            results.append(run.step(i, x, denoise))
    return results


def compared(group: Any, seeds: Any) -> dict[str, float]:
    """Return how far each executor is from serial, at most."""
    serial = run_of("serial", seeds)
    executors = {
        "all_gather": AllGatherExecutor(group),
        "rows": AllGatherExecutor(group, split_rows=True),
        "all_reduce": AllReduceExecutor(group),
    }
    return {
        name: max(float((one - other).abs().max()) for one, other in zip(run_of(each, seeds), serial, strict=True))
        for name, each in executors.items()
    }
