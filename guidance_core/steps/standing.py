"""Where a run stands: what it keeps between its steps, and how that is cut, copied and saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NoReturn, Protocol, Self, TypeVar

import attrs
from torch import Tensor

from guidance_core.algebra.outputs import Structure
from guidance_core.errors import ConfigurationError
from guidance_core.methods.moment import Moment, States, copied
from guidance_core.methods.noise import Seeds
from guidance_core.steps.held import HeldOutputs, Kept
from guidance_core.steps.layout import Layout
from guidance_core.steps.plan import Plan, Predictions, by_branch
from guidance_core.steps.program import Program
from guidance_core.steps.saved import Saved, from_dict, to_dict
from guidance_core.steps.selection import Selection, checked_indices


class Begins(Protocol):
    """What starts a run, on several ranks together with the others."""

    def begin(self, make: Callable[[], Program]) -> Program:
        """Return what `make` makes."""


ExecutorT = TypeVar("ExecutorT", bound=Begins)


@attrs.frozen(eq=False)
class Made:
    """The evaluation that a run made last."""

    index: int
    "Which step it was."
    evaluation: int
    "How often the step had been evaluated before."
    predictions: Mapping[str, Any]
    """The predictions that this process has, by branch, in the structure of the denoiser's.

    On several ranks these are all (all_gather) or this rank's own (all_reduce). They are not copied.
    """


class Standing(Generic[ExecutorT]):
    """What a run keeps; a step that failed changes none of it."""

    def __init__(self, program: Program, executor: ExecutorT) -> None:
        self.identity = program.identity
        self.id = program.identity.id
        "Number of the run, unique in the process."
        self.seeds = program.settings.seeds.given
        "What `start(seeds=...)` was given, or what was drawn in its place."
        self.settings = program.settings
        self.count = program.settings.count
        "Number of steps."
        self.passes = 0
        "Branches evaluated so far."
        self.executor = executor
        self._program = self._whole = program
        self._selection: Selection | None = None
        self._seeds = program.settings.seeds
        self._state: States = {}
        self._version = 0
        self._held = HeldOutputs(program.settings.prediction_type)
        self._last: Moment | None = None
        self._structure: Structure | None = None
        self._rows: int | None = None
        self._made: Predictions | None = None

    @property
    def layouts(self) -> list[Layout]:
        """The layout of every step, as it is when a step is evaluated first."""
        return self._program.layouts

    def select(self, indices: Sequence[int] | Tensor) -> None:
        """Go on with some samples of the batch: dropped, duplicated, or in another order.

        What plugins keep, values for each sample, the conditions' model inputs and the seeds follow: every tensor whose
        first dimension is the batch. On several ranks all of them call it with the same indices.

        Args:
            indices: which samples of the last step's batch the next one consists of.

        Raises:
            ConfigurationError: there was no step yet, the indices are not those of its samples, or a plugin keeps an
                object without `select(indices)`.
        """
        rows = self._rows
        if rows is None:
            raise ConfigurationError("select takes samples of the last step's batch, but no step was made yet.")
        selection = Selection(checked_indices(indices, rows), rows)
        state: States = {
            name: {
                output: {key: selection.of(value, f"plugin {name!r}: its state {key!r}") for key, value in kept.items()}
                for output, kept in by_output.items()
            }
            for name, by_output in self._state.items()
        }
        whole = selection if self._selection is None else self._selection.then(selection)
        turns = (*self.identity.turns, selection.indices)
        seeds = self._seeds.selected(selection.indices)
        self._use(self.executor.begin(lambda: self._whole.resumed(seeds, whole, turns)))
        self._selection = whole
        self._state = state
        self._held.select(selection)
        self._rows, self._made = len(selection.indices), None
        self._version += 1

    @property
    def last(self) -> Made | None:
        """The evaluation made last here, for a host that wants to look at single predictions."""
        if self._made is None or self._last is None or self._structure is None:
            return None
        return Made(self._last.index, self._last.evaluation, by_branch(self._structure, self._made))

    def fork(self, *, seeds: int | Sequence[int] | Tensor | None = None) -> Self:
        """Return a copy of the run, with an id of its own, that goes on independently.

        On several ranks all of them call it.

        Args:
            seeds: of the copy; those of this run if not given.

        Raises:
            ConfigurationError: the seeds cannot be used.
        """
        own = self._seeds if seeds is None else Seeds.of(seeds)
        whole = self._whole.anew()
        other = type(self)(self.executor.begin(lambda: whole.resumed(own, self._selection, ())), self.executor)
        other._whole, other._selection = whole, self._selection
        other._state = copied(self._state)
        other._held = self._held.copied()
        other._version, other.passes = self._version, self.passes
        other._last, other._structure, other._rows = self._last, self._structure, self._rows
        return other

    def state_dict(self) -> dict[str, Any]:
        """Return what the run keeps as plain data, to go on with it later in another process.

        `torch.save` writes it, unless a plugin keeps objects that cannot be written. Tensors are not copied.
        """
        saved = Saved(
            *(self._state, self._held, self._last, self._version, self.passes, self._seeds, self._rows, self._selection)
        )
        return to_dict(self._whole, saved)

    def load_state_dict(self, data: Mapping[str, Any]) -> None:
        """Go on where the run was whose `state_dict` this is; this one was started with the same arguments.

        Tensors must lie on the device of the samples to come. On several ranks all of them call it, each with its own.

        Raises:
            ConfigurationError: it is not such data, or of a run with other methods, parameters or sigmas.
        """
        saved = from_dict(self._whole, data)
        at = (saved.version, saved.passes, *((saved.last.index, saved.last.evaluation) if saved.last else ()))
        turns = (*self.identity.turns, at)
        self._use(self.executor.begin(lambda: self._whole.resumed(saved.seeds, saved.selection, turns)))
        self._selection = saved.selection
        self._state, self._held, self._last = saved.states, saved.held, saved.last
        self._version, self.passes, self._rows, self._made = saved.version, saved.passes, saved.rows, None

    def _use(self, program: Program) -> None:
        """Go on with a program of the same run."""
        self._program, self.identity, self.settings = program, program.identity, program.settings
        self._seeds, self.seeds = program.settings.seeds, program.settings.seeds.given

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse to be copied or pickled: a copy would share the run's id and its place among the ranks' runs."""
        raise ConfigurationError(
            "a run cannot be copied or pickled: run.fork() returns an independent copy, and run.state_dict() what "
            "another process needs to go on with it (load_state_dict)."
        )

    def _committed(self, plan: Plan, results: dict[str, Tensor], state: States, kept: Kept, made: Predictions) -> Any:
        """Make the step's state last and return the result in the host's structure. Nothing here can fail."""
        plan.is_finished = True
        self._version += 1
        self.passes += len(plan.branches)
        if state:
            self._state = state if not plan.moment.evaluation else self._after_again(state)
        if kept:
            self._held.update(kept)
        self._last = plan.moment
        self._made = made
        self._rows = next(iter(results.values())).shape[0]
        return plan.restored(results)

    def _after_again(self, state: States) -> States:
        """Return the state after a step was evaluated again: what plugins keep is that of its first evaluation.

        That is the one at the step's own sample; others are a sampler's trials. A plugin that must see all of them
        declares `every_evaluation = True`.
        """
        plugins = self._program.stack.plugins
        every = {name: kept for name, kept in state.items() if getattr(type(plugins[name]), "every_evaluation", False)}
        return {**self._state, **every}
