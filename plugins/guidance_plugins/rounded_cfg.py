"""Classifier-free guidance as engines round it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import attrs
import torch

from guidance_core import Request, Scale, Step, choice, documented, hookimpl, negative_pass, number

ROUNDED = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@documented
@attrs.frozen
class RoundedCFG:
    """CFG with every operation rounded to the model's dtype, so that results equal an engine's bit for bit.

        difference:  u + s·(c − u)         diffusers, vLLM-Omni, and sglang on one device
        weights:     s·c + (1 − s)·u       sglang on two CFG ranks

    `cfg` rounds once, at the end, and is more precise. Use this method if results must not change when you replace an
    engine's own guidance. `dtype` is that of the predictions; with float32 only the order of the operations differs.

    Source: sglang 0.5.23, `CFGPolicy.combine`; vLLM-Omni 0.30.0, `CFGParallelMixin.combine_cfg_noise`.
    """

    form_of: ClassVar[str] = "cfg"
    rounds_as_told: ClassVar[bool] = True

    scale: Scale = number(7.5, ge=1, help="guidance scale s; 1 is off and runs no extra pass")
    order: Literal["difference", "weights"] = choice(
        "difference", ("difference", "weights"), help="the order of the operations"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = choice(
        "float32", ("float32", "bfloat16", "float16"), help="dtype that each operation is rounded to"
    )

    @hookimpl
    def build_branches(self, step: Step) -> list[Request]:
        """Ask for the prediction of `uncond`."""
        return negative_pass(step, self.scale)

    @hookimpl
    def combine(self, step: Step, predictions: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return what to add to c; with s ≥ 1 the sum rounds to the engine's value."""
        cond = predictions["cond"]
        dtype = ROUNDED.get(self.dtype, cond.dtype)
        s, c, u = step.value(self.scale), cond.to(dtype), predictions["uncond"].to(dtype)
        if self.order == "difference":
            guided = u + (s * (c - u)).to(dtype)
        else:
            guided = (s * c).to(dtype) + ((1 - s) * u).to(dtype)
        return guided.to(cond.dtype) - cond
