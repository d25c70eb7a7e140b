"""Mistakes beside other methods, and on several ranks."""

from __future__ import annotations

import os

import attrs
import torch
import torch.distributed as dist

from guidance_core import AllReduceExecutor, ConfigurationError, hookimpl
from zoo.entry import broken
from zoo.sound import Correcting, Linear, Looking


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


@broken("composes", "wants to be alone")
@attrs.frozen
class WantsToBeAlone(Linear):
    """Refuses any other method, though its formula would allow them."""

    @hookimpl
    def build_branches(self, step):
        if any(not name.startswith("wants-to-be-alone") and name != "shadow" for name in step.plugins):
            raise ConfigurationError("wants to be alone in its stack.")
        return Linear.build_branches(self, step)


@broken("composes", "is refused")
@attrs.frozen
class ForgetsTheComma(Linear):
    """Excludes one method by a string instead of a tuple, and with it all whose name is part of that name."""

    excludes = "cfg-zero-star"


@broken("composes", "drops what")
@attrs.frozen
class SwallowsOtherRequests(Linear):
    """Wraps what others ask for and returns its own request alone."""

    @hookimpl(wrapper=True)
    def build_branches(self, step):
        yield
        return Linear.build_branches(self, step)


@broken("composes", "must return")
@attrs.frozen
class ForgetsToReturn(Linear):
    """Looks at what others ask for, adds to it, and returns nothing."""

    @hookimpl(wrapper=True)
    def build_branches(self, step):
        asked = yield
        asked = [*asked, *Linear.build_branches(self, step)]


@broken("with-itself", "too many values to unpack")
@attrs.frozen
class ExpectsOneUncond(Linear):
    """Looks for the one request of a name, of which there are two where it stands twice."""

    @hookimpl(wrapper=True)
    def build_branches(self, step):
        asked = [*(yield), *Linear.build_branches(self, step)]
        (_,) = (request for request in asked if getattr(request, "strength", None) == self.strength(step))
        return asked


@broken("interval-switches-off", "Outside the interval")
@attrs.frozen
class ActsOutsideAnInterval(Linear):
    """Insists on being the outermost wrapper, which no interval can then switch off."""

    @hookimpl(wrapper=True, tryfirst=True)
    def build_branches(self, step):
        asked = yield
        return [*asked, *Linear.build_branches(self, step)]


@broken("same-plan-on-every-rank", "plans")
@attrs.frozen
class PlansByRank(Linear):
    """Guides on the first rank alone, as one would write a log there."""

    def strength(self, step):
        return super().strength(step) if _rank() == 0 else 0.0


@broken("all-gather-equals-serial", "another result than serial")
@attrs.frozen
class SeedsByProcess(Looking):
    """Seeds its own generator from the process, so that every rank draws other numbers."""

    def direction(self, step, c, u):
        generator = torch.Generator().manual_seed(os.getpid())
        return (c - u) * (1 + 0.01 * torch.rand((), generator=generator).to(c.device))


@broken("all-reduce-within-bound", "further from serial")
@attrs.frozen
class CorrectsOnTheFirstRank(Correcting):
    """Corrects on the first rank alone, as if the others got its result."""

    @hookimpl
    def postprocess(self, step, guided, reference):
        return Correcting.postprocess(self, step, guided, reference) if _rank() == 0 else None


@broken("all-reduce-refused", "does not refuse it by name", spoils_ranks=True)
@attrs.frozen
class SwitchesARefusalOff(Looking):
    """Has the library take all_reduce for an executor that gathers, so that it is not refused there."""

    @hookimpl
    def build_branches(self, step):
        if dist.is_initialized():
            AllReduceExecutor.gathers_predictions = True
        return Looking.build_branches(self, step)
