"""Calls that the library takes, and that type checkers must accept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, assert_type

import attrs
import numpy as np
import torch
from torch import Tensor

from guidance_core import (
    UNSET,
    Axis,
    Blocks,
    BoundBranch,
    Branch,
    Capabilities,
    Cosine,
    Executor,
    Guidance,
    Hold,
    Inner,
    Linear,
    Mean,
    Needs,
    Norm,
    Over,
    PerOutput,
    Position,
    PredictionType,
    Quantile,
    Scale,
    Schedule,
    SkipBlocks,
    SkipSelfAttention,
    Space,
    Std,
    Step,
    Table,
    Unset,
    Whole,
    Window,
    Within,
    blocks,
    choice,
    documented,
    extent,
    flag,
    function,
    hookimpl,
    inner,
    names,
    norm,
    number,
    numbers,
    std,
    text,
    whole,
)
from guidance_plugins import APG, CFG, LTX2, STG, CFGZeroStar, Gate, Interval, Normalize, Rescale

each = torch.tensor([1.0, 3.0])

# Numeric parameters: numbers, tensors, values per output, schedules.
CFG()
CFG(3)
CFG(3.0)
CFG(scale=each)
CFG(scale=np.float32(3))
CFG(scale={"video": np.int64(3)})
CFG(scale=PerOutput(video=3, audio=7))
CFG(scale={"video": 3})
CFG(scale={"video": 3, "audio": Linear(7, 1)})
CFG(scale={"video": each})
CFG(scale=Linear(7, 1))
CFG(scale=Cosine(7, 1, by="sigma"))
CFG(scale=Within(7, lo=0.3, hi=0.8, by="fraction"))
CFG(scale=Table({0.5: 3, 1.0: 7}))
CFG(scale=Table([(0.5, 3.0), (1.0, 7.0)]))
scales = {"video": 3.0, "audio": 7.0}
CFG(scales)

APG(7.5, eta=0.3, momentum=-0.5, threshold=15, over=[-1, -2, -3], form="diffusers", space="flow")
APG(space=None)
CFGZeroStar(scale=5, zero_steps=2)
Gate(lo=0.6, by="sigma")
Interval(lo=0.2, hi=0.8, methods="cfg")
Interval(methods=["cfg", "apg"])
Interval(methods=("cfg",))
Normalize(form="match", over="token")
Normalize(limit={"video": 1.2}, over=(-1,))
Rescale(phi=0.5, over="tensor", space="x0", first=16)
Rescale(over=1)
Rescale(over=range(1, 3))
STG(scale=1, blocks=3)
STG(blocks=[3, 4], skip="blocks", start=0.1, stop=1)
STG(blocks=range(4))
STG(blocks={3, 4})
LTX2(preset="2.3-hq", stg_scale={"video": 1}, stg_blocks=28)
LTX2(stg_blocks=None)
LTX2(stg_blocks=(28, 29))
LTX2(stg_blocks={"video": [28], "audio": None}, skip_step={"video": 1, "audio": 0})
LTX2(cfg_scale=UNSET)
LTX2(cfg_scale=Table({0.5: 3.0, 1.0: 7.0}), skip_step=Table({0.5: 1, 1.0: 0}))
LTX2.by_sigma({0.5: {"cfg_scale": 3.0}, 1.0: {"cfg_scale": 7.0}}, preset="distilled")

# Requests and statistics.
Branch("uncond", condition="negative", strength=each, perturbations=SkipBlocks(3))
Branch("p", perturbations=[SkipSelfAttention([1, 2]), SkipBlocks(range(3, 5), "video")], also="negative")
Needs(space="x0", std="sample", norm=["token", (-1, -2)], statistics=Std(), outputs="video")
Needs(statistics=[Norm("token"), Quantile(q=0.99, absolute=True)], outputs=("video", "audio"))
Hold("video")
Hold()
Std()
Std("channel", first=4)
Norm((-1, -2))
Mean(over=1)
Inner(first=128)
std(each, "sample")
norm(each, over=[0])
inner(each, each, "token")
Window(0.2, 0.8)
Window(0.2, 0.8, by="fraction")
Capabilities(SkipBlocks, blocks=28)
Capabilities([SkipBlocks, SkipSelfAttention], {"double": 19, "single": 38})


# A plugin with every kind of field, as a stranger writes it.
class Ramp(Schedule):
    def at(self, position: Position) -> float:
        return position.fraction


@documented
@attrs.frozen
class Everything:
    """Everything."""

    loss: Callable[[Tensor], Tensor] = function()
    scale: Scale = number(7.5, ge=0, help="a scale")
    preset_scale: Scale | Unset = number(UNSET)
    share: float = number(0.5, ge=0, le=1)
    weights: Sequence[float] = numbers((1.0, 0.5), least=1)
    methods: Sequence[str] = names()
    count: int = whole(1)
    every: Whole = whole(1)
    first: int | None = whole(None, optional=True)
    weak: Blocks | None = blocks(None)
    over: Over = extent()
    by: Axis = choice("sigma", ("sigma", "fraction"))
    form: Literal["clamp", "match"] = choice("clamp", ("clamp", "match"))
    space: Space | None = choice(None, ("epsilon", "v", "x0", "flow"), optional=True)
    is_exact: bool = flag(False)
    branch: str = text("perturbed")
    untyped: object = number(3.0)
    std: Std = attrs.field(init=False, default=attrs.Factory(lambda self: Std(self.over), takes_self=True))

    @hookimpl
    def build_branches(self, step: Step) -> list[Branch | Needs]:
        changes = SkipBlocks(self.weak)
        return [
            Branch(self.branch, strength=step.value(self.scale) - 1, perturbations=(changes,)),
            Needs(space=self.space, statistics=self.std, outputs=step.active(self.scale, neutral=1.0)),
        ]

    @hookimpl
    def combine(self, step: Step, predictions: Mapping[str, Tensor]) -> Tensor:
        d = step.convert(predictions["cond"], step.prediction_type, "x0")
        return self.loss(d) * self.weights[0] * step.measure(self.std, d)


Everything(torch.sum, scale={"video": 3}, weights=[1, 2], methods="cfg", every={"video": 2}, weak=[1, 2], over=(-1,))
Everything(loss=lambda x: x.sum(), scale=Ramp(), preset_scale=3, form="match", space="x0", by="fraction", first=3)
assert_type(Everything(torch.sum).share, float)


# Runs.
def forward(branch: BoundBranch) -> Any:
    return branch.inputs["x"]


video, audio = torch.randn(1, 6, 4), torch.randn(1, 3, 4)
prediction_type: PredictionType = "flow"
guidance = Guidance([CFG(scale=3.0), Rescale(phi=0.7)])
run = guidance.start(
    conditions={"positive": {"text": video}, "negative": None},
    sigmas={"video": [1.0, 0.0], "audio": torch.tensor([1.0, 0.0])},
    prediction_type=prediction_type,
    alphas=1.0,
    outputs=("video", "audio"),
    seeds=[1, 2],
    supports=Capabilities((SkipBlocks,), blocks=28),
)
some: str = "my-executor"
guidance.start(conditions={"positive": {}}, sigmas=[1, 0], prediction_type="other", executor=some)
guidance.start(conditions={"positive": {}}, sigmas=[1, 0], prediction_type="x0", executor="somebody-elses")


def own(executor: Executor, start: Mapping[str, Any]) -> None:
    guidance.start(executor=executor, **start)


assert_type(run.step(0, video, forward), Tensor)
assert_type(run.step(0, (video, audio), forward), tuple[Tensor, ...])
assert_type(run.step(0, [video, audio], forward, sigma={"video": 0.5, "audio": 0.4}), tuple[Tensor, ...])
assert_type(run.step(0, {"video": video, "audio": audio}, forward), dict[str, Tensor])
assert_type(run.step_at(0.5, video, forward, alpha=0.5), Tensor)
assert_type(run.step_at({"video": 0.5, "audio": 0.4}, (video, audio), forward), tuple[Tensor, ...])
assert_type(run.step_at(0.5, {"video": video}, forward, sigma_map={"video": each}), dict[str, Tensor])
guided_video, guided_audio = run.step(0, (video, audio), lambda branch: (video, audio))


def either(sample: Tensor | tuple[Tensor, ...] | dict[str, Tensor]) -> Tensor | tuple[Tensor, ...] | dict[str, Tensor]:
    return run.step(0, sample, forward)


with run.plan(0, (video, audio)) as plan:
    both = plan.finish({branch.name: forward(branch) for branch in plan.own_branches})
both = run.finish(run.plan_at(0.5, {"video": video}), {"cond": video})
