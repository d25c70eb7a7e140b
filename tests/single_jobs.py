"""Steps with one branch on several ranks: functions that processes can import."""

from __future__ import annotations

from typing import Any

import torch

from guidance_core import AllGatherExecutor, AllReduceExecutor, Guidance, RankFailedError
from guidance_core.executors import Executor

SIGMAS = [1.0, 0.8, 0.6, 0.4, 0.2, 0.0]
EXECUTORS = {"all_gather": AllGatherExecutor, "all_reduce": AllReduceExecutor}


def generated(executor: str | Executor, spec: str, fails_at: int | None = None, rank: int = 0) -> Any:
    """Return the final sample, the calls of the denoiser at each step, and the errors."""
    run = Guidance.from_spec(spec).start(
        conditions={"positive": {"shift": 0.1}, "negative": {"shift": -0.4}},
        sigmas=SIGMAS,
        prediction_type="flow",
        executor=executor,
    )
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    calls, errors = [0] * (len(SIGMAS) - 1), []
    for i in range(len(SIGMAS) - 1):

        def denoise(branch: Any, i: int = i, x: torch.Tensor = x) -> torch.Tensor:
            calls[i] += 1
            if rank == 1 and fails_at == i and not errors:
                raise RuntimeError("no memory")
            return torch.tanh(x + branch.inputs["shift"])

        try:
            guided = run.step(i, x, denoise)
        except RankFailedError as error:
            errors.append(str(error))
            guided = run.step(i, x, denoise)
        x = x + (SIGMAS[i + 1] - SIGMAS[i]) * guided
    return x, calls, errors


def on_ranks(group: Any, name: str, spec: str, control: bool, fails_at: int | None) -> Any:
    executor = EXECUTORS[name](group, control=control, repeat_single=True)
    return *generated(executor, spec, fails_at, group.rank()), executor.counts.payload_collectives


def described(group: Any) -> str:
    return AllGatherExecutor(group, repeat_single=True).describe()
