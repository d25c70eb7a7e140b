"""What plugins say and what hosts do with a run, on real ranks."""

from __future__ import annotations

from typing import Any

import torch
from small_methods import text

from guidance_core import AllGatherExecutor, Guidance, GuidanceError
from guidance_plugins import APG, CADS, NAG, CFGPlusPlus

CONDITIONS = {"positive": {"text": text(seed=1)}, "negative": {"text": text(seed=2)}}
PLUGINS = [CADS(low=0.0, high=1.0), CFGPlusPlus(0.5), NAG(2.0), APG(2.0, momentum=0.3)]
X = text(seed=3)
SELECTED = [1, 0, 1]


def play(**settings: Any) -> tuple[list[torch.Tensor], Any]:
    """Make two steps; fork, save and select samples; make the third step in all ways; return results and seeds."""

    def start(**changed: Any) -> Any:
        return Guidance(PLUGINS[:1] + PLUGINS[2:]).start(
            conditions=CONDITIONS, sigmas=[0.9, 0.6, 0.3, 0.0], prediction_type="flow", **{**settings, **changed}
        )

    run = start()
    seeds = run.seeds

    def made(which: Any, index: int, x: torch.Tensor) -> torch.Tensor:
        def denoise(branch: Any) -> torch.Tensor:
            also = sum(each["text"] for each in branch.also.values())
            return torch.tanh(x + branch.inputs["text"] + also)

        return which.step(index, x, denoise)

    results = [made(run, index, X) for index in range(2)]
    other, resumed = run.fork(), start(seeds=99)
    resumed.load_state_dict(run.state_dict())
    run.select(SELECTED)
    results += [made(run, 2, X[SELECTED]), made(other, 2, X), made(resumed, 2, X)]
    assert torch.equal(results[-1], results[-2]), "a fork and a saved run go on alike"
    return results, seeds


def equals_serial(group: Any, seeds: Any) -> tuple[list[bool], Any, bool]:
    """Return whether ranks give the bits of serial with the same seeds, the seeds, and whether others differ."""
    ours, own = play(executor=AllGatherExecutor(group), seeds=seeds)
    serial, _ = play(seeds=own)
    others, _ = play(seeds=12345)
    same = [torch.equal(one, two) for one, two in zip(ours, serial, strict=True)]
    return same, own, any(not torch.equal(one, two) for one, two in zip(ours, others, strict=True))


def another_selection_on_one_rank(group: Any) -> str:
    """Select other samples on one rank; return the error, and then make a run that works."""
    run = Guidance(PLUGINS[1:2]).start(
        conditions=CONDITIONS,
        sigmas=[0.9, 0.6, 0.3, 0.0],
        prediction_type="flow",
        executor=AllGatherExecutor(group),
    )
    run.step(0, X, lambda branch: X + 0)
    told = "nothing"
    try:
        run.select([0, 1] if group.rank() else [1, 0])
    except GuidanceError as error:
        told = f"{type(error).__name__}: {error}"
    assert play(executor=AllGatherExecutor(group))
    return told
