"""What combining LTX-2's four branches costs: velocities to velocity, with rescale in x0 space."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from guidance_core.bench.timing import Comparison, PeakMemory, Report, compare, one_thread
from guidance_core.guidance import Guidance
from guidance_core.run import Run

SHAPES = ((1, 6144, 128), (1, 67320, 128))
DTYPES = (torch.bfloat16, torch.float32)
CFG, STG, MODALITY, PHI = 3.0, 1.0, 3.0, 0.7
SPEC = f"ltx2:cfg_scale={CFG},stg_scale={STG},modality_scale={MODALITY},rescale_scale={PHI},stg_blocks=28"


def measure(rounds: int) -> Report:
    """Time every shape and dtype against the eager formulas and a copy of the same bytes."""
    version = one_thread()
    torch.manual_seed(0)
    with torch.inference_mode():
        return Report("combine", version, tuple(_compare(shape, dtype, rounds) for shape in SHAPES for dtype in DTYPES))


class _Steps:
    """The inputs of one step after the other: new tensors and another noise level each."""

    def __init__(self, shape: tuple[int, int, int], dtype: torch.dtype, count: int) -> None:
        self.sigmas = [1 - index / count for index in range(count + 1)]
        self.tensors = [torch.empty(shape, dtype=dtype) for _ in range(5)]
        self.renew(0)

    def renew(self, index: int) -> None:
        """Begin a step."""
        self.index, self.sigma = index, self.sigmas[index]
        for tensor in self.tensors:
            tensor.normal_()

    def start(self) -> Run:
        """Start a run of these steps."""
        return Guidance.from_spec(SPEC).start(
            conditions={"positive": {}, "negative": {}}, sigmas=self.sigmas, prediction_type="flow"
        )

    def guided(self, run: Run) -> Tensor:
        """Make the step in a run."""
        x, *predictions = self.tensors
        by_name = dict(zip(("cond", "neg", "perturbed", "modality"), predictions, strict=True))
        made: Tensor = run.step(self.index, x, lambda branch: by_name[branch.name])
        return made


def _compare(shape: tuple[int, int, int], dtype: torch.dtype, rounds: int) -> Comparison:
    warmup = 2
    steps = _Steps(shape, dtype, warmup + rounds)
    run = steps.start()
    contenders: dict[str, Callable[[], object]] = {
        "guidance-core ltx2": lambda: steps.guided(run),
        "ltx-core formula": lambda: ltx_core(steps.sigma, *steps.tensors),
        "sglang formula": lambda: sglang(steps.sigma, *steps.tensors),
        "diffusers formula": lambda: diffusers(steps.sigma, *steps.tensors),
        "copy of the same bytes": lambda: [each.clone() for each in steps.tensors],
    }
    with PeakMemory() as memory:
        result = steps.guided(steps.start())
    beyond = memory.peak - result.numel() * result.element_size()
    off = (result.float() - diffusers(steps.sigma, *steps.tensors).float()).abs().max().item()
    size = shape[0] * shape[1] * shape[2] * 4
    return compare(
        f"{list(shape)} {str(dtype).removeprefix('torch.')}",
        contenders,
        ours="guidance-core ltx2",
        rounds=rounds,
        unit="ms",
        warmup=warmup,
        renew=steps.renew,
        extra={
            "peak memory beside the result, in float32 tensors of full size": round(beyond / size, 2),
            "largest difference to the diffusers formula": off,
        },
    )


def _x0(sigma: float, x: Tensor, v: Tensor) -> Tensor:
    return x.float() - v.float() * sigma


def _sum(c: Tensor, n: Tensor, p: Tensor, m: Tensor) -> Tensor:
    return c + (CFG - 1) * (c - n) + STG * (c - p) + (MODALITY - 1) * (c - m)


def _velocity(sigma: float, x: Tensor, x0: Tensor) -> Tensor:
    return ((x.float() - x0.float()) / sigma).to(x.dtype)


def ltx_core(sigma: float, x: Tensor, *passes: Tensor) -> Tensor:
    """Each x0 rounded to the model's dtype; std over the whole tensor."""
    c, n, p, m = (_x0(sigma, x, v).to(x.dtype).float() for v in passes)
    guided = _sum(c, n, p, m)
    factor = c.std() / guided.std()
    factor = PHI * factor + (1 - PHI)
    return _velocity(sigma, x, (guided * factor).to(x.dtype))


def sglang(sigma: float, x: Tensor, *passes: Tensor) -> Tensor:
    """Each x0 rounded to bf16, stacked, combined in float32; std over the whole tensor."""
    stacked = torch.stack([_x0(sigma, x, v).to(x.dtype) for v in passes])
    c, n, p, m = stacked.float()
    guided = _sum(c, n, p, m)
    factor = c.std() / guided.std()
    guided = guided * (PHI * factor + (1 - PHI))
    return _velocity(sigma, x, guided.to(x.dtype))


def diffusers(sigma: float, x: Tensor, *passes: Tensor) -> Tensor:
    """Each x0 in float32; std per sample."""
    c, n, p, m = (_x0(sigma, x, v) for v in passes)
    guided = _sum(c, n, p, m)
    dims = tuple(range(1, x.ndim))
    rescaled = guided * (c.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True))
    return _velocity(sigma, x, PHI * rescaled + (1 - PHI) * guided)
