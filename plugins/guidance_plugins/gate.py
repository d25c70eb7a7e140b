"""Reusing the guidance of an earlier step."""

from __future__ import annotations

from collections.abc import Generator
from typing import ClassVar

import attrs
import torch

from guidance_core import Axis, Branch, Hold, Needs, Reference, Request, Step, Window, choice, documented, hookimpl


@documented
@attrs.frozen
class Gate:
    """Reuse the last stored guidance in a window of the run, instead of running its branches.

        guided = c + Δ,   Δ = guided − c of the last step before the window

    The default window is the second half of the steps. Only `cond` runs there. Δ is kept for each output, in the
    prediction's own space. If the host changes the model, Δ is dropped: that step runs all branches and stores a new Δ.
    It contains the effect of all plugins before the gate in the stack; corrections after the gate are applied to the
    sum. The position of `interval` in the stack makes no difference: outside its window there is no guidance to store
    or reuse.

    Source: Castillo et al., arXiv:2312.12487 (reuse of the guidance direction).
    """

    family: ClassVar[str] = "other"
    lo: float = attrs.field(default=0.5, metadata={"help": "lower end of the window"})
    hi: float = attrs.field(default=1.0, metadata={"help": "upper end of the window"})
    by: Axis = choice("fraction", ("fraction", "sigma"), help="whether lo and hi are fractions of the steps or sigmas")
    window: Window = attrs.field(
        init=False,
        repr=False,
        eq=False,
        default=attrs.Factory(lambda self: Window(self.lo, self.hi, self.by), takes_self=True),
    )

    @hookimpl(wrapper=True, tryfirst=True)  # outermost, to see what is left of the branches
    def build_branches(self, step: Step) -> Generator[None, list[Request], list[Request]]:
        """Drop every branch if the guidance can be reused; else have it stored, if a later step reuses it."""
        asked = yield
        held = {
            output
            for request in asked
            if isinstance(request, Hold)
            for output in (step.outputs if request.outputs is None else request.outputs)
        }
        active = tuple(output for output in step.outputs if output not in held)
        if not active or not any(isinstance(request, Branch) for request in asked):
            return [*asked, Needs(outputs=())]
        inside = len(step.inside(self.window)) == len(step.outputs)
        if not inside and not step.next_inside(self.window):
            return [*asked, Needs(outputs=())]
        known = step.shared.get("stored", {})
        if inside and all(known.get(output, "") == step.model for output in active):
            step.shared["reuses"] = True
            before = step.plugins[: step.plugins.index(step.name)]  # what they make of the prediction is in Δ
            kept = (
                request
                for request in asked
                if not isinstance(request, Branch) and not (isinstance(request, Needs) and request.plugin in before)
            )
            return [*kept, Needs(outputs=active)]
        step.shared.update(reuses=False, stored={**known, **dict.fromkeys(active, step.model)})
        return [*asked, Needs(reference=True, outputs=active)]

    @hookimpl
    def postprocess(self, step: Step, guided: torch.Tensor, reference: Reference) -> torch.Tensor | None:
        """Add the stored guidance, or store that of this step."""
        if step.shared["reuses"]:
            delta: torch.Tensor = step.state["delta"]
            return guided + delta
        step.state["delta"] = guided - reference.tensor
        return None
