"""What an executor is, and what it may hand back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import attrs
from torch import Tensor

if TYPE_CHECKING:
    from guidance_core.branch import BoundBranch
    from guidance_core.run import Plan


class Denoiser(Protocol):
    """What a host writes: one forward pass for the branch it is given.

    A denoiser that also has `batch(branches) -> list` can run several in one forward.
    """

    def __call__(self, branch: BoundBranch, /) -> Any:
        """Return the prediction: a tensor, a tuple, or a dict of named outputs."""


@attrs.frozen(eq=False)
class Sums:
    """What an executor hands back that adds up the branches instead of gathering them.

    Every mapping is by output, every tensor in the host's space. `Plan.partial_sum` computes one
    rank's share, `Plan.wanted_statistics` names what corrections will ask of the base prediction.
    """

    sums: Mapping[str, Tensor]
    "`Σ wᵢ·pᵢ`, `[B, ...]`, in the accumulation dtype."
    like: Mapping[str, Tensor]
    "A tensor of the shape, dtype and device of the base prediction; its values are not read."
    statistics: Mapping[str, Mapping[tuple[str, str, str], Tensor]]
    "Of the base prediction, by (space, `std` or `norm`, over)."
    references: Mapping[str, Tensor]
    "The base prediction itself, where the plan wants it."


class Executor:
    """Base class of executors. One instance may serve several runs; it must not depend on which."""

    name: ClassVar[str]
    "The name in the entry-point group `guidance_core.executors`."

    gathers_predictions: ClassVar[bool] = True
    "Whether every branch's prediction reaches every process; `combine` hooks need that."

    def execute(self, plan: Plan, denoise: Denoiser) -> Mapping[str, Any] | Sums:
        """Run the plan's branches; return the predictions by branch name, or their sums.

        Raises whatever the denoiser raises, with a note that says for which branch.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement execute(plan, denoise).")

    def describe(self) -> str:
        """Return one line that says how branches are run."""
        return self.name


def run_branch(branch: BoundBranch, denoise: Denoiser) -> Any:
    """Call the denoiser for one branch; an error gets a note that names branch and step."""
    try:
        return denoise(branch)
    except Exception as error:
        error.add_note(f"raised by the denoiser for branch {branch.name!r} of step {branch.step}")
        raise
