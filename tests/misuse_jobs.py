"""Wrong uses of several ranks, and what each rank is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import torch
import torch.distributed as dist
from rank_jobs import EXECUTORS, Case, Counting, bits
from run_jobs import CASE, SIGMAS, error_of, start

from guidance_core import AllGatherExecutor, AllReduceExecutor, Guidance, hookimpl

Said = list[tuple[str, str]]


class Lonely(dist.ProcessGroup):
    """A backend of a third party that has no collectives at all."""

    def getBackendName(self) -> str:  # noqa: N802
        return "lonely"


class OnlyBroadcasts(Lonely):
    """One that has a broadcast, and nothing else."""

    def __init__(self, rank: int, size: int, gloo: Any) -> None:
        super().__init__(rank, size)
        self.gloo = gloo

    def broadcast(self, tensors: Any, options: Any) -> Any:
        return self.gloo.broadcast(tensors, options)


def group_of(kind: type[Lonely], group: Any) -> Any:
    """Make a group of all ranks with a backend registered for it."""

    def make(store: Any, rank: int, size: int, timeout: Any) -> Lonely:
        if kind is Lonely:
            return Lonely(rank, size)
        return OnlyBroadcasts(rank, size, dist.ProcessGroupGloo(dist.PrefixStore("own", store), rank, size, timeout))

    name = kind.__name__.lower()
    if name.upper() not in dist.Backend._plugins:
        dist.Backend.register_backend(name, make, devices=["cpu"])
    return dist.new_group(list(range(group.size())), backend=name)


@attrs.frozen
class Calls:
    """A plugin with a function for a parameter, which lies elsewhere in each process."""

    function: Callable[..., Any]

    @hookimpl
    def build_branches(self, step: Any) -> list[Any]:
        return []


def step(run: Any, index: int = 0, **given: Any) -> Any:
    return run.step(index, CASE.tensors("sample", index), Counting(CASE, index), **given)


def lacks_a_collective(group: Any, name: str) -> Said:
    run = start(EXECUTORS[name](group_of(Lonely, group)))
    return [error_of(lambda: step(run))]


def lacks_what_the_first_step_does_not_need(group: Any, name: str) -> tuple[bool, Said]:
    """One branch is broadcast, two need the collective that is not there."""
    spec = "cfg:scale=3,interval:lo=0.2,hi=0.95"
    run = start(EXECUTORS[name](group_of(OnlyBroadcasts, group)), spec)
    same = bits(step(run)) == bits(step(start("serial", spec)))
    return same, [error_of(lambda: step(run, 1))]


def default_group_is_gone(group: Any, store: str) -> tuple[Said, str, bool]:
    """Destroy the default group under an executor, then start anew in the same processes."""
    rank, size = group.rank(), group.size()
    executor = AllGatherExecutor()
    run = start(executor)
    step(run)
    dist.destroy_process_group()
    said = [
        error_of(lambda: step(run, 1)),
        error_of(lambda: start(executor)),
        error_of(lambda: start("all_gather")),
        error_of(lambda: AllReduceExecutor(group)),
    ]
    local = str(start("auto").describe()).splitlines()[0]
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    said.append(error_of(lambda: step(run, 1)))
    again = bits(step(start(AllGatherExecutor()))) == bits(step(start("serial")))
    return said, local, again


def differs(group: Any, what: str, odd: int) -> tuple[Said, bool]:
    """Let one rank do another thing, then none."""
    here, executor = group.rank() == odd, AllGatherExecutor(group)
    match what:
        case "scale":
            said = error_of(lambda: start(executor, f"cfg:scale={3.5 if here else 3}"))
        case "one of many scales":
            scales = [*[1.0] * 200, 3.5 if here else 3.0]
            said = error_of(lambda: start(executor, f"cfg:scale=tensor({scales})"))
        case "sigmas":
            sigmas = [*SIGMAS[:-2], SIGMAS[-2] / 2, 0.0] if here else SIGMAS
            said = error_of(lambda: start(executor, sigmas=sigmas))
        case "prediction type":
            said = error_of(lambda: start(executor, prediction_type="v" if here else "flow"))
        case "executor":
            kind = AllReduceExecutor if here else AllGatherExecutor
            said = error_of(lambda: start(kind(group)))
        case "options":
            said = error_of(lambda: start(AllGatherExecutor(group, split_rows=here)))
        case "sigma of a step":
            run = start(executor)
            said = error_of(lambda: step(run, sigma=0.95 if here else None))
        case "sigma_map":
            run, video = start(executor), torch.full((1, 1, 1), 0.5 if here else 0.6)
            said = error_of(lambda: step(run, sigma_map={"video": video, "audio": torch.ones(1, 1)}))
        case "sigmas beside a function":
            sigmas = [*SIGMAS[:-2], SIGMAS[-2] / 2, 0.0] if here else SIGMAS
            guidance, settings = Guidance([Calls(step)]), {"conditions": {"positive": {}}, "prediction_type": "flow"}
            said = error_of(lambda: guidance.start(sigmas=sigmas, executor=executor, **settings))
        case "another evaluation":
            run = start(executor)
            step(run)
            said = error_of(lambda: step(run, 0 if here else 1))
        case "outputs":
            run = start(executor, outputs=None)
            sample = CASE.tensors("sample", 0)
            sample = {"video": sample["video"]} if here else sample
            said = error_of(
                lambda: run.step(0, sample, lambda branch: {name: each.clone() for name, each in sample.items()})
            )
        case "model":
            run = start(executor)
            said = error_of(lambda: step(run, model="low" if here else "high"))
    again = bits(step(start(executor))) == bits(step(start("serial")))
    return [said], again


def looks_at_predictions(group: Any, spec: str) -> tuple[Said, int, bool]:
    """Ask all-reduce for a method that looks at predictions; count forwards, then use what the error says."""
    executor, denoise = AllReduceExecutor(group), Counting(CASE, 0)
    said = [error_of(lambda: start(executor, spec).step(0, CASE.tensors("sample", 0), denoise))]
    same = bits(step(start(AllGatherExecutor(group), spec))) == bits(step(start("serial", spec)))
    return said, len(denoise.calls), same


def many_outputs(group: Any, count: int) -> tuple[Said, bool]:
    case = Case(seed=1, shapes={f"o{i}": (1, 2) for i in range(count)}, dtype=torch.bfloat16, strengths=())
    results = []

    def run(executor: Any) -> None:
        given = start(executor, outputs=tuple(case.shapes))
        results.append(bits(given.step(0, case.tensors("sample", 0), Counting(case, 0))))

    said = [error_of(lambda: run(AllGatherExecutor(group)))]
    run("serial")
    return said, len(results) == 2 and results[0] == results[1]


def rows_where_one_rank_cannot(group: Any) -> tuple[Said, bool]:
    """Only rank 1 has a denoiser that cannot take rows; then all can."""
    run = start(AllGatherExecutor(group, split_rows=True))
    able = Counting(CASE, 0)
    plain = lambda branch: CASE.tensors(branch.name, 0)
    said = [error_of(lambda: run.step(0, CASE.tensors("sample", 0), plain if group.rank() == 1 else able))]
    return said, bits(step(run)) == bits(step(start("serial")))
