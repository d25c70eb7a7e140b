"""What test ranks are asked to do: functions of the rank's group, importable in the worker processes."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import attrs
import torch

from guidance_core import (
    AllGatherExecutor,
    AllReduceExecutor,
    Branch,
    Executor,
    Guidance,
    PerOutput,
    StackedDenoiser,
    hookimpl,
)
from guidance_core.models import ANY_CHARACTER, load_small_letters_model
from guidance_core.models.samplers import euler

EPS32 = 2.0**-23


@attrs.frozen
class Away:
    """Moves away from branch `name` with a strength; 0 outside the steps it is for."""

    name: str
    strength: Any = attrs.field(eq=False)
    steps: tuple[int, ...] | None = None
    cost: float = 1.0

    @hookimpl
    def build_branches(self, step):
        if self.steps is not None and step.index not in self.steps:
            return []
        return [
            Branch(
                self.name,
                condition="negative",
                overrides={"name": self.name},
                strength=step.value(self.strength),
                cost=self.cost,
            )
        ]


class DropsTheLastBranch(AllGatherExecutor):
    def _whole(self, plan, views):
        whole = super()._whole(plan, views)
        return {output: given | {plan.branches[-1].name: given["cond"]} for output, given in whole.items()}


class SwapsTwoBranches(AllGatherExecutor):
    def _whole(self, plan, views):
        whole = super()._whole(plan, views)
        return {output: given | {"b0": given["b1"], "b1": given["b0"]} for output, given in whole.items()}


class ReducesInBf16(AllReduceExecutor):
    def _reduced(self, plan, buffer, placement):
        super()._reduced(plan, buffer.copy_(buffer.bfloat16()), placement)


class ForgetsRankTwo(AllReduceExecutor):
    def _share(self, plan, predictions):
        return [] if self.rank == 2 else super()._share(plan, predictions)


class SkipsTheStatistics(AllReduceExecutor):
    def _share(self, plan, predictions):
        return [part for part in super()._share(plan, predictions) if part[1] is None]


class DiffersOnRankOne(AllReduceExecutor):
    def _reduced(self, plan, buffer, placement):
        super()._reduced(plan, buffer, placement)
        if self.rank == 1:
            buffer[:1] *= 1 + 2 * EPS32


BROKEN_GATHERS = (DropsTheLastBranch, SwapsTwoBranches)
BROKEN_REDUCES = (ReducesInBf16, ForgetsRankTwo, SkipsTheStatistics, DiffersOnRankOne)
EXECUTORS = {"all_gather": AllGatherExecutor, "all_reduce": AllReduceExecutor}
BROKEN = {cls.__name__: cls for cls in (*BROKEN_GATHERS, *BROKEN_REDUCES)}


@attrs.frozen
class Case:
    """One example: what to run, on how many ranks, in which way."""

    seed: int
    shapes: dict[str, tuple[int, ...]]
    "By output; one entry named `output` is a plain tensor."
    dtype: torch.dtype
    strengths: tuple[Any, ...]
    "One branch each: a number, a list (per sample), or a dict by output."
    corrections: str = ""
    "A spec of further plugins."
    steps: int = 1
    windows: tuple[tuple[int, ...] | None, ...] = ()
    "For each branch the steps it is wanted in."
    costs: tuple[float, ...] = ()
    options: dict[str, Any] = attrs.field(factory=dict)
    magnitude: float = 1.0

    def guidance(self) -> Guidance:
        plugins: list[Any] = []
        for number, strength in enumerate(self.strengths):
            value = (
                torch.tensor(strength)
                if isinstance(strength, list)
                else PerOutput(strength)
                if isinstance(strength, dict)
                else strength
            )
            window = self.windows[number] if self.windows else None
            plugins.append(Away(f"b{number}", value, window, self.costs[number] if self.costs else 1.0))
        return Guidance([*plugins, *Guidance.from_spec(self.corrections).plugins])

    def start(self, executor: Executor | str = "serial", guidance: Guidance | None = None, **settings: Any):
        return (guidance or self.guidance()).start(
            conditions={"positive": {"name": "cond"}, "negative": {"name": "?"}},
            sigmas=[1 - 0.9 * i / self.steps for i in range(self.steps)] + [0.0],
            prediction_type="flow",
            outputs=None if set(self.shapes) == {"output"} else tuple(self.shapes),
            executor=executor,
            **settings,
        )

    def tensors(self, what: str, step: int) -> Any:
        """Draw a sample or a branch's prediction: the same on every rank, whoever asks."""
        named = {}
        for output, shape in self.shapes.items():
            key = hashlib.sha256(f"{self.seed} {what} {step} {output}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))
            named[output] = (self.magnitude * torch.randn(shape, generator=generator)).to(self.dtype)
        return named["output"] if set(named) == {"output"} else named


class Counting:
    """A denoiser that draws predictions and counts its forwards; takes rows and batches."""

    takes_rows = True

    def __init__(self, case: Case, step: int) -> None:
        self.case, self.step, self.calls = case, step, []

    def __call__(self, branch: Any) -> Any:
        self.calls.append(branch.name)
        drawn = self.case.tensors(branch.name, self.step)
        if branch.rows is None:
            return drawn
        return drawn[branch.rows] if isinstance(drawn, torch.Tensor) else {n: t[branch.rows] for n, t in drawn.items()}

    def batch(self, branches: list[Any]) -> list[Any]:
        return [self(branch) for branch in branches]


def flat(result: Any) -> dict[str, torch.Tensor]:
    return {"output": result} if isinstance(result, torch.Tensor) else dict(result)


def bits(result: Any) -> str:
    """A digest of a result's bits, to compare ranks by."""
    parts = (tensor.contiguous().view(torch.uint8).numpy().tobytes() for tensor in flat(result).values())
    return hashlib.sha256(b"".join(parts)).hexdigest()


def equivalence(group: Any, name: str, case: Case) -> Found:
    """Run a case with a parallel executor and serially; return how they compare, step by step."""
    guidance = case.guidance()
    executor = (EXECUTORS | BROKEN)[name](group, **case.options)
    serial, parallel = case.start("serial", guidance), case.start(executor, guidance)
    found = Found()
    for i in range(case.steps):
        x = case.tensors("sample", i)
        plan = serial.plan(i, x)
        strengths = {output: dict(layout.strengths) for output, layout in plan.layout.outputs.items()}
        expected = serial.finish(plan, {b.name: case.tensors(b.name, i) for b in plan.branches})
        denoise = Counting(case, i)
        result = parallel.step(i, x, denoise)
        assert type(result) is type(expected)
        found.forwards.append(len(denoise.calls))
        found.branches.append(len(plan.branches))
        found.bits.append(bits(result))
        found.equal.append(found.bits[-1] == bits(expected))
        for output, mine in flat(result).items():
            bound = bound_of(case, i, output, strengths[output], len(plan.branches))
            found.compare(mine, flat(expected)[output], bound)
    found.collectives = executor.counts.payload_collectives
    return found


@attrs.define
class Found:
    """How a rank's results compare with serial ones."""

    equal: list[bool] = attrs.field(factory=list)
    bits: list[str] = attrs.field(factory=list)
    forwards: list[int] = attrs.field(factory=list)
    branches: list[int] = attrs.field(factory=list)
    collectives: int = 0
    in_bounds: float = 0.0
    "Largest error, in units of what is allowed."
    ulps: float = 0.0
    "Largest error of bf16 results, in units in the last place."

    def compare(self, mine: torch.Tensor, other: torch.Tensor, bound: torch.Tensor) -> None:
        assert (mine.shape, mine.dtype) == (other.shape, other.dtype)
        error, size = (mine.double() - other.double()).abs(), torch.maximum(mine.abs(), other.abs()).double()
        if mine.dtype != torch.float32:  # both were rounded once: together by one unit in the last place
            info = torch.finfo(mine.dtype)
            bound = bound + info.eps * size + info.smallest_normal * info.eps
        # where nothing is allowed nothing may differ, and what is not a number is equal to nothing
        units = torch.where(mine == other, 0.0, error / bound).nan_to_num(nan=float("inf"))
        self.in_bounds = max(self.in_bounds, float(units.max()))
        if mine.dtype == torch.bfloat16:
            ulp = torch.exp2(torch.floor(torch.log2(size.clamp(min=1e-30))) - 7)
            self.ulps = max(self.ulps, float((error / ulp).max()))


def bound_of(case: Case, step: int, output: str, strengths: dict[str, Any], count: int) -> torch.Tensor:
    """n·2⁻²³·Σ|wᵢ pᵢ|, carried through the correction of the case where it has one."""

    def prediction(branch: str) -> torch.Tensor:
        return flat(case.tensors(branch, step))[output].double()

    def column(strength: Any) -> Any:
        if isinstance(strength, torch.Tensor):
            return strength.double().view(-1, *(1,) * (prediction("cond").ndim - 1))
        return strength

    c = prediction("cond")
    weights = {"cond": 1 + sum((column(s) for s in strengths.values()), start=0.0)}
    weights |= {branch: -column(s) for branch, s in strengths.items()}
    terms = {branch: weight * prediction(branch) for branch, weight in weights.items()}
    guided = sum(terms.values())
    bound = count * EPS32 * sum(term.abs() for term in terms.values())
    dims = tuple(range(1, c.ndim))
    for part in filter(None, case.corrections.split(",")):
        size = math.sqrt(c[0].numel())
        if part.startswith("rescale"):
            spread = guided.std(dim=dims, keepdim=True, correction=0)
            of_c = c.std(dim=dims, keepdim=True, correction=0)
            moved = torch.linalg.vector_norm(bound, dim=dims, keepdim=True) / size
        else:
            spread = torch.linalg.vector_norm(guided, dim=dims, keepdim=True)
            of_c = torch.linalg.vector_norm(c, dim=dims, keepdim=True)
            moved = torch.linalg.vector_norm(bound, dim=dims, keepdim=True)
        ratio = of_c / spread
        factor = 0.7 * ratio + 0.3 if part.startswith("rescale") else ratio.clamp(max=1.0)
        # the statistic of the guided sum moves by at most `moved`, and is itself rounded
        relative = moved / spread + 16 * EPS32
        bound = bound * factor + guided.abs() * ratio * relative + 4 * EPS32 * guided.abs() * factor
        guided = guided * factor
    return bound


def letters_by_rows(group: Any, batched: bool) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Draw four letters with rows shared out and serially; return both, and the rows this rank ran."""
    model, sigmas = load_small_letters_model(), [1.0, 0.75, 0.5, 0.25, 0.0]
    character, typeface = torch.tensor([1, 13, 25, 37]), torch.tensor([0, 5, 10, 15])
    noise = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    guidance = Guidance.from_spec("cfg:scale=3,stg:blocks=3,rescale:phi=0.5")
    executor = AllGatherExecutor(group, split_rows=True, batched=batched)
    rows = 0

    def counted(**inputs: Any) -> torch.Tensor:
        nonlocal rows
        rows += len(inputs["x"])
        return model(**inputs)

    def denoiser(x: torch.Tensor, sigma: float) -> StackedDenoiser:
        adapt = lambda branch: {"perturbations": branch.perturbations}
        return StackedDenoiser(counted, {"x": x, "sigma": sigma}, adapt=adapt)

    def draw(chosen: Executor | str) -> torch.Tensor:
        characters = {"positive": character, "negative": torch.full_like(character, ANY_CHARACTER)}
        conditions = {name: {"character": each, "typeface": typeface} for name, each in characters.items()}
        run = guidance.start(conditions=conditions, sigmas=sigmas, prediction_type="flow", executor=chosen)
        return euler(run, sigmas, noise, denoiser)

    images, here = draw(executor), rows
    return images, draw("serial"), here
