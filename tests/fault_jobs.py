"""Faults on one rank of a group, and what every rank sees of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import attrs
import torch
from rank_jobs import EXECUTORS, Case, Counting, bits

from guidance_core import Branch, Guidance, Needs, hookimpl

SLOW = 0.15
"Seconds the slowest rank's forward takes."
CASE = Case(seed=5, shapes={"video": (2, 6, 4), "audio": (2, 3)}, dtype=torch.float32, strengths=(2.0, -0.5), steps=3)
TENSOR = attrs.evolve(CASE, shapes={"output": (2, 6, 4)})


@attrs.define
class Seen:
    """How a rank fared."""

    error: str
    message: str
    seconds: float
    ranks: tuple[int, ...]
    next_is_right: bool


@attrs.frozen
class Breaks:
    """Raises in one hook while armed."""

    hook: str
    armed: dict[str, bool] = attrs.field(eq=False)

    def _act(self, hook: str) -> None:
        if hook == self.hook and self.armed.get("here"):
            raise ValueError("broken on purpose")

    @hookimpl
    def build_branches(self, step):
        if self.hook in ("build_branches", "another branch", "other overrides", "other strength"):
            _ = step.state  # so that it is called at every step
        self._act("build_branches")
        if self.hook == "another branch" and self.armed.get("here"):
            return [Branch("extra", strength=1.0), Needs()]
        if self.hook == "other overrides":
            text = "odd" if self.armed.get("here") else "even"
            return [Branch("extra", overrides={"text": text}, strength=1.0), Needs()]
        if self.hook == "other strength":
            return [Branch("extra", strength=0.5 if self.armed.get("here") else 1.0), Needs()]
        return [Needs()]

    @hookimpl
    def postprocess(self, step, guided, reference):
        self._act("postprocess")


@attrs.frozen
class BreaksInCombine(Breaks):
    @hookimpl
    def combine(self, step, predictions):
        self._act("combine")


class Faulty(Counting):
    """Does one thing wrong."""

    def __init__(self, case: Case, step: int, fault: str, slow: float = SLOW) -> None:
        super().__init__(case, step)
        self.fault, self.slow = fault, slow

    def __call__(self, branch: Any) -> Any:
        time.sleep(self.slow)
        good = super().__call__(branch)
        match self.fault:
            case "forward raises":
                raise RuntimeError("boom")
            case "other shape" | "other sample shape":
                return {name: tensor[:1] for name, tensor in good.items()}
            case "other dtype":
                return {name: tensor.bfloat16() for name, tensor in good.items()}
            case "other names":
                return {"picture": good["video"], "audio": good["audio"]}
            case "no prediction":
                return None
            case "sparse":
                return {name: tensor.to_sparse() for name, tensor in good.items()}
            case "nan":
                return {name: torch.full_like(tensor, float("nan")) for name, tensor in good.items()}
        return good


def failing_at(kind: str, executor: Any, armed: dict[str, bool]) -> Any:
    """Return the executor, or one that fails around its payload while armed."""

    class Failing(executor):
        def _prepared(self, *given: Any) -> Any:
            if kind == "no memory" and armed["here"]:
                raise torch.OutOfMemoryError("no memory for the payload")
            return super()._prepared(*given)

        def _collected(self, *given: Any) -> Any:
            if kind == "cannot be written" and armed["here"]:
                raise RuntimeError("a prediction that cannot be copied")
            return super()._collected(*given)

    return Failing if kind in ("no memory", "cannot be written") else executor


def fault(group: Any, name: str, kind: str, victim: int, at: int, lockstep: bool = False) -> Seen:
    """Make step `at` of a run, in which `victim` does something wrong, and then again, in which nobody does."""
    here = group.rank() == victim
    armed = {"here": here and kind == "hook at start"}
    executor = failing_at(kind, EXECUTORS[name], armed)(group, lockstep=lockstep)
    guidance, sample = CASE.guidance(), CASE.tensors("sample", at)
    if kind.startswith("hook "):
        hook = "build_branches" if kind == "hook at start" else kind.removeprefix("hook ")
        guidance = Guidance([*guidance.plugins, (BreaksInCombine if hook == "combine" else Breaks)(hook, armed)])
    odd = guidance
    if here and kind == "guidance off":
        odd = Guidance([])
    if here and kind == "other scale adds a branch":
        odd = attrs.evolve(CASE, strengths=(2.0, -0.5, 1.0)).guidance()
    if here and kind == "other strength":
        odd = attrs.evolve(CASE, strengths=(2.5, -0.5)).guidance()
    if here and kind == "other sample shape":
        sample = {output: tensor[:1] for output, tensor in sample.items()}

    def start(stack: Guidance):
        return CASE.start(executor, stack, check_finite=True)

    denoise = Faulty(CASE, at, kind if here else "")
    seen, run = Seen("", "", 0.0, (), False), None
    if at:
        run = start(odd)
        for step in range(at):  # the last of these announces the next
            run.step(step, CASE.tensors("sample", step), Counting(CASE, step))
    begun = time.monotonic()
    try:
        run = run or start(odd)
        armed["here"] = here
        run.step(at, sample, denoise)
    except Exception as error:
        seen = Seen(type(error).__name__, str(error), 0.0, getattr(error, "ranks", ()), False)
    seen.seconds = time.monotonic() - begun
    armed["here"] = False
    if run is None or kind in ("guidance off", "other scale adds a branch", "other strength"):
        run = start(guidance)
    sample = CASE.tensors("sample", at)
    result = run.step(at, sample, Counting(CASE, at))
    expected = CASE.start("serial", guidance).step(at, sample, Counting(CASE, at))
    same = bits(result) == bits(expected)
    close = all(torch.allclose(result[output], expected[output], rtol=1e-5, atol=1e-5) for output in expected)
    seen.next_is_right = same if name == "all_gather" else close
    return seen


def stuck(group: Any, name: str, victim: int) -> Seen:
    """Have the victim agree to a payload and never send it; return what a survivor sees."""

    class Stuck(EXECUTORS[name]):
        def _collected(self, plan: Any, *given: Any) -> Any:
            if plan.index == 1 and self.rank == victim:
                time.sleep(600)  # it is killed before
            return super()._collected(plan, *given)

    run = TENSOR.start(Stuck(group))
    run.step(0, TENSOR.tensors("sample", 0), Counting(TENSOR, 0))
    begun = time.monotonic()
    try:
        run.step(1, TENSOR.tensors("sample", 1), Counting(TENSOR, 1))
    except Exception as error:
        seconds = time.monotonic() - begun
        return Seen(type(error).__name__, str(error), seconds, getattr(error, "ranks", ()), False)
    return Seen("", "", time.monotonic() - begun, (), True)


def killed(group: Any, name: str, victim: int, ready: str) -> Seen:
    """Make steps until the victim dies in its forward; return what a survivor sees."""
    run = TENSOR.start(EXECUTORS[name](group))
    run.step(0, TENSOR.tensors("sample", 0), Counting(TENSOR, 0))
    begun = time.monotonic()

    def denoise(branch: Any) -> Any:
        if group.rank() == victim:
            Path(ready).touch()
            time.sleep(60)
        return TENSOR.tensors(branch.name, 1)

    errors = []
    for _ in range(2):  # the group stays unusable, and says so again
        try:
            run.step(1, TENSOR.tensors("sample", 1), denoise)
        except Exception as error:
            errors.append(error)
            if len(errors) == 1:
                waited = time.monotonic() - begun
    first = errors[0]
    return Seen(type(first).__name__, str(first), waited, getattr(first, "ranks", ()), type(errors[1]) is type(first))
