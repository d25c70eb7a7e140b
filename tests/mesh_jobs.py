"""Guidance along one dimension of a mesh, for models that torch itself splits along the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
import torch.distributed as dist
from rank_jobs import EPS32, EXECUTORS, Case, Found, equivalence
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from guidance_core import (
    AllGatherExecutor,
    AutoExecutor,
    Degrees,
    Guidance,
    GuidanceError,
    Multiply,
    Needs,
    Shards,
    Std,
    hookimpl,
    ratio,
    std,
)

SIGMAS = [1.0, 0.8, 0.6, 0.4, 0.2, 0.0]
STRENGTHS = {"uncond": 3.0, "weak": 1.5, "weaker": -0.5}
SPEC = "cfg:scale=4,stg:scale=1.5,blocks=0,branch=weak,stg:scale=-0.5,blocks=1,branch=weaker"
SHIFTS = {"positive": 0.5, "negative": -0.25}
LAYOUTS = {"in order": [[0, 1], [2, 3]], "out of order": [[3, 1], [0, 2]]}
"Ranks by guidance (down) and model (across)."


class Layers(nn.Module):
    """Two linear layers that tensor parallelism splits by column and by row."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.down(torch.relu(self.up(x)))


def tensor_parallel(mesh: DeviceMesh, *, spread: bool = False) -> Layers:
    """Split the layers over a mesh; with `spread` what they return stays a DTensor."""
    plan = {"up": ColwiseParallel(), "down": RowwiseParallel(use_local_output=not spread)}
    return parallelize_module(Layers(), mesh, plan)


def sharded(mesh: DeviceMesh) -> Layers:
    """Shard the parameters over a mesh."""
    model = Layers()
    for part in (model.up, model.down, model):
        fully_shard(part, mesh=mesh)
    return model


def predictions(model: nn.Module, x: torch.Tensor) -> Callable[[Any], torch.Tensor]:
    def denoise(branch: Any) -> torch.Tensor:
        weakened = sum(sum(each.blocks) + 1 for each in branch.perturbations)
        with torch.no_grad():
            return model(x * 0.5**weakened + branch.inputs["shift"])

    return denoise


def start(executor: Any, spec: str = SPEC) -> Any:
    conditions = {name: {"shift": shift} for name, shift in SHIFTS.items()}
    return Guidance.from_spec(spec).start(
        conditions=conditions, sigmas=SIGMAS, prediction_type="flow", executor=executor
    )


def samples() -> Iterator[tuple[int, torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    for i in range(len(SIGMAS) - 1):
        yield i, torch.randn(3, 5, 8, generator=generator)


def compared(model: Any, executors: dict[str, Any], spec: str = SPEC) -> dict[str, tuple[bool, float, list[int]]]:
    """Make the same steps serially and with every executor, on one model.

    Returns, by executor, whether the bits are equal, the largest error in units of the bound
    `n·2⁻²³·Σ|w·p|`, and the forwards of this rank in each step.
    """
    serial, runs = start("serial", spec), {name: start(executor, spec) for name, executor in executors.items()}
    found: dict[str, tuple[bool, float, list[int]]] = {name: (True, 0.0, []) for name in runs}
    for i, x in samples():
        denoise, plan = predictions(model, x), serial.plan(i, x)
        made = {branch.name: denoise(branch) for branch in plan.branches}
        expected = serial.finish(plan, made)
        weights = {name: -STRENGTHS[name] for name in made if name != "cond"}
        weights["cond"] = 1 - sum(weights.values())
        bound = len(made) * EPS32 * sum(abs(weight) * made[name].abs() for name, weight in weights.items())
        for name, run in runs.items():
            before = model.calls
            result = run.step(i, x, denoise)
            same, worst, forwards = found[name]
            error = torch.where(result == expected, 0.0, (result - expected).abs() / bound)
            found[name] = (
                same and torch.equal(result, expected),
                max(worst, float(error.max())),
                [*forwards, model.calls - before],
            )
    return found


def every_way(mesh: DeviceMesh, *, group: bool) -> dict[str, Any]:
    """Name the guidance dimension of a mesh in every way that executors take."""
    ways = {
        "mesh and name": ((mesh,), {"mesh_dim": "guidance"}),
        "mesh and number": ((mesh,), {"mesh_dim": 0}),
        "one dimension": ((mesh["guidance"],), {}),
    }
    if group:
        ways["process group"] = (mesh.get_group("guidance"),), {}
    made = {
        f"{name}, {way}": EXECUTORS[name](*given, **options)
        for name in ("all_gather", "all_reduce")
        for way, (given, options) in ways.items()
    }
    return made | {"all_gather, auto": AutoExecutor(mesh, mesh_dim="guidance")}


def guided_beside(group: Any, split: str, layout: str) -> tuple[dict[str, tuple[bool, float, list[int]]], float]:
    """Guide a split model in every way; return how each compares, and how far the model is from a whole one."""
    mesh = DeviceMesh("cpu", LAYOUTS[layout], mesh_dim_names=("guidance", "model"))
    model = {"tensor parallel": tensor_parallel, "sharded": sharded}[split](mesh["model"])
    x = next(samples())[1]
    with torch.no_grad():
        apart = float((model(x) - Layers()(x)).abs().max())
    return compared(model, every_way(mesh, group=layout == "in order")), apart


def rows_along_a_mesh(group: Any, name: str, layout: str) -> Found:
    """Share out the rows of three branches along the guidance dimension of a mesh."""
    mesh = DeviceMesh("cpu", LAYOUTS[layout], mesh_dim_names=("guidance", "model"))
    options = {"mesh_dim": "guidance", "split_rows": True}
    case = Case(seed=4, shapes={"output": (4, 5)}, dtype=torch.float32, strengths=(2.0, -0.5), options=options)
    return equivalence(mesh, name, case)


def in_lockstep(group: Any, name: str, spec: str) -> tuple[bool, float, list[int]]:
    """Guide a model that is sharded over the guidance ranks themselves."""
    mesh = DeviceMesh.from_group(group, "cpu")
    return compared(sharded(mesh), {name: EXECUTORS[name](group, lockstep=True)}, spec)[name]


def returns_dtensors(group: Any, name: str) -> tuple[str, str, bool]:
    """Have a rank without branches wait for predictions that are spread over a mesh; then return all of them."""
    model = tensor_parallel(DeviceMesh.from_group(_alone(group), "cpu"), spread=True)
    run = start(EXECUTORS[name](group), "cfg:scale=4")
    x = next(samples())[1]
    denoise = predictions(model, x)
    said = "", ""
    try:
        run.step(0, x, denoise)
    except GuidanceError as error:
        said = type(error).__name__, str(error)
    result = run.step(0, x, lambda branch: denoise(branch).redistribute(placements=[Replicate()]).to_local())
    expected = start("serial", "cfg:scale=4").step(0, x, lambda branch: denoise(branch).full_tensor())
    return *said, torch.allclose(result, expected, rtol=1e-6, atol=1e-6)


def _alone(group: Any) -> Any:
    """A group of this process alone; all make all of them."""
    return [dist.new_group([rank]) for rank in dist.get_process_group_ranks(group)][group.rank()]


def outside_of_a_mesh(group: Any) -> tuple[str, str]:
    """Use a mesh of the first two ranks from all of them."""
    mesh = DeviceMesh("cpu", [[0], [1]], mesh_dim_names=("guidance", "model"))
    try:
        return "", str(AllGatherExecutor(mesh, mesh_dim="guidance").size)
    except GuidanceError as error:
        return type(error).__name__, str(error)


def mesh_on_one_rank_and_its_group_on_the_other(group: Any) -> tuple[str, str]:
    """Give the mesh here and its group there, where the mesh counts the ranks the other way round."""
    mesh = DeviceMesh("cpu", [1, 0], mesh_dim_names=("guidance",))
    if group.rank() > 1:
        return "", ""
    try:
        start(AllGatherExecutor(mesh if group.rank() else mesh.get_group()))
    except GuidanceError as error:
        return type(error).__name__, str(error)
    return "", "nothing was raised"


# Guidance beside sequence parallelism: pieces of the outputs on the ranks of the other dimension.

SHARDED = {
    "rescale": "cfg:scale=5,rescale:phi=0.7",
    "rescale in x0": "cfg:scale=5,rescale:phi=0.7,space=x0",
    "rescale by channel": "cfg:scale=5,rescale:phi=1,over=channel_last",
    "rescale by token": "cfg:scale=5,rescale:phi=1,over=token",
    "rescale over the batch": "cfg:scale=5,rescale:phi=0.5,over=tensor",
    "rescale over dimensions": "cfg:scale=5,rescale:phi=0.5,over=[1, 2]",
    "rescale over first tokens": "cfg:scale=5,rescale:phi=1,first=9",
    "clamped norms": "cfg:scale=5,normalize:form=clamp",
    "matched norms": "cfg:scale=5,normalize:form=match",
    "projection": "apg:scale=4,eta=0.3,momentum=-0.5,threshold=2.0",
    "projection over dimensions": "apg:scale=4,over=[1]",
    "zero-star": "cfg-zero-star:scale=4,zero_steps=1",
    "gate": "cfg:scale=5,rescale:phi=0.7,gate:lo=0.5",
    "ltx2": "ltx2:cfg_scale={video: 3, audio: 7},stg_scale=1,modality_scale=3,rescale_scale=0.7,stg_blocks=1",
}
TOKENS, VALID = 12, 11
"Tokens of the video, the last of which is padding where the pieces are padded."


def sharded_run(mesh: DeviceMesh, spec: str | Guidance, executor: Any, padded: bool) -> list[tuple[float, float]]:
    """Return, for each step and output, the error against the whole sequence, and the largest of its values."""
    guidance = Guidance.from_spec(spec) if isinstance(spec, str) else spec
    outputs = guidance.outputs or ("video",)
    tokens = {"video": TOKENS, "audio": 5}
    counted = VALID if padded else TOKENS
    made = {
        (name, output, step): torch.randn(2, tokens[output], 6, generator=torch.Generator().manual_seed(17 * step + n))
        for step in range(4)
        for output in outputs
        for n, name in enumerate(("x", "cond", "uncond", "neg", "perturbed", "modality"), 7 * len(output))
    }
    half, rank = TOKENS // 2, mesh.get_local_rank("sequence")

    def piece(tensor: torch.Tensor, output: str) -> torch.Tensor:
        return tensor[:, rank * half : (rank + 1) * half].contiguous() if output == "video" else tensor

    def whole(tensor: torch.Tensor, output: str) -> torch.Tensor:
        return tensor[:, :counted].contiguous() if output == "video" else tensor

    def results(cut: Callable[[torch.Tensor, str], torch.Tensor], **settings: Any) -> list[Any]:
        conditions: dict[str, dict[str, Any]] = {"positive": {}, "negative": {}}
        run = guidance.start(
            conditions=conditions, sigmas=[0.9, 0.6, 0.4, 0.2, 0.0], prediction_type="flow", outputs=outputs, **settings
        )

        def at(step: int) -> Any:
            def denoise(branch: Any) -> Any:
                return tuple(cut(made[branch.name, output, step], output).clone() for output in outputs)

            x = tuple(cut(made["x", output, step], output) for output in outputs)
            return run.step(step, x, denoise)

        return [at(step) for step in range(4)]

    valid = {"video": VALID} if padded else None
    shards = Shards(mesh, {"video": 1}, valid, mesh_dim="sequence")
    found = []
    for ours, alone in zip(results(piece, executor=executor, shards=shards), results(whole), strict=True):
        for own, expected, output in zip(ours, alone, outputs, strict=True):
            if output == "video":
                expected = expected[:, rank * half : (rank + 1) * half]
                own = own[:, : expected.shape[1]]
            found.append((float((own - expected).abs().max()), float(expected.abs().max())))
    return found


def sharded_beside(group: Any, spec: str, name: str, padded: bool) -> list[tuple[float, float]]:
    """Run guidance on one dimension of a mesh and a sequence on the other."""
    mesh = DeviceMesh("cpu", torch.arange(4).view(2, 2), mesh_dim_names=("guidance", "sequence"))
    return sharded_run(mesh, spec, EXECUTORS[name](mesh, mesh_dim="guidance"), padded)


@attrs.frozen
class OwnPiece:
    """A rescale that forms its statistic from the piece at hand, which is wrong."""

    @hookimpl
    def build_branches(self, step: Any) -> list[Any]:
        return [Needs(statistics=Std())]

    @hookimpl
    def postprocess(self, step: Any, guided: torch.Tensor, reference: Any) -> Any:
        return Multiply(ratio(reference.measure(Std()), std(guided)))


def own_statistics(group: Any, name: str) -> list[tuple[float, float]]:
    """Run a method that does not know that it sees a piece."""
    mesh = DeviceMesh("cpu", torch.arange(4).view(2, 2), mesh_dim_names=("guidance", "sequence"))
    guidance = Guidance([*Guidance.from_spec("cfg:scale=5").plugins, OwnPiece()])
    return sharded_run(mesh, guidance, EXECUTORS[name](mesh, mesh_dim="guidance"), False)


def along_degrees(group: dist.ProcessGroup) -> tuple[str, bool, list[int], str]:
    """Guide along the mesh that degrees make, beside a model whose weights are split; compare with one process."""
    degrees = Degrees.of(group.size(), guidance=2, sequence=1, tensor=2)
    mesh = degrees.mesh()
    at = degrees.coordinates(group.rank())
    told = {dim: mesh[dim].get_local_rank() for dim in ("guidance", "sequence", "tensor")}
    groups = all(
        dist.get_process_group_ranks(mesh[dim].get_group())
        == next(ranks for ranks in degrees.groups(dim) if group.rank() in ranks)
        for dim in told
    )
    model, whole = tensor_parallel(mesh["tensor"]), Layers()
    x, sigmas = torch.randn(2, 8, generator=torch.Generator().manual_seed(1)), [1.0, 0.6, 0.3, 0.0]
    conditions = {name: {"shift": shift} for name, shift in SHIFTS.items()}

    def run(net: Layers, executor: Any) -> tuple[list[torch.Tensor], list[int]]:
        started = Guidance.from_spec("cfg:scale=4").start(
            conditions=conditions, sigmas=sigmas, prediction_type="x0", executor=executor
        )
        results, calls = [], []
        for index in range(3):
            before = net.calls
            results.append(started.step(index, x + index, lambda branch, x=x + index: net(x + branch.inputs["shift"])))
            calls.append(net.calls - before)
        return results, calls

    alone, _ = run(model, "serial")  # the same split model, every rank for itself
    spread, calls = run(model, AllGatherExecutor(mesh, mesh_dim="guidance"))
    assert torch.allclose(alone[0], run(whole, "serial")[0][0], atol=1e-5)
    try:
        Degrees(2).mesh()
        error = "none"
    except GuidanceError as refused:
        error = str(refused)
    same = all(torch.equal(one, other) for one, other in zip(alone, spread, strict=True))
    return ("as told" if told == at and groups else f"{told} is not {at}"), same, calls, error
