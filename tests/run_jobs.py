"""Whole runs and wrong uses on real ranks."""

from __future__ import annotations

import datetime
from typing import Any

import attrs
import torch
import torch.distributed as dist
from rank_jobs import EXECUTORS, Case, Counting, bits, flat

from guidance_core import (
    AllGatherExecutor,
    AutoExecutor,
    Branch,
    Guidance,
    GuidanceError,
    Needs,
    PluginError,
    hookimpl,
)

STEPS = 8
SIGMAS = [1 - i / 9 for i in range(STEPS)] + [0.0]
CASE = Case(seed=11, shapes={"video": (2, 6, 8), "audio": (2, 5)}, dtype=torch.float32, strengths=(), steps=STEPS)
SETTINGS: dict[str, Any] = {
    "conditions": {"positive": {}, "negative": {}},
    "sigmas": SIGMAS,
    "prediction_type": "flow",
    "outputs": ("video", "audio"),
}


def whole_run(group: Any, name: str, spec: str, heun: bool) -> dict[str, Any]:
    """Run a spec to the end serially and in parallel; return how they compare and what each step cost."""
    guidance = Guidance.from_spec(spec)
    serial, parallel = guidance.start(**SETTINGS), guidance.start(**SETTINGS, executor=EXECUTORS[name](group))
    equal, results, worst, forwards, branches = [], [], 0.0, [], []
    for i in range(STEPS):
        for evaluation, sigma in enumerate([None, SIGMAS[i + 1]] if heun and SIGMAS[i + 1] else [None]):
            number = 2 * i + evaluation
            sample = CASE.tensors("sample", number)
            one, other = Counting(CASE, number), Counting(CASE, number)
            expected = serial.step(i, sample, one, sigma=sigma)
            result = parallel.step(i, sample, other, sigma=sigma)
            equal.append(bits(result) == bits(expected))
            results.append(bits(result))
            forwards.append(len(other.calls))
            branches.append(len(one.calls))
            for output, mine in flat(result).items():
                scale = flat(expected)[output].abs().max()
                worst = max(worst, float((mine - flat(expected)[output]).abs().max() / scale))
    return {"equal": equal, "bits": results, "worst": worst, "forwards": forwards, "branches": branches}


def interleaved(group: Any, name: str) -> tuple[bool, bool]:
    """Make two runs on one executor, step by step in turn; whether each equals the run that is alone."""
    looking = "apg:scale=4,momentum=-0.5" if name == "all_gather" else "ltx2:preset=2.3,stg_blocks=3,skip_step=2"
    specs, executor = [looking, "cfg:scale=4,rescale:phi=0.7,gate:lo=0.5"], EXECUTORS[name](group)
    apart = [[draw(run, i, seed) for i in range(STEPS)] for seed, run in enumerate(start(executor, s) for s in specs)]
    runs = [start(executor, spec) for spec in specs]
    together = [[draw(run, i, seed) for seed, run in enumerate(runs)] for i in range(STEPS)]
    return tuple([each[seed] for each in together] == apart[seed] for seed in range(2))  # type: ignore[return-value]


def draw(run: Any, i: int, seed: int) -> str:
    number = STEPS * seed + i
    return bits(run.step(i, CASE.tensors("sample", number), Counting(CASE, number)))


@attrs.frozen
class Sums:
    """A stranger's method with reductions of its own, whose rounding follows the layout in memory."""

    @hookimpl
    def build_branches(self, step):
        return [Branch("uncond", condition="negative", required=True), Needs(reference=True)]

    @hookimpl
    def combine(self, step, predictions):
        c, u = predictions["cond"], predictions["uncond"]
        return (c - u) * (c * u).sum() / (u * u).sum()

    @hookimpl
    def postprocess(self, step, guided, reference):
        return guided * (reference.tensor.square().mean() / guided.square().mean())


def in_another_memory_format(group: Any) -> tuple[bool, bool]:
    """Let a model return channels-last pictures; whether results are serial's, and the same as of contiguous ones."""
    case = Case(seed=1, shapes={"output": (2, 16, 17, 15)}, dtype=torch.float32, strengths=())
    guidance, sample = Guidance([Sums()]), case.tensors("sample", 0)

    def contiguous(branch: Any) -> torch.Tensor:
        return case.tensors(branch.name, 0)

    def channels_last(branch: Any) -> torch.Tensor:
        return contiguous(branch).contiguous(memory_format=torch.channels_last)

    expected = case.start("serial", guidance).step(0, sample, channels_last)
    result = case.start(AllGatherExecutor(group), guidance).step(0, sample, channels_last)
    other = case.start("serial", guidance).step(0, sample, contiguous)
    return torch.equal(result, expected), torch.equal(expected, other)


def error_of(function: Any) -> tuple[str, str]:
    """Call and return the library's error as (class, message)."""
    try:
        function()
    except GuidanceError as error:
        return type(error).__name__, str(error)
    return "", ""


def start(executor: Any, spec: str = "cfg:scale=3", **changed: Any) -> Any:
    return Guidance.from_spec(spec).start(**(SETTINGS | changed), executor=executor)


def not_in_the_group(group: Any) -> list[tuple[str, str]]:
    first = dist.new_group([0])
    return [error_of(lambda: AllGatherExecutor(first))]


def group_is_gone(group: Any) -> list[tuple[str, str]]:
    own = dist.new_group(list(range(group.size())))
    run = start(AllGatherExecutor(own))
    run.step(0, CASE.tensors("sample", 0), Counting(CASE, 0))
    dist.destroy_process_group(own)
    return [error_of(lambda: run.step(1, CASE.tensors("sample", 1), Counting(CASE, 1)))]


def meshes(group: Any) -> list[tuple[str, str]]:
    from torch.distributed.device_mesh import init_device_mesh

    named = init_device_mesh("cpu", (2, 2), mesh_dim_names=("guidance", "model"))
    unnamed = init_device_mesh("cpu", (2, 2))
    sizes = [
        AllGatherExecutor(named, mesh_dim="guidance").size,
        AllGatherExecutor(unnamed, mesh_dim=1).size,
        AllGatherExecutor(named["model"]).size,
    ]
    assert sizes == [2, 2, 2]
    return [
        error_of(lambda: AllGatherExecutor(named)),
        error_of(lambda: AllGatherExecutor(unnamed)),
        error_of(lambda: AllGatherExecutor(named, mesh_dim="tensor")),
        error_of(lambda: AllGatherExecutor(named, mesh_dim=True)),
        error_of(lambda: AllGatherExecutor(group, mesh_dim="model")),
        error_of(lambda: AllGatherExecutor("world")),  # type: ignore[arg-type]
    ]


def other_number_of_steps(group: Any) -> list[tuple[str, str]]:
    sigmas = SIGMAS if group.rank() else SIGMAS[2:]
    return [error_of(lambda: start(AllGatherExecutor(group), sigmas=sigmas))]


def one_rank_a_step_behind(group: Any) -> list[tuple[str, str]]:
    run = start(AllGatherExecutor(group))
    step = 1 if group.rank() == 1 else 0
    return [error_of(lambda: run.step(step, CASE.tensors("sample", 0), Counting(CASE, 0)))]


def cannot_take_rows(group: Any) -> list[tuple[str, str]]:
    run = start(AllGatherExecutor(group, split_rows=True))
    return [error_of(lambda: run.step(0, CASE.tensors("sample", 0), lambda branch: CASE.tensors(branch.name, 0)))]


def cannot_batch(group: Any) -> list[tuple[str, str]]:
    run = start(AllGatherExecutor(group, batched=True))
    return [error_of(lambda: run.step(0, CASE.tensors("sample", 0), lambda branch: CASE.tensors(branch.name, 0)))]


def too_many_outputs(group: Any) -> list[tuple[str, str]]:
    case = Case(seed=1, shapes={f"o{i}": (1, 2) for i in range(40)}, dtype=torch.float32, strengths=())
    run = start(AllGatherExecutor(group), outputs=tuple(case.shapes))
    return [error_of(lambda: run.step(0, case.tensors("sample", 0), Counting(case, 0)))]


class _NoCollectives:
    """Stands in for a backend that has point-to-point messages but not the collectives."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *_: Any, **__: Any) -> None:
        raise RuntimeError(f"Backend lonely does not support {self.name}")


def backend_without_collectives(group: Any, name: str) -> list[tuple[str, str]]:
    from guidance_core.executors import all_gather

    kept = all_gather._all_gather, dist.all_reduce
    all_gather._all_gather, dist.all_reduce = _NoCollectives("allgather"), _NoCollectives("allreduce")
    try:
        run = start(EXECUTORS[name](group))
        return [error_of(lambda: run.step(0, CASE.tensors("sample", 0), Counting(CASE, 0)))]
    finally:
        all_gather._all_gather, dist.all_reduce = kept


def auto(group: Any, spec: str) -> tuple[str, str]:
    """Return the executor that auto takes for a spec, and how it describes it."""
    run = start(AutoExecutor(group), spec)
    result = run.step(0, CASE.tensors("sample", 0), Counting(CASE, 0))
    expected = start("serial", spec).step(0, CASE.tensors("sample", 0), Counting(CASE, 0))
    assert all(torch.allclose(result[output], expected[output], rtol=1e-5, atol=1e-5) for output in expected)
    return run.executor.name, str(run.describe())


@attrs.frozen
class LooksAtAll:
    """A correction that wants the whole base prediction, which all-reduce has to send along."""

    @hookimpl
    def build_branches(self, step):
        return [Needs(reference=True)]

    @hookimpl
    def postprocess(self, step, guided, reference):
        return torch.maximum(guided, reference.tensor)


def auto_beside(group: Any, spec: str, looks_at_all: bool) -> str:
    """Return the executor that auto takes for a spec, with a correction that wants the base prediction or without."""
    plugins = [*Guidance.from_spec(spec).plugins, *([LooksAtAll()] if looks_at_all else [])]
    return Guidance(plugins).start(**SETTINGS, executor=AutoExecutor(group)).executor.name


def rows_of(group: Any, name: str, spec: str, batches: tuple[int, int]) -> tuple[bool, int]:
    """Make a step whose rows may be shared out; whether it is serial's, and how many forwards this rank made."""
    shapes = {"video": (batches[0], 6, 8), "audio": (batches[1], 5)}
    case = attrs.evolve(CASE, shapes=shapes)
    sample, denoise = case.tensors("sample", 0), Counting(case, 0)
    expected = start("serial", spec).step(0, sample, Counting(case, 0))
    result = start(EXECUTORS[name](group, split_rows=True), spec).step(0, sample, denoise)
    same = [torch.allclose(result[output], expected[output], rtol=1e-5, atol=1e-5) for output in shapes]
    return all(same), len(denoise.calls)


def without_control(group: Any, name: str) -> bool:
    """Whether a whole run without the control exchange gives what serial gives."""
    spec = "cfg:scale=3,rescale:phi=0.5,interval:lo=0.3,hi=0.8"
    serial, parallel = start("serial", spec), start(EXECUTORS[name](group, control=False), spec)
    for i in range(STEPS):
        sample = CASE.tensors("sample", i)
        expected, result = serial.step(i, sample, Counting(CASE, i)), parallel.step(i, sample, Counting(CASE, i))
        if not all(torch.allclose(result[output], expected[output], rtol=1e-5, atol=1e-5) for output in expected):
            return False
    assert parallel.executor.counts.control_exchanges == 7  # the start, and around payloads unlike the last
    return True


def lockstep(group: Any) -> list[int]:
    """Forwards of every step with lockstep, and whether the result is still serial's."""
    spec = "cfg:scale=3,stg:scale=1,blocks=1,interval:lo=0.3,hi=0.8"
    serial, parallel = start("serial", spec), start(AllGatherExecutor(group, lockstep=True), spec)
    made = []
    for i in range(STEPS):
        sample, denoise = CASE.tensors("sample", i), Counting(CASE, i)
        assert bits(parallel.step(i, sample, denoise)) == bits(serial.step(i, sample, Counting(CASE, i)))
        made.append(len(denoise.calls))
    return made


def control_beside_another_backend(group: Any) -> tuple[float, str]:
    """Use a group without a CPU backend, made after ranks came to belong to different numbers of groups."""
    from guidance_core.executors.agreement import Agreement
    from guidance_core.executors.groups import control_group
    from guidance_core.executors.records import Record

    dist.new_group([0])
    other = dist.new_group(list(range(group.size())), backend="cuda:gloo", timeout=datetime.timedelta(seconds=7))
    agreement = Agreement(control_group(other))
    assert control_group(other) is agreement.group
    records = agreement.exchange(Record(text=f"rank {other.rank()}"), 0)
    dist.destroy_process_group(other)
    return agreement.timeout, ", ".join(record.text for record in records)


def no_such_space(group: Any, name: str) -> list[tuple[str, str]]:
    run = start(EXECUTORS[name](group), "cfg:scale=3,rescale:phi=0.5,space=epsilon", sigmas=[0.9, 0.6, 0.0])
    return [
        error_of(lambda: run.step(0, CASE.tensors("sample", 0), Counting(CASE, 0), sigma=1.0)),
        error_of(lambda: run.step(1, CASE.tensors("sample", 0), Counting(CASE, 0))),
    ]


class Tracked(Counting):
    """Predictions that ask for gradients, as a model outside `no_grad` gives them."""

    def __call__(self, branch: Any) -> Any:
        return {name: tensor.clone().requires_grad_() for name, tensor in super().__call__(branch).items()}


def with_gradients(group: Any, name: str) -> bool:
    spec = "cfg:scale=3,rescale:phi=0.5"
    run = start(EXECUTORS[name](group), spec)
    result = run.step(0, CASE.tensors("sample", 0), Tracked(CASE, 0))
    expected = start("serial", spec).step(0, CASE.tensors("sample", 0), Counting(CASE, 0))
    assert not any(tensor.requires_grad for tensor in result.values())
    return all(torch.allclose(result[output], expected[output], rtol=1e-5, atol=1e-5) for output in expected)


def another_dtype_without_control(group: Any, name: str) -> list[str]:
    """A bfloat16 model on a float32 sample, with a rank that is idle and never makes a prediction."""
    run = start(EXECUTORS[name](group, control=False), "cfg:scale=3")
    seen = []
    for i in range(2):
        made = {branch: {o: t.bfloat16() for o, t in CASE.tensors(branch, i).items()} for branch in ("cond", "uncond")}
        result = run.step(i, CASE.tensors("sample", i), lambda branch, made=made: made[branch.name])
        seen.append(", ".join(str(tensor.dtype) for tensor in result.values()) + bits(result))
    return seen


def lockstep_on_different_plans(group: Any) -> tuple[tuple[str, str], int]:
    """In lockstep a rank with another plan must be found out before any forward."""
    run = start(AllGatherExecutor(group, lockstep=True))
    denoise = Counting(CASE, 0)
    step = 1 if group.rank() == 1 else 0
    return error_of(lambda: run.step(step, CASE.tensors("sample", 0), denoise)), len(denoise.calls)


class OwnError(PluginError):
    """A third party's kind of a library error."""


def raised_by_rank_one(group: Any, kind: str) -> list[tuple[str, str]]:
    run = start(AllGatherExecutor(group))

    def denoise(branch: Any) -> Any:
        if group.rank() == 1:
            match kind:
                case "long message":
                    raise ValueError("x" * 5000)
                case "own error":
                    raise OwnError("my plugin's own")
                case "interrupt":
                    raise KeyboardInterrupt
        return CASE.tensors(branch.name, 0)

    try:
        return [error_of(lambda: run.step(0, CASE.tensors("sample", 0), denoise))]
    except KeyboardInterrupt:
        return [("KeyboardInterrupt", "")]


def described_rows(group: Any) -> tuple[str, str]:
    """Describe a run whose rows are shared out, before and after its first step."""
    run = start(AllGatherExecutor(group, split_rows=True), "cfg:scale=3,stg:scale=1,blocks=1")
    before = str(run.describe())
    run.step(0, CASE.tensors("sample", 0), Counting(CASE, 0))
    return before, str(run.describe())


def wrong_shape_in_lockstep(group: Any) -> list[tuple[str, str]]:
    """A model whose ranks call together, and a prediction of another shape on the rank that has to pad."""
    run = start(AllGatherExecutor(group, lockstep=True), "cfg:scale=3,stg:scale=1,blocks=1")
    broken = group.rank() == 1

    def denoise(branch: Any) -> Any:
        dist.all_reduce(torch.ones(1), group=group)
        made = CASE.tensors(branch.name, 0)
        return {name: tensor[:1] for name, tensor in made.items()} if broken else made

    seen = [error_of(lambda: run.step(0, CASE.tensors("sample", 0), denoise))]
    broken = False
    return [*seen, error_of(lambda: run.step(0, CASE.tensors("sample", 0), denoise))]
