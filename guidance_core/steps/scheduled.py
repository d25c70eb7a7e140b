"""A step before its sample is known: where it stands, what runs, and what is made of it."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from torch import Tensor

from guidance_core.methods.moment import Moment
from guidance_core.steps.bound_branch import BoundBranch
from guidance_core.steps.layout import Layout


@attrs.frozen(eq=False)
class Scheduled:
    """A step before its sample is known."""

    layout: Layout
    "Perhaps shared with other steps."
    moment: Moment
    branches: tuple[BoundBranch, ...]
    "Those of the layout, bound to this step."

    def for_samples(self, samples: Mapping[str, Tensor]) -> Scheduled:
        """Return the same step for this noisy sample, which edits of inputs and gradients depend on."""
        return attrs.evolve(self, branches=tuple(branch.for_samples(samples) for branch in self.branches))
