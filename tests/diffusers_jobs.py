"""Guided pipelines on several ranks: functions that processes can import."""

from __future__ import annotations

import hashlib
import time
import warnings
from typing import Any

import diffusers
import torch
from diffusers_judged import forwards_counted, made_by, tensors
from every_pipeline import CASES
from peft import LoraConfig
from small_pipelines import BETAS

from guidance_core import AllGatherExecutor
from guidance_core.hosts.diffusers import guide

warnings.simplefilter("ignore")


def bits(made: Any) -> str:
    return hashlib.sha256(b"".join(each.contiguous().numpy().tobytes() for each in tensors(made))).hexdigest()


def on_ranks(group: Any, name: str, spec: str = "") -> tuple[str, int, int]:
    """Return the digest of a guided call on the ranks, this rank's forwards, and those of the call in all."""
    (case,) = (case for case in CASES if case.name == name)
    with forwards_counted(case) as (counted, rows):
        made = made_by(counted, spec or case.spec, executor=AllGatherExecutor(group))
    count = torch.tensor([sum(rows)])
    torch.distributed.all_reduce(count, group=group)
    return bits(made), sum(rows), int(count)


def serially(name: str, spec: str = "") -> tuple[str, int]:
    """Return the digest of a guided call in one process, each pass by itself, and its forwards."""
    (case,) = (case for case in CASES if case.name == name)
    with forwards_counted(case) as (counted, rows):
        made = made_by(counted, spec or case.spec, executor="serial")
    return bits(made), sum(rows)


def _fails(*_: Any) -> Any:
    raise ValueError("in a callback")


def _interrupts(pipe: Any, *_: Any) -> dict[str, Any]:
    pipe._interrupt = True
    return {}


def differing(group: Any, what: str) -> tuple[str, float]:
    """Call a pipeline with something else on rank 1; return the error, and the seconds it took."""
    here = group.rank() == 1
    usual = {"expert": "Wan 2.2, two experts", "randomness": "Stable Diffusion, Euler"}.get(what, "Flux")
    (case,) = (case for case in CASES if case.name == ("Qwen-Image" if here and what == "pipeline" else usual))
    pipe, inputs = case.pipeline(), case.inputs(1)
    seed, spec = 0, "cfg:scale=5"
    if what == "randomness":  # equal noise at the start, another in the steps
        pipe.scheduler = diffusers.EulerAncestralDiscreteScheduler(**BETAS)
        inputs["latents"], seed = torch.ones(1, 4, 8, 8), group.rank()
    if here and what == "expert":
        with torch.no_grad():
            pipe.transformer_2.proj_out.weight.mul_(1.5)
    if here and what == "interrupt":
        inputs["callback_on_step_end"] = _interrupts
    if here and what == "noise":
        seed = 1
    if here and what == "positive":
        inputs["prompt_embeds"] = inputs["prompt_embeds"] + 1e-3
    if here and what == "negative":
        inputs["negative_prompt_embeds"] = inputs["negative_prompt_embeds"] + 1e-3
    if here and what == "weights":
        with torch.no_grad():
            pipe.transformer.proj_out.weight.mul_(1.01)
    if what == "adapters":
        pipe.transformer.add_adapter(LoraConfig(target_modules=["to_q"], init_lora_weights=False), adapter_name="style")
        pipe.set_adapters("style", 0.5 if here else 1.0)
    if here and what == "scheduler":
        pipe.scheduler = diffusers.FlowMatchLCMScheduler()
    if here and what == "own guidance":
        inputs["true_cfg_scale"] = 1.0
    if here and what == "callback":
        inputs["callback_on_step_end"] = _fails
    begun = time.monotonic()
    try:
        guided = guide(pipe, spec, executor=AllGatherExecutor(group))
        guided(**inputs, generator=torch.Generator().manual_seed(seed))
    except Exception as error:
        return f"{type(error).__name__}: {error}", time.monotonic() - begun
    return "", time.monotonic() - begun


def failing(group: Any) -> list[str]:
    """Fail on one rank in the middle of a call, then make the call again; return what came of both."""
    (case,) = (case for case in CASES if case.name == "Wan 2.1")
    pipe, found = case.pipeline(), []
    guided = guide(pipe, case.spec, executor=AllGatherExecutor(group))
    calls = 0

    def break_in_the_second_step(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2 and group.rank() == 1:
            raise RuntimeError("out of memory")

    hook = pipe.transformer.register_forward_pre_hook(break_in_the_second_step)
    for _ in range(2):
        try:
            made = guided(**case.inputs(1), generator=torch.Generator().manual_seed(0), return_dict=False)
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
        else:
            found.append(bits(made))
    hook.remove()
    return found
