"""A run: one generation, which owns all state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, overload

from torch import Tensor
from torch.compiler import is_compiling

from guidance_core.algebra.outputs import Structured, read_sample
from guidance_core.algebra.spaces import OTHER
from guidance_core.algebra.tracing import outside, untraced
from guidance_core.describe import Description, describe_run
from guidance_core.errors import ConfigurationError
from guidance_core.executors.base import Denoiser, Executor, check_differentiable
from guidance_core.executors.copying import CopyingDenoiser
from guidance_core.methods.moment import copied
from guidance_core.steps.apart import writes_to
from guidance_core.steps.combination import Workspace
from guidance_core.steps.levels import mapped
from guidance_core.steps.order import check_may_turn, checked_index
from guidance_core.steps.plan import Plan, Predictions, Sums
from guidance_core.steps.program import Program, Sigma
from guidance_core.steps.results import results_of
from guidance_core.steps.standing import Standing
from guidance_core.steps.taken import check_results, taken_apart
from guidance_core.trace import Tracer


class Run(Standing[Executor]):
    """One generation: call `step` once for every evaluation, in order.

    A run belongs to one thread at a time. Different runs, of one `Guidance` or several, never
    influence each other.
    """

    def __init__(self, program: Program, executor: Executor) -> None:
        super().__init__(program, executor)
        self._is_other = program.settings.prediction_type == OTHER
        self._workspace = Workspace()
        self._counts_writes = False
        "Whether torch counts the writes into the samples: not into those made in inference mode."
        tell = program.settings.trace
        self._tracer = None if tell is None else Tracer(tell)

    @overload
    def step(
        self,
        index: int,
        sample: Tensor,
        denoise: Denoiser,
        *,
        sigma: Sigma | None = None,
        alpha: float | None = None,
        model: str | None = None,
        sigma_map: Structured | None = None,
    ) -> Tensor: ...

    @overload
    def step(
        self,
        index: int,
        sample: tuple[Tensor, ...] | list[Tensor],
        denoise: Denoiser,
        *,
        sigma: Sigma | None = None,
        alpha: float | None = None,
        model: str | None = None,
        sigma_map: Structured | None = None,
    ) -> tuple[Tensor, ...]: ...

    @overload
    def step(
        self,
        index: int,
        sample: Mapping[str, Tensor],
        denoise: Denoiser,
        *,
        sigma: Sigma | None = None,
        alpha: float | None = None,
        model: str | None = None,
        sigma_map: Structured | None = None,
    ) -> dict[str, Tensor]: ...

    def step(
        self,
        index: int,
        sample: Structured,
        denoise: Denoiser,
        *,
        sigma: Sigma | None = None,
        alpha: float | None = None,
        model: str | None = None,
        sigma_map: Structured | None = None,
    ) -> Any:
        """Evaluate one step: run its branches and return the guided prediction.

        Args:
            index: which step, from 0. Samplers that evaluate a step twice pass the same index again. A run may begin at
                any step. It may go back or skip steps only if it has no state.
            sample: the noisy sample, `[B, ...]` floating point, or a tuple or dict of such.
            denoise: runs one forward pass for the branch it is given.
            sigma: noise level of the evaluation, if it is not that of the step (Heun, res2s, churn); a dict by output
                if they differ. It lies between the step's own level and the next one, or above its own by up to a
                factor of √2, which churn may add.
            alpha: signal level that belongs to `sigma`, if the prediction type does not imply it.
            model: name of the model in use, if the host switches between several.
            sigma_map: noise levels of single elements (frames, tokens), if they differ: in the structure of the sample,
                a tensor for each output, which broadcasts to it with dimensions aligned from the batch on. Only
                conversions use them; windows, tables and schedules use the step's own level. It must be equal on all
                ranks.

        Returns:
            The guided prediction, with the prediction type, structure, shape and dtype of the denoiser's predictions.

        Raises:
            ConfigurationError: the index, sample or sigma cannot be used, or the index cannot follow the last one.
            DenoiserError: a prediction does not fit the sample or the base branch.
            PluginError: a plugin's hook failed.
            RankFailedError: on several ranks, another rank failed. All ranks raise an error if one does.
            RankLostError: on several ranks, one does not answer.
            PlanMismatchError: on several ranks, their plans differ.
        """
        if is_compiling():
            levels = {"sigma": sigma, "alpha": alpha, "model": model, "sigma_map": sigma_map}
            return outside(Run.step, (self, index, sample, denoise), levels)
        plan = self._begun(index, sample, sigma, alpha, model, sigma_map)
        return self._ended(plan, self._executed(plan, denoise))

    @untraced
    def plan(
        self,
        index: int,
        sample: Structured,
        *,
        sigma: Sigma | None = None,
        alpha: float | None = None,
        model: str | None = None,
        sigma_map: Structured | None = None,
    ) -> Plan:
        """Return the plan of a step, for a host that runs the forward passes itself.

            with run.plan(i, x) as plan:
                guided = plan.finish({branch.name: forward(branch) for branch in plan.own_branches})

        An exception inside the block raises an error on all ranks. Arguments and errors are those of `step`.
        """
        return self._begun(index, sample, sigma, alpha, model, sigma_map)

    @overload
    def step_at(
        self,
        sigma: Sigma,
        sample: Tensor,
        denoise: Denoiser,
        *,
        alpha: float | None = None,
        model: str | None = None,
        sigma_map: Structured | None = None,
    ) -> Tensor: ...

    @overload
    def step_at(
        self,
        sigma: Sigma,
        sample: tuple[Tensor, ...] | list[Tensor],
        denoise: Denoiser,
        *,
        alpha: float | None = None,
        model: str | None = None,
        sigma_map: Structured | None = None,
    ) -> tuple[Tensor, ...]: ...

    @overload
    def step_at(
        self,
        sigma: Sigma,
        sample: Mapping[str, Tensor],
        denoise: Denoiser,
        *,
        alpha: float | None = None,
        model: str | None = None,
        sigma_map: Structured | None = None,
    ) -> dict[str, Tensor]: ...

    @untraced
    def step_at(
        self,
        sigma: Sigma,
        sample: Structured,
        denoise: Denoiser,
        *,
        alpha: float | None = None,
        model: str | None = None,
        sigma_map: Structured | None = None,
    ) -> Any:
        """Find the step of a noise level and evaluate it as `step` does, for a host that knows only sigma.

        The step is the one with the nearest noise level, but none before the last step made. If several are equally
        near, it is the earliest. If it is the last step again, this is its next evaluation.

        Args:
            sigma: noise level of the evaluation; a dict by output if they differ.
            sample: as of `step`.
            denoise: as of `step`.
            alpha: as of `step`.
            model: as of `step`.
            sigma_map: as of `step`.

        It raises what `step` does.
        """
        plan = self.plan_at(sigma, sample, alpha=alpha, model=model, sigma_map=sigma_map)
        return self._ended(plan, self._executed(plan, denoise))

    @untraced
    def plan_at(
        self,
        sigma: Sigma,
        sample: Structured,
        *,
        alpha: float | None = None,
        model: str | None = None,
        sigma_map: Structured | None = None,
    ) -> Plan:
        """Return the plan of an evaluation at a noise level; see `step_at` and `plan`."""
        try:
            index = self._program.find(sigma, 0 if self._last is None else self._last.index)
            is_usual = alpha is None and self._program.is_usual(index, sigma)
        except BaseException as error:
            self._give_up(None, error)
            raise
        return self._begun(index, sample, None if is_usual else sigma, alpha, model, sigma_map, found=True)

    @untraced
    def finish(self, plan: Plan, predictions: Mapping[str, Any] | Sums) -> Any:
        """Combine the predictions of a plan's own branches, by name, into the guided prediction.

        Raises:
            ConfigurationError: the plan belongs to another run, or was already finished.
            DenoiserError: a prediction is missing or does not fit.
            PluginError: a plugin's hook failed.
            RankFailedError, RankLostError, PlanMismatchError: as in `step`.
        """
        return self._ended(plan, predictions)

    def describe(self) -> Description:
        """Return the effective plan: each step's passes, who asked for them, and the origin of every parameter."""
        return describe_run(
            self._program.stack,
            self.executor.describe(),
            self.layouts,
            self.executor.placed,
            recipe=self.settings.recipe,
        )

    def local_passes(self, index: int) -> int:
        """Return how many forward passes this process runs in a step, for caches that count them.

        The number is that of the step's first evaluation, including the passes that `lockstep` adds.
        """
        branches = self._program.layouts[checked_index(index, self.count)].branches
        return self.executor.local_passes(branches)

    def _begun(
        self,
        index: int,
        sample: Structured,
        sigma: Sigma | None,
        alpha: float | None,
        model: str | None,
        sigma_map: Structured | None,
        *,
        found: bool = False,
    ) -> Plan:
        plan = None
        try:
            plan = self._planned(index, sample, sigma, alpha, model, sigma_map, found=found)
            self.executor.place(plan)
            if self._tracer is not None:
                self._tracer.begin(plan)
        except BaseException as error:
            self._give_up(plan, error)
            raise
        return plan

    def _executed(self, plan: Plan, denoise: Denoiser) -> Mapping[str, Any] | Sums:
        try:
            if getattr(denoise, "reuses_memory", False):
                denoise = CopyingDenoiser(denoise, plan)
            return self.executor.execute(plan, denoise)
        except BaseException as error:
            self._give_up(plan, error)
            raise

    def _ended(self, plan: Plan, predictions: Mapping[str, Any] | Sums) -> Any:
        if plan.identity is not self.identity or plan.is_finished:
            why = "belongs to another run" if plan.identity is not self.identity else "is already finished"
            raise ConfigurationError(f"this plan of step {plan.index} {why}; call plan() again.")
        try:
            if plan.version != self._version:
                raise ConfigurationError(
                    f"this plan of step {plan.index} was made before another was finished; call plan() again."
                )
            if self._tracer is not None:
                self._tracer.end(plan)
            made: Predictions = {}
            if not isinstance(predictions, Sums):
                made = taken_apart(plan, predictions)
                predictions = self.executor.collect(plan, made)
                if not isinstance(predictions, Sums):
                    made = predictions
            if plan.layout.differentiating:
                made = {name: {each: given.detach() for each, given in by.items()} for name, by in made.items()}
            results, state = results_of(plan, predictions, self._held, self._workspace)
            if self.settings.check_finite:
                check_results(plan, results)
            kept = self._held.kept(plan, results, self._program.keeps) if self._program.keeps else {}
            record = None if self._tracer is None else self._tracer.record(plan, made, results)
            self.executor.confirm(plan)
        except BaseException as error:
            self._give_up(plan, error)
            raise
        guided = self._committed(plan, results, state, kept, made)
        if self._tracer is not None and record is not None:
            self._tracer.tell(record)
        return guided

    def _planned(
        self,
        index: int,
        sample: Structured,
        sigma: Sigma | None,
        alpha: float | None,
        model: str | None,
        sigma_map: Structured | None,
        *,
        found: bool = False,
    ) -> Plan:
        if type(index) is not int or not 0 <= index < self.count:
            index = checked_index(index, self.count)
        structure, samples = self._structure, samples = read_sample(
            sample, self.settings.outputs, self._structure, any_dtype=self._is_other
        )
        if structure.names != self._program.outputs:
            self._program = self._program.for_outputs(structure.names)
        last, evaluation = self._last, 0
        if last is not None and index != last.index + 1:
            if index == last.index:
                evaluation = last.evaluation + 1
            elif not found:  # a step that was found may leave out others, at whose levels the sampler only adds noise
                check_may_turn(self._program, last.index, index, self._state, self._held.names)
        scheduled = self._program.steps[index]
        state = copied(self._state) if self._state else {}
        layout = scheduled.layout
        usual = sigma is None and alpha is None and model is None and evaluation == 0
        if not usual or layout.depends_on_state or (layout.holds and not layout.holds <= self._held.names):
            noise = scheduled.moment.noise
            if sigma is not None or alpha is not None:
                noise = self._program.levels(index, sigma, alpha, found=found)
            scheduled = self._program.scheduled(index, noise, evaluation, model, self._held.names, state)
            layout = scheduled.layout
        if self._seeds.each is not None:
            self._seeds.check_count(next(iter(samples.values())).shape[0])
        if layout.has_tensor_strengths and not self._is_other:
            for name, each in samples.items():
                layout.outputs[name].placed_strengths(each)  # raises where one does not broadcast
        if layout.needs_samples:
            check_differentiable(layout, self.executor)
            scheduled = scheduled.for_samples(samples)
        writes = -1
        if self._counts_writes or self._made is None:
            writes = writes_to(samples.values())
            self._counts_writes = writes >= 0
        plan = Plan(
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
        if sigma_map is not None:
            plan.noise = mapped(plan.noise, structure, sigma_map, samples, self.settings.prediction_type)
        return plan

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

    def _give_up(self, plan: Plan | None, error: BaseException) -> None:
        """End a step that failed, in whichever part: raise what all ranks raise, if that is not `error` itself."""
        shared = self.executor.report(error, self.identity, plan)
        if plan is not None:
            plan.reported = (error, shared)
        if shared is not error:
            raise shared from error
