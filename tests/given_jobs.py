"""What ranks are given, on one of them differently: inputs, parameters, versions, threads; and what all are told."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from rank_jobs import EXECUTORS

from guidance_core import Branch, Guidance, GuidanceError, Needs, compare_weights, hookimpl
from guidance_plugins import CFG, STG

SIGMAS = [1.0, 0.75, 0.5, 0.25, 0.0]
SHAPE = (2, 6, 4)


def sample(step: int = 0) -> torch.Tensor:
    return torch.linspace(-1, 1, 48).reshape(SHAPE) + step


def forward(x: torch.Tensor) -> Any:
    return lambda branch: x * (1 + 0.1 * len(branch.name))


def start(executor: Any, plugins: Any = None, conditions: Any = None, **settings: Any) -> Any:
    return Guidance([CFG(3.0), STG(1.0)] if plugins is None else plugins).start(
        conditions=conditions or {"positive": {"text": torch.ones(3)}, "negative": {"text": torch.zeros(3)}},
        sigmas=SIGMAS,
        prediction_type="flow",
        executor=executor,
        **settings,
    )


def said(function: Any) -> str:
    """Call and return the error, of whatever class."""
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def right(run: Any, step: int, x: torch.Tensor) -> bool:
    made = run.step(step, x, forward(x))
    expected = start("serial").step(step, x, forward(x))
    return bool(torch.allclose(made, expected, rtol=1e-5, atol=1e-5))


BITS = torch.tensor([0x7FC00000, 0x3F800000, 0], dtype=torch.int32)
ODD: dict[str, tuple[Any, Any]] = {
    "one element": (torch.zeros(70_000), torch.zeros(70_000).index_fill(0, torch.tensor([69_999]), 1e-30)),
    "two elements swapped": (torch.arange(9.0), torch.tensor([0.0, 1, 2, 4, 3, 5, 6, 7, 8])),
    "signs of two": (torch.ones(8).bfloat16(), torch.tensor([1, 1, 1, -1, 1, 1, 1, -1]).bfloat16()),
    "payload of NaN": (BITS.view(torch.float32), (BITS + torch.tensor([1, 0, 0])).int().view(torch.float32)),
    "sign of zero": (torch.zeros(3), -torch.zeros(3)),
    "whole numbers": (torch.arange(5), torch.arange(5) + 2**40),
    "truth values": (torch.tensor([True, False, True]), torch.tensor([True, True, True])),
    "float8": (torch.ones(5).to(torch.float8_e4m3fn), torch.full((5,), 1.125).to(torch.float8_e4m3fn)),
    "dtype": (torch.ones(4), torch.ones(4, dtype=torch.float64)),
    "shape": (torch.ones(4), torch.ones(2, 2)),
    "sparse": (torch.eye(3).to_sparse(), (2 * torch.eye(3)).to_sparse()),
    "text": ("a lake", "a lake\udcff"),
    "number": (1.5, np.float64(1.25)),
    "array": (np.arange(6), np.arange(6)[::-1]),
    "nested": ({"a": [1, (torch.ones(2), None)]}, {"a": [1, (torch.zeros(2), None)]}),
    "missing": (torch.ones(2), None),
}


def other_condition(group: Any, name: str, kind: str, odd: int) -> tuple[str, bool]:
    """Give one rank another input of a condition; the error, and whether the group goes on."""
    usual, unusual = ODD[kind]
    value = unusual if group.rank() == odd else usual
    negative = {"text": torch.zeros(3), "mask": value}
    if kind == "missing" and group.rank() == odd:
        del negative["mask"]
    executor = EXECUTORS[name](group)
    run = start(executor, conditions={"positive": {"text": torch.ones(3)}, "negative": negative})
    error = said(lambda: run.step(0, sample(), forward(sample())))
    return error, right(start(executor), 0, sample())


def other_sample(group: Any, name: str, odd: int, options: dict[str, Any]) -> tuple[str, int, bool]:
    """Give one rank another sample; the error, this rank's forwards, and whether a second try is right."""
    calls: list[str] = []
    run = start(EXECUTORS[name](group, **options))
    x = sample() + 1e-6 * (group.rank() == odd)

    def denoise(branch: Any) -> torch.Tensor:
        calls.append(branch.name)
        return forward(x)(branch)

    error = said(lambda: run.step(0, x, denoise))
    return error, len(calls), right(run, 0, sample())


def equal_in_other_layouts(group: Any, name: str) -> str:
    """Give every rank the same values, in memory that differs, and ranks what only they need."""
    here, x = group.rank(), sample()
    if here == 1:
        x = sample().transpose(1, 2).contiguous().transpose(1, 2)
    text = torch.arange(12.0).reshape(3, 4)
    text = text if here != 1 else torch.stack([text, text], dim=-1)[..., 0]
    count = 3 if here != 2 else np.int64(3)
    conditions = {
        "positive": {"text": text, "count": count, "cache": object()},
        "negative": {"text": torch.ones(2)} if here == 0 else {},  # looked up by the host elsewhere
    }
    return said(lambda: start(EXECUTORS[name](group), conditions=conditions).step(0, x, forward(x)))


def later(group: Any, name: str, when: str, odd: int, options: dict[str, Any]) -> list[tuple[str, int]]:
    """Give one rank another sample in the fourth step; the error and the exchanges of every step."""
    executor = EXECUTORS[name](group, **options)
    run, seen = start(executor, check_inputs=when), []
    for step in range(4):
        before = executor.counts.control_exchanges
        x = sample(step) + (step == 3) * (group.rank() == odd)
        seen.append(
            (said(lambda x=x, step=step: run.step(step, x, forward(x))), executor.counts.control_exchanges - before)
        )
    return seen


def named_by_the_host(group: Any, odd: int) -> list[str]:
    """Name other things that must be equal, of which one rank has another; and fail to name them on one."""
    here = group.rank() == odd

    def fails() -> dict[str, Any]:
        raise OSError("no such checkpoint")

    executor, x = EXECUTORS["all_gather"](group), sample()
    found = []
    for given in (lambda: {"seed": 7 + here, "adapters": {"style": [0.5, torch.ones(2)]}}, fails if here else dict):
        run = start(executor, given=given, check_inputs="never")
        found.append(said(lambda run=run: run.step(0, x, forward(x))))
    return found


# Parameters.


class Plain:
    """An object without equality."""

    def __init__(self, value: Any) -> None:
        self.value = value


@attrs.frozen
class Holds:
    """A method with a parameter of any kind."""

    value: Any = attrs.field(eq=False)

    @hookimpl
    def build_branches(self, step):
        return [Branch("uncond", condition="negative", required=True), Needs()]


def add(amount: Any) -> Any:
    return lambda x: x + amount


PARAMETERS: dict[str, tuple[Any, Any]] = {
    "eq=False": (lambda: [1], lambda: [2]),
    "object": (lambda: Plain(1), lambda: Plain(2)),
    "object in itself": (lambda: _cyclic(1), lambda: _cyclic(2)),
    "array": (lambda: np.ones(4), lambda: np.zeros(4)),
    "closure": (lambda: add(1), lambda: add(2)),
    "code": (lambda: lambda x: x + 1, lambda: lambda x: x + 2),
    "default": (lambda: lambda x, y=1: x, lambda: lambda x, y=2: x),
    "method": (lambda: Plain(1).__init__, lambda: Plain(2).__init__),
    "function": (lambda: torch.sigmoid, lambda: torch.tanh),
    "tensor": (lambda: torch.ones(2), lambda: torch.zeros(2)),
}
REFUSED: dict[str, Any] = {
    "lock": threading.Lock,
    "generator": lambda: (x for x in ()),
    "deep": lambda: [Plain(threading.Lock())],
}


def _cyclic(value: int) -> Plain:
    made = Plain(value)
    made.me = made  # type: ignore[attr-defined]
    return made


def other_parameter(group: Any, kind: str, odd: int) -> tuple[str, str]:
    """Start a run with another parameter on one rank, then with equal ones; the errors."""
    usual, unusual = PARAMETERS[kind]
    make, executor = unusual if group.rank() == odd else usual, EXECUTORS["all_gather"](group)
    other = said(lambda: start(executor, [Holds(make())]))
    return other, said(lambda: start(executor, [Holds(usual())]))


def refused_parameter(group: Any, kind: str) -> tuple[str, str]:
    """Start a run with a parameter that cannot be compared; on one process, and on ranks."""
    plugins = [Holds(REFUSED[kind]())]
    return said(lambda: start("serial", plugins)), said(lambda: start(EXECUTORS["all_gather"](group), plugins))


def numbers_of_numpy(group: Any) -> str:
    """Give every rank the same numbers, on one of them NumPy's."""
    scale = (3.0, np.float32(3), np.float64(3))[group.rank()]
    blocks = 2 if group.rank() == 0 else np.int64(2)
    return said(lambda: start(EXECUTORS["all_gather"](group), [CFG(scale), Holds([scale * 1.0, int(blocks)])]))


def other_executor(group: Any, odd: int) -> list[str]:
    """Give one rank another setting of the executor: the library's, and an attribute of a stranger's."""
    here = group.rank() == odd

    class Own(EXECUTORS["all_gather"]):
        def __init__(self, chunk: Any) -> None:
            super().__init__(group)
            self.chunk = chunk
            self._cache = object()

    made = [EXECUTORS["all_gather"](group, control=not here), Own(2 if here else 1), Own(1), Own(threading.Lock())]
    return [said(lambda executor=executor: start(executor)) for executor in made]


# Versions.


def other_version(group: Any, folder: str, odd: int) -> list[str]:
    """Start with another version of the library, and of a distribution that publishes nothing, on one rank."""
    import guidance_core

    here, own = group.rank() == odd, guidance_core.__version__
    executor = EXECUTORS["all_gather"](group)
    guidance_core.__version__ = "9.9" if here else own
    found = [said(lambda: start(executor))]
    guidance_core.__version__ = own
    version = "2.0" if here else "1.0"
    place = Path(folder, version)
    sys.path.insert(0, str(place))
    from strangers_method import Method  # type: ignore[import-not-found]

    found.append(said(lambda: start(executor, [CFG(3.0), Method()])))
    sys.path.remove(str(place))
    del sys.modules["strangers_method"]
    return [*found, said(lambda: start(executor))]


# Threads.


def two_threads(group: Any, name: str) -> tuple[set[str], bool]:
    """Use a group in two threads at once; the errors, whether no result was mixed, and whether the group goes on."""
    executor, other = EXECUTORS[name](group), EXECUTORS[name](group)
    run, second = start(executor), start(other)
    inside, errors, x = threading.Event(), [], sample()

    def slow(branch: Any) -> torch.Tensor:
        inside.set()
        time.sleep(0.3)
        return forward(x)(branch)

    def intrude() -> None:
        inside.wait()
        errors.append(said(lambda: second.step(0, x, forward(x))))

    thread = threading.Thread(target=intrude, name="intruder")
    thread.start()
    errors.append(said(lambda: run.step(0, x, slow)))
    thread.join()
    return set(errors), right(run, 0, x) and right(second, 0, x)


def threads_by_turns(group: Any, name: str) -> bool:
    """Use a group in two threads, one after the other; a plan may be finished in another thread."""
    run, x, found = start(EXECUTORS[name](group)), sample(), []
    plan = run.plan(0, x)

    def finish() -> None:
        made = plan.finish({branch.name: forward(x)(branch) for branch in plan.own_branches})
        found.append(torch.allclose(made, start("serial").step(0, x, forward(x)), atol=1e-5))

    for target in (finish, lambda: found.append(right(run, 1, x))):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
    return found == [True, True] and right(run, 2, x)


# Weights.


def weights(group: Any, odd: int) -> list[Any]:
    """Compare models: equal; with another weight on one rank; without one; with weights that have no values."""
    here = group.rank() == odd

    def model() -> torch.nn.Sequential:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))

    equal, other, offloaded = model(), model(), model()
    with torch.no_grad():
        other[2].weight[1, 1] += 1e-7 * here
        other[1].running_mean.fill_(0.5 * here)
    lacking = dict(equal.state_dict())
    if here:
        del lacking["0.bias"]
        offloaded[0] = torch.nn.Linear(4, 4, device="meta")
    run = start(EXECUTORS["all_gather"](group))
    for step in range(2):  # the second announces a third, which is set aside
        right(run, step, sample(step))
    found: list[Any] = []
    for each in (equal, other, lacking, offloaded, "a path" if here else equal):
        try:
            report = compare_weights(each, group)
            found.append((report.compared, dict(report.left_out)))
        except GuidanceError as error:
            found.append(f"{type(error).__name__}: {error}")
    return [*found, right(run, 2, sample(2))]
