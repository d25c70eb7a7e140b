"""What ranks are given to tune, in the tests of `tune`, of `AutoExecutor(tuning=...)` and of traces."""

from __future__ import annotations

import time
from typing import Any

import torch

from guidance_core import (
    AllGatherExecutor,
    AllReduceExecutor,
    AutoExecutor,
    Guidance,
    GuidanceError,
    Trace,
    Tuning,
    tune,
)

STEPS = 6
SETTINGS: dict[str, Any] = {
    "conditions": {"positive": {"place": 1.0}, "negative": {"place": -1.0}},
    "sigmas": [1 - i / STEPS for i in range(STEPS + 1)],
    "prediction_type": "flow",
}
SAMPLE = torch.linspace(-1, 1, 24).reshape(2, 3, 4)


class Sleeping:
    """A denoiser whose forwards take as long as it is told, on however few cores."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.calls = 0

    def __call__(self, branch: Any) -> torch.Tensor:
        self.calls += 1
        time.sleep(self.seconds)
        return self.prediction(branch)

    def prediction(self, branch: Any) -> torch.Tensor:
        return torch.sin(SAMPLE * (1 + len(branch.name)) + branch.inputs["place"] * (1 + branch.step))


class Batching(Sleeping):
    """The same, of which several forwards together take `share` of what they take one by one."""

    def __init__(self, seconds: float = 0.0, share: float = 0.5) -> None:
        super().__init__(seconds)
        self.share = share
        self.batches = 0

    def batch(self, branches: list[Any]) -> list[torch.Tensor]:
        self.batches += 1
        time.sleep(self.seconds * self.share * len(branches))
        return [self.prediction(branch) for branch in branches]


def error_of(call: Any) -> tuple[str, str]:
    try:
        call()
    except GuidanceError as error:
        return type(error).__name__, str(error)
    return "", ""


def tuned(group: Any, spec: str, seconds: list[float], share: float | None, **options: Any) -> Tuning:
    mine = seconds[group.rank()]
    denoise = Sleeping(mine) if share is None else Batching(mine, share)
    return tune(Guidance.from_spec(spec), denoise, SAMPLE, group=group, **SETTINGS, **options)


def stepped(
    group: Any, spec: str, tuning: Tuning, equality: str, sample: torch.Tensor = SAMPLE, batches: bool = True
) -> tuple[list[bool], str, int, int]:
    """Make a run by a tuning: whether its steps are serial's bit for bit, its description, calls and batches."""
    guidance = Guidance.from_spec(spec)
    denoise = Batching() if batches else Sleeping()
    if sample is not SAMPLE:
        denoise.prediction = lambda branch: torch.sin(sample * len(branch.name))  # type: ignore[method-assign]
    run = guidance.start(**SETTINGS, executor=AutoExecutor(group, tuning=tuning, equality=equality))
    serial = guidance.start(**SETTINGS)
    equal, calls = [], 0
    for index in range(STEPS):
        made = run.step(index, sample, denoise)
        calls = denoise.calls
        equal.append(torch.equal(made, serial.step(index, sample, denoise)))
        denoise.calls = calls
    return equal, str(run.describe()).splitlines()[0], calls, getattr(denoise, "batches", 0)


def differs(group: Any, what: str, tuning: Tuning | None) -> tuple[tuple[str, str], float, bool]:
    """Have the last rank do something else; return what this rank raises, when, and whether the group goes on."""
    is_odd = group.rank() == group.size() - 1
    guidance = Guidance.from_spec("cfg:scale=3")
    begun = time.monotonic()

    class Failing(Sleeping):
        def __call__(self, branch: Any) -> torch.Tensor:
            if is_odd and branch.step == 2:
                raise ValueError("on purpose")
            return super().__call__(branch)

    def tunes() -> object:
        executors: Any = ("serial", "all_gather")
        if is_odd and what == "executors":
            executors = ("serial",)
        if is_odd and what == "an unknown name":
            executors = ("serial", "all_gathr")
        denoise = Failing() if what == "a forward fails" else Batching() if what == "batch" and is_odd else Sleeping()
        return tune(guidance, denoise, SAMPLE, group=group, executors=executors, **SETTINGS)

    def runs() -> object:
        equality = "bits" if is_odd and what == "equality" else "close"
        given = None if is_odd and what == "tuning" else tuning
        run = guidance.start(**SETTINGS, executor=AutoExecutor(group, tuning=given, equality=equality))
        sample = SAMPLE[:1] if is_odd and what == "sample" else SAMPLE
        return run.step(0, sample, lambda branch: torch.zeros_like(sample))

    told = error_of(runs if tuning is not None else tunes)
    taken = time.monotonic() - begun
    run = guidance.start(**SETTINGS, executor=AllGatherExecutor(group))
    return told, taken, run.step(0, SAMPLE, Sleeping()).shape == SAMPLE.shape


def unequal(group: Any, name: str, speeds: list[float], options: dict[str, Any]) -> tuple[list[int], bool, str]:
    """Make a run on ranks of these speeds: own passes by step, whether it is serial's, its description."""
    kinds = {"all_gather": AllGatherExecutor, "all_reduce": AllReduceExecutor}
    guidance = Guidance.from_spec("cfg:scale=3,stg:blocks=1,scale=2")
    run = guidance.start(**SETTINGS, executor=kinds[name](group, speeds=speeds, **options))
    serial = guidance.start(**SETTINGS)
    own, close = [], True
    for index in range(2):
        denoise = Sleeping()
        made = run.step(index, SAMPLE, denoise)
        own.append(denoise.calls)
        expected = serial.step(index, SAMPLE, Sleeping())
        same = torch.equal(made, expected) if name == "all_gather" else torch.allclose(made, expected, atol=1e-5)
        close = close and same
    return own, close, str(run.describe())


def traced(group: Any, name: str, spec: str, options: dict[str, Any]) -> tuple[Trace, list[torch.Tensor]]:
    """Make a run with a trace, on the first rank alone."""
    kinds = {"all_gather": AllGatherExecutor, "all_reduce": AllReduceExecutor}
    trace = Trace()
    executor = kinds[name](group, **options)
    given = {"trace": trace} if group.rank() == 0 else {}
    run = Guidance.from_spec(spec).start(**SETTINGS, executor=executor, **given)
    return trace, [run.step(index, SAMPLE, Sleeping()) for index in range(STEPS)]


def speeds_error(group: Any, speeds: Any) -> tuple[str, str]:
    return error_of(lambda: AllGatherExecutor(group, speeds=speeds))
