"""Every rank runs all passes itself: for models so small that to send a prediction takes longer than to make it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from guidance_core.executors.distributed import DistributedExecutor
from guidance_core.executors.payload import Unheld
from guidance_core.executors.placement import Placement
from guidance_core.methods.requests import Branch
from guidance_core.steps.plan import Plan, Predictions


class EveryRankExecutor(DistributedExecutor):
    """Runs every branch on every rank, one after another or, with `batched=True`, in one forward.

    No prediction travels. Ranks still agree on every step, so a failure on one is the same error on all of them.
    """

    name = "every_rank"

    def _placement(self, plan: Plan) -> Placement:
        return self._repeated(plan.layout.branches)

    def _prepared(self, plan: Plan, placement: Placement, dtypes: Sequence[torch.dtype]) -> None:
        return None

    def _collected(self, plan: Plan, share: Predictions, dtypes: Sequence[torch.dtype]) -> Predictions:
        return {output: {name: each.detach() for name, each in given.items()} for output, given in share.items()}

    def _moved(self, plan: Plan | Unheld, payload: None) -> None:
        """Do nothing: there is no payload."""

    def local_passes(self, branches: Sequence[Branch]) -> int:
        """Return how many of these branches' forwards this process makes: all."""
        return len(branches)

    def placed(self, branches: Sequence[Branch]) -> Placement | None:
        """Return None: this process runs all."""
        return None

    def describe(self) -> str:
        """Return one line that says how branches are run."""
        how = "batched" if self.batched else "serial"
        return f"{how}: each of {self.size} ranks runs every pass, and no prediction travels{self._options()}"
