"""Ending guidance, or reusing it, once the predictions agree."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import ClassVar, Literal

import attrs
import torch

from guidance_core import (
    Branch,
    ConfigurationError,
    Hold,
    Needs,
    Reference,
    Request,
    Space,
    Step,
    choice,
    documented,
    hookimpl,
    number,
    text,
)


@documented
@attrs.frozen
class Adaptive:
    """Adaptive guidance: once c and u point in the same direction, run only c and reuse the last guidance.

        from the step on that follows  cos(c, u) ≥ γ:   guided = c + Δ       form=reuse
                                                        guided = c           form=paper
        Δ = guided − c of that step

    Each sample crosses γ on its own. The passes of the other methods stop when all samples of all outputs have crossed
    it, and they start again only if the host changes the model. Δ contains the effect of all plugins before this one in
    the stack, as in `gate`.

    Which passes run depends on predictions. So `describe()` shows the largest possible number, and each step that runs
    them reads one truth value from the device. `all_reduce` cannot run it.

    Source: Castillo et al., arXiv:2312.12487, which compares noise predictions: `space=epsilon`.
    """

    family: ClassVar[str] = "other"
    excludes: ClassVar[tuple[str, ...]] = ("gate",)
    neutral: ClassVar[None] = None
    plan_follows_predictions: ClassVar[bool] = True

    threshold: float = number(0.991, ge=-1, le=1, help="γ, the cosine of c and u from which they agree")
    form: Literal["reuse", "paper"] = choice(
        "reuse", ("reuse", "paper"), help="whether to reuse the last guidance, or to use only c"
    )
    condition: str = text("negative", help="the condition of the passes that c is compared with")
    space: Space | None = choice(
        None, ("epsilon", "v", "x0", "flow"), optional=True, help="space to compare in (none: the model's own)"
    )

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.threshold, float):
            raise ConfigurationError(f"Adaptive: threshold must be one number; got {self.threshold}.")

    @hookimpl(wrapper=True, tryfirst=True)  # outermost, to see what is left of the branches
    def build_branches(self, step: Step) -> Generator[None, list[Request], list[Request]]:
        """Drop every branch if all samples agree; else ask for c and the negative passes, to compare them."""
        asked = yield
        held = {
            output
            for request in asked
            if isinstance(request, Hold)
            for output in (step.outputs if request.outputs is None else request.outputs)
        }
        active = tuple(output for output in step.outputs if output not in held)
        compared = [
            attrs.evolve(request, strength=0.0, required=True, plugin=step.name)
            for request in asked
            if isinstance(request, Branch) and request.condition == self.condition
        ]
        if not active or not compared:
            return [*asked, Needs(outputs=())]
        if step.shared.get("model", "") != step.model:
            step.shared.update(model=step.model, agreed={})
        agreed = step.shared["agreed"]
        needs = Needs(space=self.space, reference=True, outputs=active)
        step.shared["reuses"] = all(output in agreed and bool(agreed[output].all()) for output in active)
        if not step.shared["reuses"]:
            return [*asked, *compared, needs]
        before = step.plugins[: step.plugins.index(step.name)]  # what they make of the prediction is in Δ
        kept = (
            request
            for request in asked
            if not isinstance(request, Branch) and not (isinstance(request, Needs) and request.plugin in before)
        )
        return [*kept, needs]

    @hookimpl
    def combine(self, step: Step, predictions: Mapping[str, torch.Tensor]) -> None:
        """Compare c with each negative pass."""
        c, *others = predictions.values()
        if others:
            near = [self._cosine(step, c, u) >= self.threshold for u in others]
            step.state["near"] = torch.stack(near).all(dim=0)

    @staticmethod
    def _cosine(step: Step, c: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        length_c, length_u = step.norm(c), step.norm(u)
        one = torch.where(length_c > 0, length_c, 1.0), torch.where(length_u > 0, length_u, 1.0)
        return step.inner(c / one[0], u / one[1])

    @hookimpl
    def postprocess(self, step: Step, guided: torch.Tensor, reference: Reference) -> torch.Tensor:
        """Use the stored guidance for samples that agreed before, and store that of this step for the others."""
        assert step.output is not None
        c, agreed = reference.tensor, step.shared["agreed"]
        stored = step.state.get("delta", 0.0) if self.form == "reuse" else 0.0
        if step.shared["reuses"]:
            return guided + stored
        before = agreed.get(step.output)
        near: torch.Tensor = step.state["near"]
        step.shared["agreed"] = {**agreed, step.output: near if before is None else before | near}
        if before is None:
            step.state["delta"] = guided - c
            return guided
        step.state["delta"] = torch.where(before, stored, guided - c)
        return torch.where(before, c + stored, guided)
