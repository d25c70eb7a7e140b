"""What combining LTX-2's four branches costs: velocities to velocity, with rescale in x0 space."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from guidance_core.bench.timing import Comparison, PeakMemory, Report, compare, one_thread
from guidance_core.guidance import Guidance

SHAPES = ((1, 6144, 128), (1, 67320, 128))
DTYPES = (torch.bfloat16, torch.float32)
SIGMA, CFG, STG, MODALITY, PHI = 0.7, 3.0, 1.0, 3.0, 0.7
SPEC = f"ltx2:cfg_scale={CFG},stg_scale={STG},modality_scale={MODALITY},rescale_scale={PHI},stg_blocks=28"


def measure(rounds: int) -> Report:
    """Time every shape and dtype against the eager formulas and a copy of the same bytes."""
    version = one_thread()
    torch.manual_seed(0)
    with torch.inference_mode():
        return Report("combine", version, tuple(_compare(shape, dtype, rounds) for shape in SHAPES for dtype in DTYPES))


def _compare(shape: tuple[int, int, int], dtype: torch.dtype, rounds: int) -> Comparison:
    x, c, n, p, m = (torch.randn(shape).to(dtype) for _ in range(5))
    predictions = {"cond": c, "neg": n, "perturbed": p, "modality": m}
    run = Guidance.from_spec(SPEC).start(
        conditions={"positive": {}, "negative": {}}, sigmas=[SIGMA] * 1025, prediction_type="flow"
    )
    index = -1

    def ours() -> object:
        nonlocal index
        index += 1
        return run.step(index, x, lambda branch: predictions[branch.name])

    def copy() -> None:
        for each in (x, c, n, p, m):
            each.clone()

    contenders: dict[str, Callable[[], object]] = {
        "guidance-core ltx2": ours,
        "ltx-core formula": lambda: ltx_core(x, c, n, p, m),
        "sglang formula": lambda: sglang(x, c, n, p, m),
        "diffusers formula": lambda: diffusers(x, c, n, p, m),
        "copy of the same bytes": copy,
    }
    with PeakMemory() as memory:
        fresh = Guidance.from_spec(SPEC).start(
            conditions={"positive": {}, "negative": {}}, sigmas=[SIGMA, 0.0], prediction_type="flow"
        )
        result = fresh.step(0, x, lambda branch: predictions[branch.name])
    beyond = memory.peak - result.numel() * result.element_size()
    off = (result.float() - diffusers(x, c, n, p, m).float()).abs().max().item()
    size = shape[0] * shape[1] * shape[2] * 4
    return compare(
        f"{list(shape)} {str(dtype).removeprefix('torch.')}",
        contenders,
        ours="guidance-core ltx2",
        rounds=rounds,
        unit="ms",
        warmup=2,
        extra={
            "peak memory beside the result, in float32 tensors of full size": round(beyond / size, 2),
            "largest difference to the diffusers formula": off,
        },
    )


def _x0(x: Tensor, v: Tensor) -> Tensor:
    return x.float() - v.float() * SIGMA


def _sum(c: Tensor, n: Tensor, p: Tensor, m: Tensor) -> Tensor:
    return c + (CFG - 1) * (c - n) + STG * (c - p) + (MODALITY - 1) * (c - m)


def _velocity(x: Tensor, x0: Tensor) -> Tensor:
    return ((x.float() - x0.float()) / SIGMA).to(x.dtype)


def ltx_core(x: Tensor, *passes: Tensor) -> Tensor:
    """Each x0 rounded to the model's dtype; std over the whole tensor."""
    c, n, p, m = (_x0(x, v).to(x.dtype).float() for v in passes)
    guided = _sum(c, n, p, m)
    factor = c.std() / guided.std()
    factor = PHI * factor + (1 - PHI)
    return _velocity(x, (guided * factor).to(x.dtype))


def sglang(x: Tensor, *passes: Tensor) -> Tensor:
    """Each x0 rounded to bf16, stacked, combined in float32; std over the whole tensor."""
    stacked = torch.stack([_x0(x, v).to(x.dtype) for v in passes])
    c, n, p, m = stacked.float()
    guided = _sum(c, n, p, m)
    factor = c.std() / guided.std()
    guided = guided * (PHI * factor + (1 - PHI))
    return _velocity(x, guided.to(x.dtype))


def diffusers(x: Tensor, *passes: Tensor) -> Tensor:
    """Each x0 in float32; std per sample."""
    c, n, p, m = (_x0(x, v) for v in passes)
    guided = _sum(c, n, p, m)
    dims = tuple(range(1, x.ndim))
    rescaled = guided * (c.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True))
    return _velocity(x, PHI * rescaled + (1 - PHI) * guided)
