"""Whole runs with methods that save passes, in one process and on ranks, in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import attrs
import torch
import torch.distributed as dist
from torch import Tensor

from guidance_core.bench.parallel.jobs import SAVING_STEPS, SAVINGS, falling
from guidance_core.bench.parallel.on_ranks import bits_of
from guidance_core.bench.parallel.report import Saving
from guidance_core.executors import AllGatherExecutor, Executor, SerialExecutor
from guidance_core.guidance import Guidance
from guidance_core.hosts.ltx2 import OUTPUTS, LTX2Denoiser, Sizes, small_inputs, small_transformer


@attrs.frozen
class SeenRuns:
    """What one rank saw of a method's runs."""

    passes: int
    forwards: int
    "Of this rank, in a run on ranks."
    serial: tuple[float, ...]
    "Seconds of a run; empty on ranks that made none."
    gathered: tuple[float, ...]
    bits: str
    "Digest of the result on ranks."
    expected: str
    "Digest of the result in one process; empty on ranks that made none."


def observe_savings(group: dist.ProcessGroup, sizes: Sizes, rounds: int) -> dict[str, SeenRuns]:
    """Make the runs of every method in turn; the first round warms up and is not counted."""
    model, inputs = small_transformer(sizes), small_inputs(sizes)
    count = 0

    def forwarded(*_: object) -> None:
        nonlocal count
        count += 1

    model.register_forward_hook(forwarded)
    sigmas = falling(SAVING_STEPS)
    executors: dict[str, Executor] = {"serial": SerialExecutor(), "gathered": AllGatherExecutor(group)}
    seconds: dict[tuple[str, str], list[float]] = {(name, how): [] for name in SAVINGS for how in executors}
    results: dict[tuple[str, str], Sequence[Tensor]] = {}
    passes: dict[str, int] = {}
    forwards: dict[str, int] = {}
    with torch.inference_mode():
        for number in range(rounds + 1):
            latents = small_inputs(sizes, seed=number).sample
            for name, how in seconds:
                dist.barrier(group)
                if how == "serial" and group.rank() > 0:
                    continue
                before, begun = count, time.perf_counter()
                run = Guidance.from_spec(SAVINGS[name]).start(
                    conditions=inputs.conditions,
                    sigmas=sigmas,
                    prediction_type="flow",
                    outputs=OUTPUTS,
                    executor=executors[how],
                )
                sample: tuple[Tensor, ...] = latents
                for index, sigma in enumerate(sigmas[:-1]):
                    velocity = run.step(index, sample, LTX2Denoiser(model, (sample[0], sample[1]), sigma, inputs.grid))
                    sample = tuple(x + (sigmas[index + 1] - sigma) * v for x, v in zip(sample, velocity, strict=True))
                if number:
                    seconds[name, how].append(time.perf_counter() - begun)
                results[name, how] = sample
                if how == "gathered":
                    passes[name], forwards[name] = run.passes, count - before
        dist.barrier(group)
    return {
        name: SeenRuns(
            passes[name],
            forwards[name],
            tuple(seconds[name, "serial"]),
            tuple(seconds[name, "gathered"]),
            bits_of(results[name, "gathered"]),
            bits_of(results.get((name, "serial"), ())),
        )
        for name in SAVINGS
    }


def savings_of(found: Sequence[dict[str, SeenRuns]], rounds: int) -> tuple[Saving, ...]:
    """Return what the ranks saw; a run takes as long as on its slowest rank."""
    return tuple(
        Saving(
            method=name,
            spec=spec,
            steps=SAVING_STEPS,
            passes=found[0][name].passes,
            forwards=tuple(rank[name].forwards for rank in found),
            serial_ms=round(statistics.median(found[0][name].serial) * 1e3, 3),
            all_gather_ms=round(
                statistics.median(map(max, zip(*(rank[name].gathered for rank in found), strict=True))) * 1e3, 3
            ),
            equal_to_serial={rank[name].bits for rank in found} == {found[0][name].expected},
            rounds=rounds,
        )
        for name, spec in SAVINGS.items()
    )
