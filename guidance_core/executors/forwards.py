"""One forward after another, with a look at what each of them wrote where it should not.

torch counts the writes into a tensor and its views, but not those of code outside torch, nor those into inference
tensors.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from guidance_core.algebra.memory import fills_its_storage, tensors_in
from guidance_core.errors import OverwrittenError
from guidance_core.executors.base import Denoiser, run_branch
from guidance_core.steps.apart import REMEDY, check_apart, check_unwritten, writes_to
from guidance_core.steps.plan import Plan


def run_own(plan: Plan, denoise: Denoiser) -> dict[str, Any]:
    """Run the plan's own branches one after another, then its padding; return the predictions by name.

    Raises:
        OverwrittenError: a forward wrote into the sample, or into what an earlier one returned.
    """
    if plan.writes < 0 and not plan.padding:
        return {branch.name: run_branch(branch, denoise) for branch in plan.own_branches}
    made: dict[str, Any] = {}
    written: list[tuple[str, Tensor, int]] = []
    samples, writes = plan.samples.values(), plan.writes
    for branch in plan.own_branches:
        made[branch.name] = prediction = run_branch(branch, denoise)
        if writes_to(samples) != writes or written:
            _check(plan, branch.name, written)
        try:
            # What nobody wrote into before it was returned is new, and no buffer that is used again.
            if type(prediction) is Tensor:
                if prediction._version:
                    written.append((branch.name, prediction, prediction._version))
            else:
                for each in prediction if type(prediction) is tuple else tensors_in(prediction):
                    if each._version:
                        written.append((branch.name, each, each._version))
        except (RuntimeError, AttributeError):  # an inference tensor; no tensor at all, which is found out later
            pass
    for _ in range(plan.padding):
        extra = plan.branches[0]
        thrown_away = {f"{extra.name} (thrown away)": run_branch(extra, denoise)}
        _check(plan, extra.name, written)
        check_apart(plan.by_output(made | thrown_away), f"step {plan.index}")
    plan.writes = -1
    return made


def _check(plan: Plan, branch: str, written: list[tuple[str, Tensor, int]]) -> None:
    """Raise what a branch's forward wrote into: the sample, or the prediction of an earlier one."""
    where = f"by the denoiser for branch {branch!r} of step {plan.index}"
    check_unwritten(plan.samples.values(), plan.writes, where)
    for earlier, tensor, version in written:
        # Of a view of something larger, torch counts the writes into all of that.
        if tensor._version != version and fills_its_storage(tensor):
            raise OverwrittenError(
                f"the memory of the prediction of branch {earlier!r} was written to {where}. {REMEDY}"
            )
