"""Broken executors: some of one process, some of several."""

from __future__ import annotations

from typing import Any

import rank_jobs
import torch
import torch.distributed as dist
from torch.utils._pytree import tree_map

from guidance_core import AllGatherExecutor, AllReduceExecutor, SerialExecutor, run_branch
from guidance_core.executors.records import Record, check_all_well
from zoo.entry import ENTRIES, Broken, broken


@broken("equals-serial", "another result than the serial executor")
class SkipsTheLastBranch(SerialExecutor):
    """Runs one pass fewer and gives the last branch the base prediction."""

    def execute(self, plan, denoise):
        made = {branch.name: denoise(branch) for branch in plan.branches[:1] + plan.branches[1:-1]}
        return {
            branch.name: made[branch.name] if branch.name in made else plan.copied(made["cond"])
            for branch in plan.branches
        }


@broken("equals-serial", "another result than the serial executor")
class SwapsTwoBranches(AllGatherExecutor):
    """Gives the first two branches beside the base each other's prediction."""

    def _whole(self, plan, views):
        whole = super()._whole(plan, views)
        first, second = [*[branch.name for branch in plan.branches[1:3]], "cond", "cond"][:2]
        if len(plan.branches) <= 2:
            return whole
        return {name: given | {first: given[second], second: given[first]} for name, given in whole.items()}


@broken("each-branch-once", "plans")
class EvaluatesTwice(SerialExecutor):
    """Runs every pass once to warm up and once to keep."""

    def execute(self, plan, denoise):
        for branch in plan.branches:
            denoise(branch)
        return super().execute(plan, denoise)


@broken("each-branch-once", "plans")
class RunsEverythingEverywhere(AllGatherExecutor):
    """Runs every branch on every rank and uses its share."""

    def execute(self, plan, denoise):
        held = {branch.name: denoise(branch) for branch in plan.branches}
        return super().execute(plan, lambda branch: held[branch.name])


@broken("predictions-for-combine", "gives another result than serial")
class OnlySaysThatItGathers(AllReduceExecutor):
    """Adds predictions up, but says that it gathers them."""

    gathers_predictions = True


@broken("failing-forward", "raised nothing, though")
class SwallowsErrors(SerialExecutor):
    """Takes zeros for the prediction of a pass that fails."""

    def execute(self, plan, denoise):
        def guarded(branch):
            try:
                return denoise(branch)
            except Exception:
                return plan.restored({output: torch.zeros_like(x) for output, x in plan.samples.items()})

        return super().execute(plan, guarded)


@broken("failing-forward", "does not name the branch", "lacks what the forward raised")
class DoesNotSayWhichBranch(SerialExecutor):
    """Raises an error of its own for a pass that fails, and drops the cause."""

    def execute(self, plan, denoise):
        try:
            return super().execute(plan, denoise)
        except Exception:
            raise RuntimeError("a forward pass failed") from None


@broken("failing-forward", "every rank should at once", "different errors", "raised nothing, though")
class TellsNobody(AllGatherExecutor):
    """Raises where a pass fails without telling the other ranks, which wait for it."""

    def report(self, error, identity, plan):
        return error


@broken("bad-prediction", "raised nothing, though")
class MakesPredictionsFit(AllGatherExecutor):
    """Casts predictions to the dtype of the sample and pads them to its shape instead of refusing them."""

    def execute(self, plan, denoise):
        def fitting(branch):
            made = plan.named(denoise(branch), branch.name)
            fitted = {output: torch.zeros_like(x) for output, x in plan.samples.items()}
            for output, tensor in made.items():
                fitted[output][..., : tensor.shape[-1]] = tensor
            return plan.restored(fitted)

        return super().execute(plan, fitting)


@broken("different-plans", "With another strength on rank 1")
class ComparesNoPlans(AllReduceExecutor):
    """Adds up what the ranks made, whether or not they planned the same."""

    def begin(self, make):
        return make()

    def _compare(self, plan, dtypes, phase, *, then):
        plan.placed.awaited = None
        records = self._agreement.exchange(Record(dtypes=dtypes, text=plan.summary), phase)
        check_all_well(records)
        plan.placed.awaited = then
        return records


@broken("serves-several-runs", "another result than the serial executor")
class KeepsPredictionsForAllRuns(SerialExecutor):
    """Keeps predictions by branch and step, without the run."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, int], Any] = {}

    def execute(self, plan, denoise):
        for branch in plan.branches:
            if (branch.name, plan.index) not in self.kept:
                self.kept[branch.name, plan.index] = denoise(branch)
        return {branch.name: self.kept[branch.name, plan.index] for branch in plan.branches}


@broken("equals-serial", "another result than the serial executor")
class ForgetsSecondEvaluations(SerialExecutor):
    """Keeps predictions by run, step and branch, and takes them for those of the second evaluation too."""

    def __init__(self) -> None:
        self.kept: dict[tuple[int, int, str], Any] = {}

    def execute(self, plan, denoise):
        for branch in plan.branches:
            key = (branch.run_id, plan.index, branch.name)
            self.kept[key] = self.kept[key] if branch.evaluation else run_branch(branch, denoise)
        return {branch.name: self.kept[branch.run_id, plan.index, branch.name] for branch in plan.branches}


@broken("equals-serial", "another result than the serial executor")
class RoundsWhatIsLarge(SerialExecutor):
    """Rounds large predictions to bfloat16 to save memory."""

    def execute(self, plan, denoise):
        def rounded(tensor):
            return tensor.bfloat16().to(tensor.dtype) if tensor.numel() > 4096 else tensor

        return tree_map(rounded, super().execute(plan, denoise))


@broken("failing-forward", "raised nothing")
class TakesCondForLateFailures(SerialExecutor):
    """Takes the base prediction for any branch after the second whose forward fails."""

    def execute(self, plan, denoise):
        made: dict[str, Any] = {}
        for number, branch in enumerate(plan.branches):
            try:
                made[branch.name] = run_branch(branch, denoise)
            except Exception:
                if number < 2:
                    raise
                made[branch.name] = plan.copied(made["cond"])
        return made


def in_parts(executor, plan, buffer, count):
    received = []
    for part in buffer.chunk(count):
        received.append(torch.empty(executor.size, part.numel(), dtype=torch.uint8))
        executor._move(plan, dist.all_gather_single, part, received[-1].view(-1), part.clone())
    return torch.cat(received, dim=1).unbind()


@broken("one-collective", "collectives of predictions")
class SendsInTwoParts(AllGatherExecutor):
    """Sends its buffer in two halves, one collective each."""

    def _gathered(self, plan, buffer, placement):
        return in_parts(self, plan, buffer, 2)


@broken("one-collective", "collectives of predictions")
class SendsInSmallParts(AllGatherExecutor):
    """Sends its buffer in sixteen parts, so that no message is large."""

    def _gathered(self, plan, buffer, placement):
        return in_parts(self, plan, buffer, 16)


@broken("one-collective", "pickles objects")
class PicklesPredictions(AllGatherExecutor):
    """Gathers Python objects, which are pickled and loaded."""

    def _gathered(self, plan, buffer, placement):
        received: list[Any] = [None] * self.size
        dist.all_gather_object(received, buffer, group=self.group)
        return received


@broken("predictions-unchanged", "in place")
class RoundsInPlace(SerialExecutor):
    """Rounds predictions to bfloat16 in their own memory."""

    def execute(self, plan, denoise):
        made = super().execute(plan, denoise)
        for branch, prediction in made.items():
            for tensor in plan.named(prediction, branch).values():
                tensor.copy_(tensor.bfloat16())
        return made


@broken("predictions-unchanged", "in place")
class WeighsInPlace(AllReduceExecutor):
    """Multiplies predictions in their own memory after it has added them up."""

    def _share(self, plan, predictions):
        parts = super()._share(plan, predictions)
        for given in predictions.values():
            for tensor in given.values():
                tensor.mul_(0.5)
        return parts


@broken("describes-itself", "not one line")
class SaysNothingOfItself(SerialExecutor):
    """Describes itself with an empty line."""

    def describe(self):
        return ""


ENTRIES += [
    Broken(
        rank_jobs.DropsTheLastBranch,
        "equals-serial",
        "Gathers the base prediction in the place of the last branch.",
        "another result than the serial executor",
    ),
    Broken(
        rank_jobs.ForgetsRankTwo,
        "equals-serial",
        "Leaves out what the third rank made.",
        "another result than the serial executor",
    ),
    Broken(
        rank_jobs.ReducesInBf16,
        "equals-serial",
        "Adds up the ranks' shares in bfloat16.",
        "another result than the serial executor",
    ),
    Broken(
        rank_jobs.SkipsTheStatistics,
        "equals-serial",
        "Does not send the statistics that a correction asks for.",
        "another result than the serial executor",
    ),
    Broken(
        rank_jobs.DiffersOnRankOne,
        "same-bits-on-every-rank",
        "Has another last bit on one rank.",
        "has other bits on rank 1",
    ),
]
