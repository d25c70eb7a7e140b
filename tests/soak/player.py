"""Plays the moves of an example with one executor, and keeps what each gave."""

from __future__ import annotations

import hashlib
from random import Random
from typing import Any

import attrs
import torch
from torch import Tensor

from guidance_core import ConfigurationError, Executor, Guidance, RankFailedError
from soak.examples import SIGMAS, STEPS, Example, Move
from soak.host import CONDITIONS, Host, HostError, by_name, structured, tensors, text

LONGEST = 4
"Runs at once, and samples of a batch."


@attrs.frozen
class Outcome:
    """What a move gave: a result, or an error that was to be expected."""

    result: dict[str, Tensor] | None = None
    error: str = ""

    @property
    def digest(self) -> str:
        """What is equal for equal bits, and for equal errors."""
        parts = [self.error]
        for name, tensor in (self.result or {}).items():
            raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
            parts.append(f"{name} {tuple(tensor.shape)} {tensor.dtype} {hashlib.sha256(raw).hexdigest()}")
        return "; ".join(parts)


@attrs.define
class Track:
    """A run, and what the host knows of it."""

    run: Any
    rows: int
    last: int = -1
    "The step made last."


def alpha_of(example: Example, sigma: float) -> float:
    """Return the signal level that goes with a noise level."""
    return (1 - sigma**2) ** 0.5 if example.prediction_type in ("epsilon", "v") else 1 - sigma


class Player:
    """Plays moves serially, or as the example's way is."""

    working: torch.dtype | None = None
    "The dtype of all tensors, where it is not the example's own."

    def __init__(self, example: Example, executor: Executor | str, *, in_halves: bool = False) -> None:
        """Start the example's runs."""
        self.example, self.executor, self.in_halves = example, executor, in_halves
        self.tracks = [Track(self.started(stack), example.rows) for stack in example.stacks]

    def started(self, stack: Any, **changed: Any) -> Any:
        """Return a new run."""
        example = self.example
        given: dict[str, Any] = {
            "conditions": {name: {"text": text(example, name)} for name in CONDITIONS},
            "sigmas": SIGMAS,
            "prediction_type": example.prediction_type,
            "outputs": example.names if example.structure == "tuple" else None,
            "executor": self.executor,
        }
        if example.prediction_type in ("epsilon", "x0"):
            given["alphas"] = [alpha_of(example, sigma) for sigma in SIGMAS]
        return Guidance(list(stack)).start(**(given | example.settings | changed))

    def track(self, move: Move) -> Track:
        """Return the run that a move is made with."""
        return self.tracks[move.run % len(self.tracks)]

    def play(self, number: int, move: Move) -> Outcome:
        """Make a move."""
        track = self.track(move)
        if move.kind == "fork":
            if len(self.tracks) < LONGEST:
                self.tracks.append(Track(track.run.fork(), track.rows, track.last))
            return Outcome()
        if move.kind == "select" and track.last >= 0:
            chosen = Random(move.draw)
            indices = [chosen.randrange(track.rows) for _ in range(chosen.randint(1, LONGEST))]
            track.run.select(indices)
            track.rows = len(indices)
            return Outcome()
        index, levels = self.place(track, move)
        host = self.host(number, track, fails=move.kind == "raise in a forward")
        try:
            result = self.step(track, index, self.sample(number, track), host, levels, move.kind)
        except (ConfigurationError, HostError, RankFailedError) as error:
            failed = move.kind.startswith("raise in") and isinstance(error, (HostError, RankFailedError))
            if not failed and not (type(error) is ConfigurationError and "cannot follow" in str(error)):
                raise
            return Outcome(error="failed" if failed else "refused")
        track.last = index
        return Outcome(by_name(self.example, result))

    def place(self, track: Track, move: Move) -> tuple[int, dict[str, float]]:
        """Return which step a move makes, and at which noise level, if not the step's own."""
        by = {"again": 0, "skip": 2, "back": -1}
        index = track.last + by.get(move.kind, 1)
        if not 0 <= index < STEPS:
            index = max(track.last, 0)
        chosen, levels = Random(move.draw), {}
        if move.kind in ("again", "by sigma"):
            share = chosen.uniform(0.05, 0.4)
            sigma = SIGMAS[index] + share * (SIGMAS[index + 1] - SIGMAS[index])
            if move.kind == "again" and chosen.random() < 0.3:
                sigma = min(1.2 * SIGMAS[index], 0.97)  # as churn has it
            levels = {"sigma": sigma}
            if self.example.prediction_type != "flow":
                levels["alpha"] = alpha_of(self.example, sigma)
        return index, levels

    def host(self, number: int, track: Track, *, fails: bool = False) -> Host:
        """Return the denoiser of a move."""
        return Host(self.example, number, track.rows, self.working, fails=fails)

    def sample(self, number: int, track: Track) -> Any:
        """Return the noisy sample of a move."""
        named = tensors(self.example, f"{number} sample", track.rows, self.example.dtype)
        if self.working is not None:
            named = {name: tensor.to(self.working) for name, tensor in named.items()}
        return structured(self.example, named)

    def step(self, track: Track, index: int, x: Any, host: Host, levels: dict[str, float], kind: str = "next") -> Any:
        """Evaluate a step in one call, or in halves."""
        run = track.run
        if not self.in_halves and kind != "raise in the block":
            if kind == "by sigma":
                return run.step_at(levels["sigma"], x, host, alpha=levels.get("alpha"))
            return run.step(index, x, host, **levels)
        if kind == "by sigma":
            begun = run.plan_at(levels["sigma"], x, alpha=levels.get("alpha"))
        else:
            begun = run.plan(index, x, **levels)
        with begun as plan:
            made = {branch.name: host(branch) for branch in plan.own_branches}
            if kind == "raise in the block":
                raise HostError("interrupted")
            for _ in range(plan.padding):
                host(plan.branches[0])
            return self.finished(plan, made)

    def finished(self, plan: Any, made: dict[str, Any]) -> Any:
        """Finish a plan that is made in halves."""
        return plan.finish(made)
