"""The plan of a step: its branches, and what those who run them need to know and may ask.

A plan is a layout bound to a sample. Executors work with plans alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NoReturn, TypeAlias

import attrs
from torch import Tensor

from guidance_core.algebra.arithmetic import Weight, evaluate
from guidance_core.algebra.digest import digest, in_words, mark_of
from guidance_core.algebra.memory import copy_of
from guidance_core.algebra.outputs import Structure
from guidance_core.algebra.spaces import Noise
from guidance_core.errors import ConfigurationError, DenoiserError, GuidanceError
from guidance_core.methods.moment import States
from guidance_core.methods.reference import BasePrediction, Measured
from guidance_core.methods.tracked import Tracked
from guidance_core.steps.scheduled import Scheduled
from guidance_core.steps.settings import RunIdentity

Predictions: TypeAlias = dict[str, dict[str, Tensor]]
"Predictions by output, then by branch."


@attrs.frozen(eq=False)
class Sums:
    """The result of an executor that adds up the branches instead of gathering them.

    Every mapping is by output, and every tensor is in the host's space. `Plan.partial_sum` computes the share of one
    rank, and `Plan.wanted_statistics` returns the statistics of the base prediction that corrections ask for.
    """

    sums: Mapping[str, Tensor]
    "`Σ wᵢ·pᵢ`, `[B, ...]`, in the accumulation dtype."
    like: Mapping[str, Tensor]
    "A tensor of the shape, dtype and device of the base prediction; its values are not read."
    statistics: Mapping[str, Mapping[Measured, Tensor]]
    "Of the base prediction, by space and statistic."
    references: Mapping[str, Tensor]
    "The base prediction itself, if the plan asks for it."


class Plan:
    """The branches of one step, for code that runs the forward passes, and what it takes to finish the step.

    with run.plan(i, x) as plan:
        guided = plan.finish({branch.name: forward(branch) for branch in plan.own_branches})
    """

    __slots__ = (
        "_finish",
        "_following",
        "_give_up",
        "branches",
        "identity",
        "is_finished",
        "layout",
        "moment",
        "noise",
        "own_branches",
        "padding",
        "placed",
        "reported",
        "samples",
        "state",
        "structure",
        "version",
        "writes",
    )

    def __init__(
        self,
        identity: RunIdentity,
        scheduled: Scheduled,
        structure: Structure,
        samples: dict[str, Tensor],
        state: States,
        version: int,
        finish: Callable[[Plan, Mapping[str, Any] | Sums], Any],
        give_up: Callable[[Plan, BaseException], None],
        following: Callable[[Plan], Plan | None],
        writes: int = -1,
    ) -> None:
        self._following = following
        self._finish = finish
        self._give_up = give_up
        self.structure = structure
        self.identity = identity
        "Which run it belongs to, with the run's settings."
        self.layout = scheduled.layout
        self.moment = scheduled.moment
        "Where the step stands."
        self.noise: Mapping[str, Noise] = scheduled.moment.noise
        "The noise level by output; with those of single elements, where the host gave them."
        self.branches = scheduled.branches
        "The passes to run, `cond` first; empty where every output keeps its last x0."
        self.own_branches = scheduled.branches
        "Those that this process runs: on several ranks perhaps none, or some rows of one (`branch.rows`)."
        self.padding = 0
        "Forwards to make besides, for ranks that must call their model equally often (`lockstep`)."
        self.placed: Any = None
        "What the executor noted when it chose this process's branches."
        self.samples = samples
        "The noisy sample by output."
        self.writes = writes
        "torch's count of the writes into the samples when the plan was made; -1 where nobody has to look."
        self.state = state
        "What plugins keep in the run, as hooks left it when they named the branches."
        self.version = version
        "How many steps the run had finished when the plan was made."
        self.is_finished = False
        self.reported: tuple[BaseException, ...] = ()
        "The error that ended the last attempt, and what was raised for it on all ranks; it may be tried again."

    def finish(self, predictions: Mapping[str, Any] | Sums) -> Any:
        """Combine the predictions of `own_branches`, by name, into the guided prediction; see `Run.finish`."""
        return self._finish(self, predictions)

    def copied(self, prediction: Any) -> Any:
        """Return a copy of a prediction, for a host whose next forward pass overwrites it.

        made = {branch.name: plan.copied(forward(branch)) for branch in plan.own_branches}
        """
        return copy_of(prediction)

    def abandon(self, error: BaseException) -> NoReturn:
        """Give up the step because of `error`, and raise it. On several ranks, all of them raise an error."""
        self._give_up(self, error)
        raise error

    def __enter__(self) -> Plan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Have an exception of the block raised on all ranks; the block must finish the plan."""
        if self.is_finished or any(error is each for each in self.reported):
            return
        if error is None and self.reported:
            return  # the block took the error upon itself
        if error is None:
            self.abandon(
                ConfigurationError(
                    f"step {self.index} was planned but not finished: call plan.finish(predictions) inside the block, "
                    "or plan.abandon(error)."
                )
            )
        self._give_up(self, error)

    def expected_next(self) -> Plan | None:
        """Return the plan of the next step, if the host goes on as usual; None if it is not known.

        Its samples are those of this plan: only their shapes, dtypes and devices count.
        """
        return self._following(self)

    def at(self, scheduled: Scheduled) -> Plan:
        """Return the plan of another step for the same samples."""
        return Plan(
            self.identity,
            scheduled,
            self.structure,
            self.samples,
            {},
            self.version + 1,
            self._finish,
            self._give_up,
            self._following,
        )

    @property
    def tracked(self) -> Mapping[str, Tracked]:
        """The samples by output in the graph of the base prediction, if a method differentiates."""
        return self.branches[0].tracked if self.branches else {}

    @property
    def form(self) -> tuple[object, ...]:
        """What is equal for two plans of one evaluation of one run, with samples of the same form."""
        samples = ((name, each.shape, each.dtype, each.device) for name, each in self.samples.items())
        return (id(self.moment), self.structure.kind, *samples)

    @property
    def index(self) -> int:
        """Index of the step."""
        return self.moment.index

    @property
    def sigma(self) -> float:
        """Noise level of the step (of the first output)."""
        return self.noise[self.structure.names[0]].sigma

    @property
    def rows(self) -> int:
        """Batch size of the sample."""
        return int(next(iter(self.samples.values())).shape[0])

    @property
    def place(self) -> str:
        """Which step it is, for messages."""
        return f"step {self.index} of {self.moment.run.count}"

    @property
    def summary(self) -> str:
        """The step and its branches in a few words, for messages."""
        branches = ", ".join(branch.name for branch in self.branches) or "no branches"
        evaluation = self.moment.evaluation
        again = f", evaluation {evaluation}" if evaluation else ""
        shapes = ", ".join(f"{name} {kind_of(sample)}" for name, sample in self.samples.items())
        return f"{self.place}{again} at sigma {self.sigma:g}: {branches}; {shapes}"

    @property
    def details(self) -> dict[str, str]:
        """Everything that `fingerprint` includes, in words, to show how two processes differ."""
        levels = {name: (each.sigma, each.alpha) for name, each in self.noise.items()}
        found = {
            **self.identity.details,
            "step": f"{self.place}, evaluation {self.moment.evaluation}",
            "model": str(self.moment.model),
            "noise levels": in_words(levels),
            "sample": ", ".join(f"{name} {kind_of(sample)}" for name, sample in self.samples.items()),
            "structure": self.structure.kind,
        }
        for name, each in self.noise.items():
            if each.map is not None:
                found[f"sigma_map of {name}"] = f"shape {tuple(each.map.shape)} {mark_of(each.map)}"
        for branch in self.layout.branches:
            own = (branch.condition, branch.perturbations, branch.model)
            others = (branch.overrides, branch.cost, branch.also, branch.edit, self.layout.amended[branch.name])
            found[f"branch {branch.name}"] = f"{in_words(own, 400)} {mark_of(*own, *others)}"
        for name, output in self.layout.outputs.items():
            acting = [(each.implementation.plugin, each.implementation.hook) for each in output.all_acting]
            mark = mark_of(output.held, output.strengths, [each.needs for each in output.all_acting])
            strengths = in_words(output.strengths)
            found[f"what is made of {name}"] = f"strengths {strengths}, hooks {in_words(acting)} {mark}"
        return found

    @property
    def fingerprint(self) -> tuple[int, ...]:
        """The number that ranks compare before they exchange predictions; see `PARTS`."""
        moment = self.moment
        levels = [(level.sigma, level.alpha, level.map) for level in self.noise.values()]
        step = digest([moment.index, moment.run.count, moment.evaluation, moment.model, levels])
        shapes = [(tuple(sample.shape), str(sample.dtype), sample.device.type) for sample in self.samples.values()]
        sample = digest([repr((self.structure.kind, list(self.samples), shapes))])
        return (*self.identity.fingerprint, step, *self.layout.fingerprint, sample)

    def named(self, prediction: Any, branch: str) -> dict[str, Tensor]:
        """Return one branch's prediction by output, or raise `DenoiserError` if its structure differs."""
        entries = self.structure.entries(prediction)
        if entries is None:
            raise self.misfit(prediction, branch)
        return dict(zip(self.samples, entries, strict=True))

    def by_output(self, predictions: Mapping[str, Any]) -> Predictions:
        """Return predictions by output, then by branch, or raise `DenoiserError` if the structure of one differs."""
        found: Predictions = {output: {} for output in self.samples}
        for branch, prediction in predictions.items():
            for output, tensor in self.named(prediction, branch).items():
                found[output][branch] = tensor
        return found

    def misfit(self, prediction: Any, branch: str) -> GuidanceError:
        """Return the error that explains how the structure of one branch's prediction differs."""
        return self.structure.misfit(prediction, f"the prediction of branch {branch!r}", DenoiserError)

    def restored(self, named: Mapping[str, Tensor]) -> Any:
        """Return predictions by output in the structure of the denoiser: a tensor, a tuple or a dict."""
        return self.structure.restore(named)

    def shape_of(self, output: str, rows: slice | None = None) -> tuple[int, ...]:
        """Return the shape of an output's prediction, for some rows of the batch or all."""
        shape = tuple(self.samples[output].shape)
        return shape if rows is None else (rows.stop - rows.start, *shape[1:])

    def can_split_rows(self, *, needs_tensor_statistics: bool) -> bool:
        """Whether the rows of the batch can be divided between ranks.

        They cannot if outputs differ in batch size, or if a statistic of the whole batch would have to be computed from
        parts.
        """
        if len({sample.shape[0] for sample in self.samples.values()}) > 1:
            return False
        wanted = (key for output in self.samples for key in self.wanted_statistics(output))
        return not (needs_tensor_statistics and any(statistic.covers_batch for _, statistic in wanted))

    def partial_sum(self, output: str, predictions: Mapping[str, Tensor], rows: slice | None = None) -> Tensor | None:
        """Return `Σ wᵢ·pᵢ` over those branches of the plan that `predictions` holds; None if none counts.

        With `rows`, predictions hold those rows of the batch only.
        """
        if not predictions:
            return None
        weights = self.layout.outputs[output].weights(self.samples[output])
        terms = [(predictions[name], _in_rows(weight, rows)) for name, weight in weights if name in predictions]
        return evaluate(terms) if terms else None

    def wanted_statistics(self, output: str) -> tuple[Measured, ...]:
        """Return each statistic of the base prediction that corrections ask for, with its space."""
        wanted = {
            (acting.space, statistic): None
            for acting in self.layout.outputs[output].all_correcting
            for statistic in acting.needs.measured
        }
        return tuple(wanted)

    def wants_reference(self, output: str) -> bool:
        """Whether a correction looks at the whole base prediction of `output`."""
        return any(acting.needs.reference for acting in self.layout.outputs[output].all_correcting)

    def statistic(self, output: str, base: Tensor, key: Measured, rows: slice | None = None) -> Tensor:
        """Compute one wanted statistic from the base prediction of `output`; dimensions are kept."""
        own = self.identity.settings.prediction_type
        sample = self.samples[output]
        sample = sample if rows is None else sample[rows]
        piece = self.moment.run.piece(output)
        noise = self.noise[output]
        if rows is not None and noise.map is not None and noise.map.shape[0] > 1:
            noise = attrs.evolve(noise, map=noise.map[rows])
        return BasePrediction(base, sample, own, noise, piece=piece).measure(*key)


def _in_rows(weight: Weight, rows: slice | None) -> Weight:
    return weight[rows] if isinstance(weight, Tensor) and rows is not None and weight.shape[0] > 1 else weight


def kind_of(tensor: Tensor) -> str:
    """Return shape, dtype and device in words."""
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"


def by_branch(structure: Structure, predictions: Predictions) -> Mapping[str, Any]:
    """Return predictions by branch in the host's structure, of those branches that have every output."""
    first = next(iter(predictions.values()), {})
    return {
        branch: structure.restore({output: predictions[output][branch] for output in predictions})
        for branch in first
        if all(branch in given for given in predictions.values())
    }
