"""Whole runs of LTX-2's transformer on real ranks: held outputs, Heun's method, rows of the batch."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from model_jobs import SIZES, transformer
from rank_jobs import EPS32, EXECUTORS, Found, bits

from guidance_core import AllGatherExecutor, Guidance
from guidance_core.hosts.ltx2 import OUTPUTS, LTX2Denoiser, small_inputs

SIGMAS = [1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.0]
"Six steps."


class Host:
    """A denoising loop around the model, which counts what it calls."""

    def __init__(self, dtype: torch.dtype, *, batch: int = 1, sigmas: list[float] = SIGMAS) -> None:
        self.model, self.inputs = transformer(dtype), small_inputs(SIZES, batch=batch)
        self.dtype, self.sigmas = dtype, sigmas
        self.branches: list[str] = []
        self.rows = 0

    def start(self, spec: str, executor: Any = "serial") -> Any:
        conditions = {
            name: {key: value.to(self.dtype) for key, value in given.items()}
            for name, given in self.inputs.conditions.items()
        }
        return Guidance.from_spec(spec).start(
            conditions=conditions, sigmas=self.sigmas, prediction_type="flow", outputs=OUTPUTS, executor=executor
        )

    def noise(self) -> tuple[torch.Tensor, ...]:
        return tuple(stream.to(self.dtype) for stream in self.inputs.sample)

    def denoiser(self, x: tuple[torch.Tensor, ...], sigma: float) -> Any:
        return Counted(self, LTX2Denoiser(self.model, x, sigma, self.inputs.grid))


class Counted:
    """A denoiser, and its host's counts of branches and rows."""

    takes_rows = True

    def __init__(self, host: Host, denoise: LTX2Denoiser) -> None:
        self.host, self.denoise = host, denoise

    def __call__(self, branch: Any) -> Any:
        return self.batch([branch])[0]

    def batch(self, branches: list[Any]) -> Any:
        made = self.denoise.batch(branches)
        self.host.branches += [branch.name for branch in branches]
        self.host.rows += sum(len(video) for video, _ in made)
        return made


def drawn(host: Host, run: Any, *, heun: bool) -> tuple[list[str], list[int], tuple[torch.Tensor, ...]]:
    """Draw with Euler's or Heun's method; return the bits and the forwards of every evaluation, and the result."""
    x, seen, forwards = host.noise(), [], []

    def velocity(i: int, x: Any, level: float, **own: Any) -> Any:
        before = len(host.branches)
        result = run.step(i, x, host.denoiser(x, level), **own)
        seen.append(bits(dict(zip(OUTPUTS, result, strict=True))))
        forwards.append(len(host.branches) - before)
        return result

    for i, (sigma, following) in enumerate(pairwise(host.sigmas)):
        first = velocity(i, x, sigma)
        ahead = tuple(s + (following - sigma) * v for s, v in zip(x, first, strict=True))
        if heun and following > 0:
            second = velocity(i, ahead, following, sigma=following)
            ahead = tuple(s + (following - sigma) * (v + w) / 2 for s, v, w in zip(x, first, second, strict=True))
        x = ahead
    return seen, forwards, x


def whole_run(group: Any, spec: str, dtype: torch.dtype, heun: bool) -> tuple[bool, list[int], list[int]]:
    """Draw serially and gathered, each from its own latents; return equality and the forwards of both."""
    alone, here = Host(dtype), Host(dtype)
    expected, branches, _ = drawn(alone, alone.start(spec), heun=heun)
    seen, forwards, _ = drawn(here, here.start(spec, AllGatherExecutor(group)), heun=heun)
    return seen == expected, branches, forwards


def within_the_plain_bound(group: Any, dtype: torch.dtype) -> Found:
    """Add up without corrections, so that the promise's own bound n·2⁻²³·Σ|w·p| holds as it stands."""
    strengths = {"video": (2.0, 1.0, 2.0), "audio": (6.0, 1.0, 2.0)}
    host, found = Host(dtype, batch=2), Found()
    spec = "ltx2:preset=2.3,stg_blocks=1,rescale_scale=0"
    serial, parallel = host.start(spec), host.start(spec, EXECUTORS["all_reduce"](group))
    x = host.noise()
    for i, sigma in enumerate(host.sigmas[:3]):
        plan, denoise = serial.plan(i, x), host.denoiser(x, sigma)
        made = {branch.name: denoise(branch) for branch in plan.branches}
        expected, result = serial.finish(plan, made), parallel.step(i, x, denoise)
        found.bits.append(bits(dict(zip(OUTPUTS, result, strict=True))))
        for number, output in enumerate(OUTPUTS):
            passes = [made[name][number].double() for name in ("cond", "neg", "perturbed", "modality")]
            weights = (1 + sum(strengths[output]), *strengths[output])
            size = sum(weight * each.abs() for weight, each in zip(weights, passes, strict=True))
            found.compare(result[number], expected[number], 4 * EPS32 * size)
        x = tuple(s + (host.sigmas[i + 1] - sigma) * v for s, v in zip(x, expected, strict=True))
    return found


def rows_shared_out(group: Any, batched: bool) -> tuple[float, int, int]:
    """Share out three rows of four branches; return the largest error, and the rows and forwards of this rank."""
    spec, sigmas = "ltx2:preset=2.3,stg_blocks=1", [1.0, 0.5, 0.0]
    alone, here = (Host(torch.float32, batch=3, sigmas=sigmas) for _ in range(2))
    _, _, expected = drawn(alone, alone.start(spec), heun=False)
    executor = AllGatherExecutor(group, split_rows=True, batched=batched)
    _, _, result = drawn(here, here.start(spec, executor), heun=False)
    error = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(result, expected, strict=True))
    return error, here.rows, executor.counts.forwards
