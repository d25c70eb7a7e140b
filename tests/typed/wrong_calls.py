"""Wrong calls: type checkers must find a mistake in every line below, and in no other."""

from __future__ import annotations

from typing import Literal

import attrs
import torch

from guidance_core import (
    Blocks,
    Branch,
    Capabilities,
    Cosine,
    Guidance,
    Hold,
    Linear,
    Needs,
    Norm,
    PerOutput,
    Quantile,
    Run,
    Scale,
    SkipBlocks,
    Std,
    Step,
    Table,
    Window,
    Within,
    blocks,
    choice,
    names,
    norm,
    number,
    whole,
)
from guidance_plugins import APG, CFG, LTX2, STG, CFGZeroStar, Gate, Interval, Normalize, Rescale


@attrs.frozen
class Mine:
    scale: Scale = number(7.5)
    form: Literal["clamp", "match"] = choice("clamp", ("clamp", "match"))
    weak: Blocks | None = blocks(None)


def about(run: Run, step: Step, x: torch.Tensor, guidance: Guidance) -> None:
    """Everything from here on is wrong."""
    CFG(scale="3")
    CFG(scale=None)
    CFG(scale=[1.0, 3.0])
    CFG(scale={"video": "3"})
    CFG(scale={0: 3.0})
    CFG(scal=3.0)
    CFG(3.0, 4.0)
    Mine(scale="3")
    Mine(form="clmp")
    Mine(weak="three")
    APG(form="papr")
    APG(space="x_0")
    APG(over="smaple")
    APG(eta="0.3")
    CFGZeroStar(zero_steps=0.5)
    Gate(by="sgima")
    Gate(lo="0.5")
    Interval(by="fractions")
    Interval(methods=3)
    Normalize(form="clmp")
    Normalize(over="tokens")
    Rescale(over="smaple")
    Rescale(over=0.5)
    Rescale(space="eps")
    Rescale(phi="0.7")
    STG(skip="attn")
    STG(blocks="3")
    STG(blocks=[0.5])
    STG(start={"video": 0.5})
    LTX2(preset="9.9")
    LTX2(stg_blocks="28")
    LTX2(skip_step="1")
    LTX2.by_sigma({1.0: {"cfg_scale": 3.0}}, preset="9.9")
    Linear("7", 1)
    Cosine(7, 1, by="sgima")
    Within(7, low=0.3)
    Within(7, by="fractoin")
    Table(3)
    Table([3.0, 7.0])
    Window(0.2, 0.8, by="step")
    PerOutput(3)
    Std("smaple")
    Norm(over="tokn")
    Quantile(q="0.5")
    norm(x, over="smaple")
    Needs(space="eps")
    Needs(std="smaple")
    Needs(statistics="std")
    Needs(outputs=3)
    Hold(outputs=3)
    Branch("uncond", strength="3")
    Branch("uncond", perturbations="blocks")
    SkipBlocks("3")
    Capabilities(blocks="28")
    Capabilities(perturbations="blocks")
    Guidance(CFG())
    Guidance.from_spec(CFG())
    guidance.start(conditions={"positive": {}}, sigmas=[1.0, 0.0], prediction_type="eps")
    guidance.start(conditions={"positive": {}}, sigmas=[1.0, 0.0], prediction_type="x0", executor=3)
    guidance.start(conditions={"positive": {}}, sigmas=[1.0, 0.0])
    guidance.start(conditions={"positive": {}}, sigmas="1, 0", prediction_type="x0")
    guidance.describe("30")
    run.step(0, 3.0, lambda branch: x)
    run.step("0", x, lambda branch: x)
    run.step(0, x, lambda: x)
    run.step(0, x, lambda branch: x, sigam=0.5)
    run.step(0, (x, x), lambda branch: (x, x)).shape
    run.step(0, {"video": x}, lambda branch: {"video": x}).mean()
    run.step(0, x, lambda branch: x)["video"]["audio"].nothing
    run.step_at(0.5, [1.0], lambda branch: x)
    run.plan(0, "x")
    step.convert(x, "eps", "x0")
    number(7.5, gee=0)
    choice("a", ("a", "b"), hlp="")
    whole(1, ge="0")
    names(hlp="")
