"""Real models on real ranks: LTX-2's transformer, models split over a mesh, and FSDP."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.distributed as dist
from rank_jobs import EPS32, EXECUTORS, Found, bits
from torch import nn

from guidance_core import AllGatherExecutor, AllReduceExecutor, Guidance
from guidance_core.hosts.ltx2 import OUTPUTS, Grid, LTX2Denoiser, Sizes, small_inputs, small_transformer

SIZES = Sizes(
    layers=2, heads=4, head_dim=32, audio_head_dim=16, channels=32, caption_channels=64, grid=Grid(2, 4, 4, 8)
)
SIGMAS = [0.9, 0.6, 0.3, 0.0]
CFG, STG, MODALITY, PHI = {"video": 3.0, "audio": 7.0}, 1.0, 3.0, 0.7
SPEC = f"ltx2:preset=2.3,cfg_scale={{video: {CFG['video']}, audio: {CFG['audio']}}},stg_blocks=1"


@functools.cache
def transformer(dtype: torch.dtype) -> Any:
    return small_transformer(SIZES).to(dtype)


def ltx2_run(group: Any, name: str, dtype: torch.dtype, batch: int) -> Found:
    """Three Euler steps of LTX-2's four branches, serially and in parallel from the same latents."""
    model, inputs = transformer(dtype), small_inputs(SIZES, batch=batch)
    conditions = {
        name: {key: value.to(dtype) for key, value in given.items()} for name, given in inputs.conditions.items()
    }
    guidance, settings = Guidance.from_spec(SPEC), {"sigmas": SIGMAS, "prediction_type": "flow", "outputs": OUTPUTS}
    serial = guidance.start(conditions=conditions, **settings)
    parallel = guidance.start(conditions=conditions, **settings, executor=EXECUTORS[name](group))
    sample, found = tuple(stream.to(dtype) for stream in inputs.sample), Found()
    for i in range(len(SIGMAS) - 1):
        denoise = LTX2Denoiser(model, sample, SIGMAS[i], inputs.grid)
        plan = serial.plan(i, sample)
        made = {branch.name: denoise(branch) for branch in plan.branches}
        expected = serial.finish(plan, made)
        calls: list[str] = []

        def counted(branch: Any, denoise: Any = denoise, calls: list[str] = calls) -> Any:
            calls.append(branch.name)
            return denoise(branch)

        result = parallel.step(i, sample, counted)
        found.forwards.append(len(calls))
        found.branches.append(len(plan.branches))
        found.bits.append(bits(dict(zip(OUTPUTS, result, strict=True))))
        found.equal.append(found.bits[-1] == bits(dict(zip(OUTPUTS, expected, strict=True))))
        for number, output in enumerate(OUTPUTS):
            passes = {name: streams[number].double() for name, streams in made.items()}
            exact, bound = written_out(output, sample[number].double(), passes, SIGMAS[i])
            found.compare(result[number], expected[number], bound)
            error = (expected[number].double() - exact).abs()
            assert bool((error <= bound + torch.finfo(dtype).eps * exact.abs() + 1e-6).all()), "not LTX-2's formula"
        sample = tuple(x + (SIGMAS[i + 1] - SIGMAS[i]) * v for x, v in zip(sample, expected, strict=True))
    found.collectives = parallel.executor.counts.payload_collectives
    return found


def written_out(
    output: str, x: torch.Tensor, passes: dict[str, torch.Tensor], sigma: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return LTX-2's formula in float64, and the bound n·2⁻²³·Σ|w·p| carried through rescale and back to velocity."""
    strengths = {"neg": CFG[output] - 1, "perturbed": STG, "modality": MODALITY - 1}
    dims = tuple(range(1, x.ndim))
    x0 = {name: x - sigma * each for name, each in passes.items()}
    guided = x0["cond"] + sum(k * (x0["cond"] - x0[name]) for name, k in strengths.items())
    ratio = x0["cond"].std(dim=dims, keepdim=True, correction=0) / guided.std(dim=dims, keepdim=True, correction=0)
    factor = PHI * ratio + 1 - PHI
    exact = (x - guided * factor) / sigma

    size = (1 + sum(strengths.values())) * passes["cond"].abs()
    size = size + sum(k * passes[name].abs() for name, k in strengths.items())
    bound = len(passes) * EPS32 * size * sigma + 2 * EPS32 * (x.abs() + guided.abs())
    spread = guided.std(dim=dims, keepdim=True, correction=0)
    moved = bound.square().mean(dim=dims, keepdim=True).sqrt() / spread + 8 * EPS32
    bound = bound * factor + guided.abs() * ratio * moved + 4 * EPS32 * (guided.abs() * factor + x.abs())
    return exact, bound / sigma


class SplitModel(nn.Module):
    """A column- and a row-parallel layer with their all-reduce, then tokens split over ranks with an all-gather."""

    def __init__(self, group: Any) -> None:
        super().__init__()
        self.group, size, rank = group, group.size(), group.rank()
        generator = torch.Generator().manual_seed(0)
        up, down, mix = (torch.randn(shape, generator=generator) / 4 for shape in ((8, 16), (16, 8), (8, 8)))
        self.up, self.down, self.mix = up.chunk(size, 1)[rank], down.chunk(size, 0)[rank], mix
        self.calls = 0

    def forward(self, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        hidden = torch.relu((x + text) @ self.up) @ self.down
        dist.all_reduce(hidden, group=self.group)
        mine = hidden.chunk(self.group.size(), 1)[self.group.rank()].contiguous() @ self.mix
        parts = [torch.empty_like(mine) for _ in range(self.group.size())]
        dist.all_gather(parts, mine, group=self.group)
        return torch.cat(parts, 1)


def on_a_mesh(group: Any) -> list[tuple[str, bool, list[int]]]:
    """Guide a model split over one mesh dimension along the other; return how each way compares with serial."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("guidance", "model"))
    model = SplitModel(mesh.get_group("model"))
    conditions = {
        name: {"text": torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(seed))}
        for seed, name in enumerate(("positive", "negative"))
    }
    guidance = Guidance.from_spec("cfg:scale=4,rescale:phi=0.7,interval:lo=0.2,hi=0.8")
    settings = {"conditions": conditions, "sigmas": SIGMAS, "prediction_type": "flow"}

    def draw(executor: Any) -> tuple[torch.Tensor, list[int]]:
        run, made = guidance.start(**settings, executor=executor), []
        x = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(7))
        for i in range(len(SIGMAS) - 1):
            before = model.calls
            x = x + (SIGMAS[i + 1] - SIGMAS[i]) * run.step(i, x, lambda branch, x=x: model(x, **branch.inputs))
            made.append(model.calls - before)
        return x, made

    expected, _ = draw("serial")
    results = []
    for name, executor in (
        ("mesh and name", AllGatherExecutor(mesh, mesh_dim="guidance")),
        ("one dimension", AllGatherExecutor(mesh["guidance"])),
        ("process group", AllGatherExecutor(mesh.get_group("guidance"))),
        ("added up", AllReduceExecutor(mesh, mesh_dim="guidance")),
    ):
        x, made = draw(executor)
        same = torch.equal(x, expected) if name != "added up" else torch.allclose(x, expected, rtol=1e-5, atol=1e-5)
        results.append((name, same, made))
    return results


def sharded_in_lockstep(group: Any) -> tuple[bool, list[int]]:
    """Guide a model that FSDP shards across the guidance ranks themselves."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def layers() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))

    whole, sharded = layers(), layers()
    mesh = init_device_mesh("cpu", (group.size(),))
    for layer in (sharded[0], sharded[2], sharded):
        fully_shard(layer, mesh=mesh)
    guidance = Guidance.from_spec("cfg:scale=3,stg:scale=1,blocks=0")
    conditions = {"positive": {"shift": 0.5}, "negative": {"shift": -0.25}}
    settings = {"conditions": conditions, "sigmas": SIGMAS, "prediction_type": "flow"}

    def draw(model: nn.Module, executor: Any) -> tuple[torch.Tensor, list[int]]:
        run, made = guidance.start(**settings, executor=executor), []
        x = torch.randn(2, 8, generator=torch.Generator().manual_seed(7))
        for i in range(len(SIGMAS) - 1):
            calls: list[str] = []

            def denoise(branch: Any, x: torch.Tensor = x, calls: list[str] = calls) -> torch.Tensor:
                calls.append(branch.name)
                weaker = 0.5 if branch.perturbations else 1.0
                with torch.no_grad():
                    return model(x * weaker + branch.inputs["shift"])

            x = x + (SIGMAS[i + 1] - SIGMAS[i]) * run.step(i, x, denoise)
            made.append(len(calls))
        return x, made

    expected, _ = draw(whole, "serial")
    x, made = draw(sharded, AllGatherExecutor(group, lockstep=True))
    return torch.equal(x, expected), made
