"""What can go wrong on one rank in a step, in every phase of it, and which error all ranks must raise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import torch
from rank_jobs import EXECUTORS

from guidance_core import Branch, Needs, hookimpl


@attrs.frozen
class Fault:
    """One sort of mistake."""

    phase: str
    raises: tuple[str, ...]
    "Names of the errors, one of which all ranks raise."
    names_rank: bool = True
    "Whether the text says which rank it was."
    always: bool = False
    "Whether it shows on every rank in every step; others need a pass or a hook on the rank that fails."
    own: str = ""
    "What the rank itself raises, where that is another error."


TOLD = ("RankFailedError",)
PREDICTION = ("DenoiserError",)
HOOK = ("PluginError",)
TURN = ("PlanMismatchError", "ConfigurationError")
"A rank that turns elsewhere may be refused there, because the run keeps something, or has a value for each sample."

FAULTS = {
    # Before the first step.
    "a hook raises at the start": Fault("start", HOOK, always=True),
    "another parameter": Fault("start", ("PlanMismatchError",), names_rank=False, always=True),
    "another condition": Fault("start", ("PlanMismatchError",), names_rank=False, always=True),
    "another order of runs": Fault("start", ("PlanMismatchError",), names_rank=False, always=True),
    # While a step is planned.
    "build_branches raises": Fault("plan", HOOK, always=True),
    "another branch": Fault("plan", ("PlanMismatchError",), names_rank=False),
    "a sigma that cannot be": Fault("plan", ("ConfigurationError",), always=True),
    "another sample": Fault("plan", ("PlanMismatchError",), names_rank=False, always=True),
    "another sample shape": Fault("plan", (*TURN, *PREDICTION), names_rank=False, always=True),
    "another step": Fault("plan", TURN, names_rank=False, always=True),
    "another run": Fault("plan", TURN, names_rank=False, always=True),
    "a new run": Fault("plan", ("PlanMismatchError",), names_rank=False, always=True),
    # In the forward.
    "a forward raises": Fault("forward", TOLD),
    "a forward is interrupted": Fault("forward", TOLD, own="KeyboardInterrupt"),
    "a forward writes into the sample": Fault("forward", ("OverwrittenError",)),
    # Between plan and finish.
    "the host raises": Fault("between", TOLD, always=True),
    "the host is interrupted": Fault("between", TOLD, always=True, own="KeyboardInterrupt"),
    "the host abandons": Fault("between", TOLD, always=True),
    "the host never finishes": Fault("between", ("ConfigurationError",), always=True),
    # Before the payload.
    "another shape": Fault("before", PREDICTION),
    "another structure": Fault("before", PREDICTION),
    "no prediction": Fault("before", PREDICTION),
    "NaN": Fault("before", ("NonFiniteError",)),
    "sparse": Fault("before", PREDICTION),
    "no memory": Fault("before", TOLD),
    # In the payload, as far as a rank can fail there and live.
    "cannot be packed": Fault("payload", TOLD),
    "cannot be unpacked": Fault("payload", TOLD),
    # After the payload.
    "combine raises": Fault("after", HOOK),
    "postprocess raises": Fault("after", HOOK),
    "postprocess is interrupted": Fault("after", TOLD, own="KeyboardInterrupt"),
    "postprocess returns another shape": Fault("after", HOOK),
    "a result that is not finite": Fault("after", ("NonFiniteError",)),
}
AT_START = tuple(name for name, fault in FAULTS.items() if fault.phase == "start")
IN_STEP = tuple(name for name in FAULTS if name not in AT_START)


@attrs.define(eq=False)
class Trap:
    """Says which mistake this rank makes now, if any."""

    fault: str = ""


@attrs.frozen
class Breaks:
    """A method that does nothing, unless its rank is to fail in a hook."""

    trap: Trap = attrs.field(eq=False, repr=False)
    looks: bool = False
    "Whether it looks at its state, and is asked for branches in every step."

    @hookimpl
    def build_branches(self, step):
        if self.looks:
            _ = step.state
        if self.trap.fault in ("build_branches raises", "a hook raises at the start"):
            raise ValueError("broken on purpose")
        if self.trap.fault == "another branch":
            return [Branch("extra", strength=1.0), Needs(fixed=True)]
        return [Needs(fixed=True)]

    @hookimpl
    def postprocess(self, step, guided, reference):
        match self.trap.fault:
            case "postprocess raises":
                raise ValueError("broken on purpose")
            case "postprocess is interrupted":
                raise KeyboardInterrupt
            case "postprocess returns another shape":
                return torch.ones(7, 7, 7, 7, 7, 7)
            case "a result that is not finite":
                return guided * float("inf")
        return None


@attrs.frozen
class BreaksInCombine(Breaks):
    """The same for `combine`, which all-reduce does not take."""

    @hookimpl
    def combine(self, step, predictions):
        if self.trap.fault == "combine raises":
            raise ValueError("broken on purpose")


def failing(executor: Any, trap: Trap) -> Any:
    """Return the executor's class with a rank that may fail around its payload."""

    class Failing(executor):
        def _prepared(self, *given: Any) -> Any:
            if trap.fault == "no memory":
                raise torch.OutOfMemoryError("no memory for the payload")
            return super()._prepared(*given)

        def _collected(self, *given: Any) -> Any:
            if trap.fault == "cannot be packed":
                raise RuntimeError("cannot be copied")
            collected = super()._collected(*given)
            if trap.fault == "cannot be unpacked":
                raise RuntimeError("cannot be copied")
            return collected

    return Failing


def failing_executors(trap: Trap) -> dict[str, Any]:
    """Return all executors of several ranks, made to fail."""
    return {name: failing(executor, trap) for name, executor in EXECUTORS.items()}


def spoiling(trap: Trap, x: Any) -> Callable[[Any], Any]:
    """Return what a forward makes of its prediction; it may have the sample `x`."""

    def each(prediction: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        if isinstance(prediction, torch.Tensor):
            return change(prediction)
        if isinstance(prediction, tuple):
            return tuple(map(change, prediction))
        return {name: change(tensor) for name, tensor in prediction.items()}

    def spoilt(prediction: Any) -> Any:
        match trap.fault:
            case "a forward raises":
                raise RuntimeError("boom")
            case "a forward is interrupted":
                raise KeyboardInterrupt
            case "a forward writes into the sample":
                each(x, lambda tensor: tensor.add_(1))
            case "another shape":
                return each(prediction, lambda tensor: tensor[..., :1])
            case "another structure":
                return [prediction]
            case "no prediction":
                return None
            case "NaN":
                return each(prediction, lambda tensor: tensor * float("nan"))
            case "sparse":
                return each(prediction, lambda tensor: tensor.to_sparse())
        return prediction

    return spoilt
