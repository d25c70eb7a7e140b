"""Adaptive guidance on real ranks, whose passes depend on predictions."""

from __future__ import annotations

from typing import Any

import torch

from guidance_core import AllGatherExecutor, AllReduceExecutor, Guidance, GuidanceError
from guidance_plugins import CFG, STG, Adaptive

STEPS = 5
SIGMAS = [1 - step / STEPS for step in range(STEPS + 1)]


def predictions(apart: list[list[float]]) -> list[dict[str, torch.Tensor]]:
    """Return c, u and p of each step, where u of each sample lies `apart[step][sample]` from c."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for distances in apart:
        c, d, p = (torch.randn(len(distances), 40, generator=generator) for _ in range(3))
        made.append({"cond": c, "uncond": c + torch.tensor(distances)[:, None] * d, "perturbed": p})
    return made


def play(
    apart: list[list[float]], plugins: list[Any], rows: slice = slice(None), models: Any = None, **settings: Any
) -> tuple[list[torch.Tensor], list[list[str]]]:
    """Return the results and the passes of each step."""
    run = Guidance(plugins).start(
        conditions={"positive": {}, "negative": {}}, sigmas=SIGMAS, prediction_type="flow", **settings
    )
    results, passes = [], []
    for index, made in enumerate(predictions(apart)):
        x = torch.zeros(len(apart[0]), 40)[rows]
        with run.plan(index, x, **({} if models is None else {"model": models[index]})) as plan:
            passes.append([branch.name for branch in plan.branches])
            results.append(plan.finish({branch.name: made[branch.name][rows].clone() for branch in plan.own_branches}))
    return results, passes


def equals_serial(group: Any, apart: list[list[float]]) -> tuple[bool, list[list[str]]]:
    """Return whether all_gather gives the bits of serial, and the passes of each step."""
    plugins = [CFG(4.0), STG(1.0, blocks=1), Adaptive()]
    ours, passes = play(apart, plugins, executor=AllGatherExecutor(group))
    serial, expected = play(apart, plugins)
    assert passes == expected
    return all(map(torch.equal, ours, serial)), passes


def refused(group: Any) -> str:
    """Return what all-reduce says."""
    try:
        play([[1.0]], [CFG(4.0), Adaptive()], executor=AllReduceExecutor(group))
    except GuidanceError as error:
        return str(error)
    return "accepted"
