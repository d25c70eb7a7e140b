"""A run: one generation, which owns all state."""

from __future__ import annotations

from collections.abc import Mapping
from operator import index as as_index
from typing import Any

from torch import Tensor
from torch.compiler import is_compiling

from guidance_core.algebra.arithmetic import evaluate
from guidance_core.algebra.outputs import Structure, Structured, read_sample
from guidance_core.algebra.tracing import outside, untraced
from guidance_core.describe import Description, describe_run
from guidance_core.errors import ConfigurationError
from guidance_core.executors.base import Denoiser, Executor
from guidance_core.executors.copying import CopyingDenoiser
from guidance_core.methods.step import Moment, States, copied
from guidance_core.steps.apart import writes_to
from guidance_core.steps.combination import Scene, Workspace, correct, guide
from guidance_core.steps.held import HeldOutputs, Kept
from guidance_core.steps.layout import Layout
from guidance_core.steps.lent import Lent
from guidance_core.steps.plan import Plan, Predictions, Sums
from guidance_core.steps.program import Program, Sigma


class Run:
    """One generation: call `step` once for every evaluation, in order.

    A run belongs to one thread at a time. Different runs, of one `Guidance` or several, never
    influence each other.
    """

    def __init__(self, program: Program, executor: Executor) -> None:
        self.identity = program.identity
        self.id = program.identity.id
        "Number of the run, unique in the process."
        self.settings = program.settings
        self.count = program.settings.count
        "Number of steps."
        self.passes = 0
        "Branches evaluated so far."
        self.executor = executor
        self._program = program
        self._state: States = {}
        self._version = 0
        self._held = HeldOutputs(program.settings.prediction_type)
        self._workspace = Workspace()
        self._last: Moment | None = None
        self._structure: Structure | None = None
        self._counts_writes = False
        "Whether torch counts the writes into the samples: not into those made in inference mode."

    @property
    def layouts(self) -> list[Layout]:
        """The layout of every step, as it is when a step is evaluated first."""
        return self._program.layouts

    def step(
        self,
        index: int,
        sample: Structured,
        denoise: Denoiser,
        *,
        sigma: Sigma | None = None,
        alpha: float | None = None,
        model: str | None = None,
    ) -> Any:
        """Evaluate one step: run its branches and return the guided prediction.

        Args:
            index: which step, from 0. Samplers that evaluate a step twice pass the same index again.
            sample: the noisy sample, `[B, ...]` floating point, or a tuple or dict of such.
            denoise: runs one forward pass for the branch it is given.
            sigma: noise level (by output where they differ), if not that of the step: Heun, res2s.
            alpha: signal level to go with `sigma`, where the prediction type does not imply it.
            model: name of the model in use, where the host switches between several.

        Returns:
            The guided prediction in the prediction type, structure, shape and dtype of the denoiser's.

        Raises:
            ConfigurationError: the index, sample or sigma cannot be used.
            DenoiserError: a prediction does not fit the sample or the base branch.
            PluginError: a plugin's hook failed.
            RankFailedError: with several ranks, another one failed; so do the other errors on all of them.
            RankLostError: with several ranks, one does not answer.
            PlanMismatchError: with several ranks, they plan different things.
        """
        if is_compiling():
            levels = {"sigma": sigma, "alpha": alpha, "model": model}
            return outside(Run.step, (self, index, sample, denoise), levels)
        plan = self._begun(index, sample, sigma, alpha, model)
        try:
            if getattr(denoise, "reuses_memory", False):
                denoise = CopyingDenoiser(denoise, plan)
            predictions = self.executor.execute(plan, denoise)
        except BaseException as error:
            self._give_up(plan, error)
            raise
        return self._ended(plan, predictions)

    @untraced
    def plan(
        self,
        index: int,
        sample: Structured,
        *,
        sigma: Sigma | None = None,
        alpha: float | None = None,
        model: str | None = None,
    ) -> Plan:
        """Return the plan of a step, for a host that runs the forwards itself.

            with run.plan(i, x) as plan:
                guided = plan.finish({branch.name: forward(branch) for branch in plan.own_branches})

        An exception inside the block is raised on all ranks. Takes and raises what `step` does.
        """
        return self._begun(index, sample, sigma, alpha, model)

    @untraced
    def finish(self, plan: Plan, predictions: Mapping[str, Any] | Sums) -> Any:
        """Combine the predictions of a plan's own branches, by name, into the guided prediction.

        Raises:
            ConfigurationError: the plan belongs to another run, or was finished before.
            DenoiserError: a prediction is missing or does not fit.
            PluginError: a plugin's hook failed.
            RankFailedError, RankLostError, PlanMismatchError: as `step`.
        """
        return self._ended(plan, predictions)

    def describe(self) -> Description:
        """Return the effective plan: passes per step, who asked for each, every parameter's origin."""
        return describe_run(self._program.stack, self.executor.describe(), self.layouts, self.executor.placed)

    def _begun(
        self, index: int, sample: Structured, sigma: Sigma | None, alpha: float | None, model: str | None
    ) -> Plan:
        plan = None
        try:
            plan = self._planned(index, sample, sigma, alpha, model)
            self.executor.place(plan)
        except BaseException as error:
            self._give_up(plan, error)
            raise
        return plan

    def _ended(self, plan: Plan, predictions: Mapping[str, Any] | Sums) -> Any:
        if plan.identity is not self.identity or plan.is_finished:
            why = "belongs to another run" if plan.identity is not self.identity else "was finished before"
            raise ConfigurationError(f"this plan of step {plan.index} {why}; call plan() anew.")
        try:
            if plan.version != self._version:
                raise ConfigurationError(
                    f"this plan of step {plan.index} was made before another was finished; call plan() anew."
                )
            if not isinstance(predictions, Sums):
                predictions = self.executor.collect(plan, plan.taken_apart(predictions))
            results, state = self._combined(plan, predictions)
            if self.settings.check_finite:
                plan.check_results(results)
            kept = self._held.kept(plan, results, self._program.keeps) if self._program.keeps else {}
            self.executor.confirm(plan)
        except BaseException as error:
            self._give_up(plan, error)
            raise
        return self._committed(plan, results, state, kept)

    def _planned(
        self, index: int, sample: Structured, sigma: Sigma | None, alpha: float | None, model: str | None
    ) -> Plan:
        if type(index) is not int or not 0 <= index < self.count:
            index = self._checked_index(index)
        structure, samples = self._structure, samples = read_sample(sample, self.settings.outputs, self._structure)
        if structure.names != self._program.outputs:
            self._program = self._program.for_outputs(structure.names)
        last = self._last
        evaluation = last.evaluation + 1 if last is not None and last.index == index else 0
        scheduled = self._program.steps[index]
        state = copied(self._state) if self._state else {}
        layout = scheduled.layout
        usual = sigma is None and alpha is None and model is None and evaluation == 0
        if not usual or layout.depends_on_state or (layout.holds and not layout.holds <= self._held.names):
            noise = scheduled.moment.noise
            if sigma is not None or alpha is not None:
                noise = self._program.levels(index, sigma, alpha)
            scheduled = self._program.scheduled(index, noise, evaluation, model, self._held.names, state)
            layout = scheduled.layout
        if layout.has_tensor_strengths:
            for name, each in samples.items():
                layout.outputs[name].placed_strengths(each)  # raises where one does not broadcast
        writes = -1
        if self._counts_writes or index == 0:
            writes = writes_to(samples.values())
            self._counts_writes = writes >= 0
        return Plan(
            self.identity,
            scheduled,
            structure,
            samples,
            state,
            self._version,
            self.finish,
            self._give_up,
            self._following,
            writes,
        )

    def _following(self, plan: Plan) -> Plan | None:
        """Return the next step's plan as it will be if the host goes on as usual; None if that cannot be said.

        A host that has just gone from one step to the next goes on as usual.
        """
        moment, last = plan.moment, self._last
        index = moment.index + 1
        if last is None or (last.index, last.evaluation) != (moment.index - 1, 0):
            return None
        if index >= self.count or moment.model is not None or moment.evaluation:
            return None
        scheduled = self._program.steps[index]
        layout = scheduled.layout
        if layout.depends_on_state or not layout.holds <= self._held.names:
            return None
        return plan.at(scheduled)

    def _combined(self, plan: Plan, predictions: Predictions | Sums) -> tuple[dict[str, Tensor], States]:
        """Return the guided prediction of each output, and the state to keep; nothing of it lasts yet."""
        state = copied(plan.state) if plan.state else {}
        results = {}
        for name, layout in plan.layout.outputs.items():
            if layout.held:
                results[name] = self._held.result(plan, name)
            elif layout.is_plain and not isinstance(predictions, Sums):
                given = predictions[name]
                center = given[layout.center]
                away = [(given[branch], strength) for branch, strength in layout.placed_away(center)]
                result = evaluate([(center, 1.0)], away=away, dtype=center.dtype)
                results[name] = result.clone() if result is center else result
            elif isinstance(predictions, Sums):
                scene = Scene(layout, plan.samples[name], plan.moment, state, self._workspace)
                reference, known = predictions.references.get(name), predictions.statistics.get(name)
                terms = [(predictions.sums[name], 1.0)]
                results[name] = correct(scene, terms, [], predictions.like[name], reference, known)
            else:
                given = predictions[name]
                scene = Scene(layout, plan.samples[name], plan.moment, state, self._workspace, given.values())
                results[name] = guide(scene, given)
        if state:
            gathered = {} if isinstance(predictions, Sums) else predictions
            of_host = [tensor for given in (plan.samples, *gathered.values()) for tensor in given.values()]
            lent = Lent([*of_host, *results.values(), *self._workspace.buffers])
            state = {name: lent.apart(states, f"plugin {name!r}") for name, states in state.items()}
            if lent.met_objects:
                self._workspace.leave()
        return results, state

    def _committed(self, plan: Plan, results: dict[str, Tensor], state: States, kept: Kept) -> Any:
        """Make the step's state last and return the result in the host's structure. Nothing here can fail."""
        plan.is_finished = True
        self._version += 1
        self.passes += len(plan.branches)
        if state:
            self._state = state
        if kept:
            self._held.update(kept)
        self._last = plan.moment
        return plan.restored(results)

    def _give_up(self, plan: Plan | None, error: BaseException) -> None:
        """End a step that failed, in whichever part: raise what all ranks raise, if that is not `error` itself."""
        shared = self.executor.report(error, self.identity, plan)
        if plan is not None:
            plan.reported = (error, shared)
        if shared is not error:
            raise shared from error

    def _checked_index(self, index: int) -> int:
        try:
            number = as_index(index)
        except TypeError:
            raise ConfigurationError(f"a step index is a whole number; got {index!r}.") from None
        if not 0 <= number < self.count:
            raise ConfigurationError(
                f"step {number} is out of range: the run has {self.count} steps, 0 to {self.count - 1}."
            )
        return number
