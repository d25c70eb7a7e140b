"""Guidance: a stack of methods, from which runs are started."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, overload

import torch

from guidance_core.algebra.spaces import PredictionType, check_sigma
from guidance_core.algebra.tracing import untraced
from guidance_core.config import tables
from guidance_core.config.spec import format_spec, parse_spec
from guidance_core.describe import Description, describe_run
from guidance_core.discovery import executor_class
from guidance_core.errors import ConfigurationError, GuidanceError, SpecError, UnknownNameError, brief, told
from guidance_core.executors.base import Executor, check_differentiable
from guidance_core.executors.placement import place_branches
from guidance_core.executors.serial import SerialExecutor
from guidance_core.methods.capabilities import Supports
from guidance_core.methods.noise import Seeds
from guidance_core.methods.split import Split
from guidance_core.methods.stack import Stack
from guidance_core.parameters.values import by_name
from guidance_core.recipes import Chosen, recipe_named, recipe_names
from guidance_core.recipes.added import check_added
from guidance_core.run import Run
from guidance_core.steps.doubtful import warn_of_timesteps, warn_of_windows
from guidance_core.steps.program import Program
from guidance_core.steps.settings import RunSettings
from guidance_core.steps.starting import (
    MOST_STEPS,
    checked_alphas,
    checked_call,
    checked_conditions,
    checked_count,
    checked_flag,
    checked_outputs,
    checked_shards,
    checked_sigmas,
    checked_supports,
    checked_trace,
    checked_type,
    checked_word,
)
from guidance_core.trace import StepTrace

Sigmas = Sequence[float] | torch.Tensor
"Noise levels: one per step and the final one."

MOST_RANKS = 10_000
"For which `describe` places passes."


class RecipeOf:
    """`guidance.recipe` is what a stack was made from; `Guidance.recipe(name, **parameters)` makes one."""

    @overload
    def __get__(self, guidance: None, owner: type[Guidance]) -> Callable[..., Guidance]: ...

    @overload
    def __get__(self, guidance: Guidance, owner: type[Guidance]) -> Chosen | None: ...

    def __get__(self, guidance: Guidance | None, owner: type[Guidance]) -> Any:
        """Return the one or the other."""
        return owner._from_recipe if guidance is None else guidance._chosen


class Guidance:
    """A stack of guidance methods. It is immutable and may be shared by any number of runs."""

    def __init__(self, plugins: Sequence[Any] = ()) -> None:
        """Stack plugin instances in the order in which their corrections apply; an empty stack does not guide.

        Raises:
            ConfigurationError: an entry is not a frozen attrs instance with hooks, or two exclude each other.
        """
        if isinstance(plugins, str) or not isinstance(plugins, Sequence):
            hint = f"; use Guidance.from_spec({brief(plugins)})" if isinstance(plugins, str) else ""
            raise ConfigurationError(f"Guidance takes a list of plugins; got {type(plugins).__name__}{hint}.")
        self._stack = Stack.of(plugins)
        self._chosen: Chosen | None = None

    recipe = RecipeOf()
    """The recipe that the stack was made from, with its parameters and what it needs of a run; None if there is none.

    `Guidance.recipe(name, **parameters)` makes a stack from one.
    """

    @property
    def plugins(self) -> tuple[Any, ...]:
        """The plugins, in order."""
        return tuple(self._stack.plugins.values())

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that parameters have values for, such as `video` and `audio`; empty if no parameter names any."""
        return self._stack.named_outputs()

    def __eq__(self, other: object) -> bool:
        """Compare the recipe, and the plugins with their parameters."""
        return isinstance(other, Guidance) and self.plugins == other.plugins and self._chosen == other._chosen

    def __hash__(self) -> int:
        """Agree with equality."""
        return hash(self.plugins)

    def __repr__(self) -> str:
        """Return the call that makes it."""
        if self._chosen is not None:
            with contextlib.suppress(SpecError):
                return f"Guidance.from_spec({self.to_spec()!r})"
        return f"Guidance([{', '.join(map(repr, self.plugins))}])"

    @classmethod
    def from_spec(cls, spec: str) -> Guidance:
        """Build a stack from its one-line form, such as `cfg:scale=3,rescale:phi=0.7`.

        Raises:
            SpecError: the text is not a spec.
            UnknownNameError: a plugin or parameter does not exist; the error suggests the nearest name.
            ConfigurationError: a value is not allowed.
        """
        return cls.from_dict(parse_spec(spec))

    @classmethod
    @untraced
    def from_dict(cls, data: Any) -> Guidance:
        """Build a stack from plain data: `{"guidance": [{"plugin": "cfg", "scale": 3}]}`.

        Raises:
            SpecError: the data does not have this form, or a recipe does not come first.
            UnknownNameError: a plugin, recipe or parameter does not exist.
            ConfigurationError: a value is not allowed, or two methods exclude each other.
        """
        listed = tables.tables_of(data)
        chosen = None
        if listed and isinstance(listed[0], Mapping) and "recipe" in listed[0]:
            parameters = {name: value for name, value in by_name(listed[0]).items() if name != "recipe"}
            chosen = recipe_named(listed[0]["recipe"]).choose(parameters)
        elif any(isinstance(table, Mapping) and "recipe" in table for table in listed):
            raise SpecError("a recipe comes first, before the methods that are added to it; a stack has at most one.")
        return cls._with(chosen, listed[chosen is not None :])

    @classmethod
    @untraced
    def _from_recipe(cls, name: str, /, **parameters: Any) -> Guidance:
        """Build the stack of a model's recipe, such as `Guidance.recipe("qwen-image", true_cfg_scale=4)`.

        Args:
            name: the name of the recipe.
            parameters: its parameters, under the model's own names. Those not given have the model's defaults.

        Raises:
            UnknownNameError: the recipe or a parameter does not exist; the error suggests the nearest name.
            ConfigurationError: a value is not allowed, has no effect, or contradicts another.
        """
        return cls._with(recipe_named(name).choose(parameters), ())

    def expanded(self) -> Guidance:
        """Return the same stack of methods without the recipe that it was made from."""
        return Guidance(self.plugins)

    def with_parameters(self, **parameters: Any) -> Guidance:
        """Return the stack with other values of the recipe's parameters.

        Raises:
            ConfigurationError: the stack is not made from a recipe, or a value is not allowed.
            UnknownNameError: the recipe has no such parameter.
        """
        if self._chosen is None:
            raise ConfigurationError(
                "with_parameters changes the parameters of a recipe, but this stack is not made from a recipe."
            )
        if "recipe" in parameters:
            raise UnknownNameError(f"the recipe {self._chosen.name!r} has no parameter 'recipe'.")
        first, *others = self.to_dict()[tables.TABLE]
        return self.from_dict([{**first, **parameters}, *others])

    @classmethod
    def _with(cls, chosen: Chosen | None, others: Sequence[Any]) -> Guidance:
        """Return the stack of a recipe, if there is one, and of further tables."""
        if any(isinstance(table, Mapping) and "recipe" in table for table in others):
            raise SpecError("a stack has at most one recipe, which comes first.")
        loaded = [] if chosen is None else chosen.plugins()
        try:
            added = tables.load_plugins(others)
        except UnknownNameError as error:
            names = [str(table.get("plugin", "")).lower() for table in others if isinstance(table, Mapping)]
            meant = next((name for name in names if name in recipe_names()), None)
            if meant is None:
                raise
            raise UnknownNameError(f"{meant!r} is the name of a recipe, not of a method: write @{meant}.") from error
        if chosen is not None:
            check_added(chosen, [plugin for plugin, _ in loaded], [plugin for plugin, _ in added])
        loaded += added
        guidance = cls([plugin for plugin, _ in loaded])
        guidance._stack = Stack.of(guidance.plugins, [given for _, given in loaded])
        guidance._chosen = chosen
        return guidance

    @classmethod
    def from_json(cls, text: str) -> Guidance:
        """Build a stack from JSON text with the form of `from_dict`."""
        return cls.from_dict(tables.from_json(text))

    @classmethod
    def from_toml(cls, text: str) -> Guidance:
        """Build a stack from TOML text: one `[[guidance]]` table per plugin."""
        return cls.from_dict(tables.from_toml(text))

    def to_dict(self) -> dict[str, list[dict[str, Any]]]:
        """Return plain data that `from_dict` turns into an equal stack, as the other written forms do.

        Raises:
            SpecError: a plugin is not published under an entry point, or a value cannot be written.
        """
        if self._chosen is None:
            return tables.dump_plugins(self.plugins)
        others = tables.dump_plugins(self.plugins[len(self._chosen.stack()) :])[tables.TABLE]
        return {tables.TABLE: [self._chosen.to_dict(), *others]}

    def to_spec(self) -> str:
        """Return the one-line form."""
        return format_spec(self.to_dict())

    def to_json(self) -> str:
        """Return JSON text."""
        return tables.to_json(self.to_dict())

    def to_toml(self) -> str:
        """Return TOML text."""
        return tables.to_toml(self.to_dict())

    @untraced
    def start(
        self,
        *,
        conditions: Mapping[str, Any],
        sigmas: Sigmas | Mapping[str, Sigmas],
        prediction_type: PredictionType,
        alphas: Sigmas | float | None = None,
        outputs: Sequence[str] | None = None,
        executor: str | Executor = "serial",
        check_finite: bool = False,
        may_rise: bool = False,
        seeds: int | Sequence[int] | torch.Tensor | None = None,
        supports: Supports | None = None,
        shards: Split | None = None,
        check_inputs: Literal["first", "always", "never"] = "first",
        given: Callable[[], Mapping[str, Any]] | None = None,
        trace: Callable[[StepTrace], object] | None = None,
    ) -> Run:
        """Start a run: one generation, which owns all state.

        Args:
            conditions: a dict of model inputs for each condition, at least for `positive`. None means that a condition
                is not given.
            sigmas: noise levels in order, one per step and the final one; a dict by output if they differ. With flow
                predictions they lie in [0, 1].
            prediction_type: what the denoiser returns: `epsilon`, `v`, `x0` or `flow`. Use `other` for predictions that
                cannot be converted, such as logits; in one process their shape may differ from the sample's.
            alphas: signal levels, one per step (a final one is ignored), or one for all steps (1.0 if the sample is x0
                + sigma * noise). They are needed if a method works in a space other than the denoiser's and the
                prediction type does not imply them.
            outputs: names of the outputs, for a denoiser that returns a tuple.
            executor: what runs the branches: a name, or an executor.
            check_finite: raise an error if a prediction or a result holds NaN or infinity. This reads every one of
                them.
            may_rise: whether sigmas may rise again, as in samplers that go back in noise (Restart, RePaint, time
                travel).
            seeds: seeds of the methods that draw noise: one for each sample, or a single one from which those of the
                samples are derived. If not given, they are drawn at random; `run.seeds` returns them. Torch's own
                generators are not used.
            supports: a function that returns None, or the reason why the model cannot run a pass. It is called once for
                each distinct pass. `Capabilities` is such a function.
            shards: which outputs are pieces of a sequence, spread over the ranks of another group; see `Shards`.
            check_inputs: in which steps several ranks compare checksums of the sample, and of every condition that more
                than one of them has inputs for: `first` (the run's first step), `always` or `never`.
            given: a function that returns a dict of other values that must be equal on all ranks, by name: numbers,
                text, tensors, and lists and dicts of these. It is called in the run's first step, and only by executors
                of several ranks.
            trace: a function that is called after each step with a record of it, such as `Trace()`, which prints as a
                table. If it raises an exception, `step` raises it too, but the step still counts.

        Raises:
            ConfigurationError: an argument or a parameter cannot be used, a condition is missing, or the executor
                cannot run one of the methods.
            BranchConflictError: two plugins want different passes under one name.
            PluginError: a plugin failed to name its branches.
            PlanMismatchError: the ranks of the executor start different runs.

        Warns:
            TimestepWarning: the sigmas can only be timesteps.
            UnguidedWarning: no step is guided, because a window holds none of them; or one method's own window holds
                none.
        """
        chosen = self.checked_executor(executor)

        def make() -> Run:
            levels_of_outputs = checked_sigmas(sigmas, may_rise=checked_flag("may_rise", may_rise))
            steps = len(next(iter(levels_of_outputs.values()))) - 1
            settings = RunSettings(
                conditions=checked_conditions(conditions),
                sigmas=levels_of_outputs,
                alphas=None if alphas is None else checked_alphas(alphas, steps),
                prediction_type=checked_type(prediction_type),
                outputs=checked_outputs(outputs) or self._outputs_of_recipe(),
                check_finite=checked_flag("check_finite", check_finite),
                check_inputs=checked_word("check_inputs", check_inputs, ("first", "always", "never")),
                seeds=Seeds.of(seeds),
                supports=checked_supports(supports),
                shards=checked_shards(shards, self._stack),
                given=checked_call(given),
                trace=checked_trace(trace),
                recipe=self._chosen,
            )
            for output, levels in settings.sigmas.items():
                what = "sigmas" if output is None else f"sigmas of {output!r}"
                check_sigma(what, max(levels), settings.prediction_type)
            count = settings.count
            if settings.alphas is not None and len(settings.alphas) not in (count, count + 1):
                raise ConfigurationError(
                    f"alphas must have one value for each of {count} steps; got {len(settings.alphas)}."
                )
            warn_of_timesteps(settings)  # first: an error about missing alphas would hide it
            program = Program(self._stack, settings)
            warn_of_windows(self._stack.plugins, program.layouts, settings.sigmas)
            executor = chosen.for_run(program)
            for layout in program.layouts:
                check_differentiable(layout, executor)
            return Run(program, executor)

        return chosen.begin(make)

    def describe(
        self,
        steps: int | None = None,
        *,
        sigmas: Sigmas | None = None,
        outputs: Sequence[str] | None = None,
        ranks: int = 1,
    ) -> Description:
        """Describe what the stack does in a run, without starting one.

        Args:
            steps: number of steps, with sigmas that fall evenly from 1 to 0. The default is 30.
            sigmas: noise levels to use instead.
            outputs: names of the outputs. By default, these are the outputs that parameters name.
            ranks: number of ranks to place the passes on. No process group is needed.
        """
        assumptions = ["every condition is given"]
        if sigmas is None:
            steps = 30 if steps is None else steps
            steps = checked_count("steps", steps, MOST_STEPS)
            sigmas = [1 - number / steps for number in range(steps + 1)]
            assumptions.append(f"{steps} steps, sigmas falling evenly from 1 to 0")
        settings = RunSettings(
            conditions=None,
            sigmas=checked_sigmas(sigmas),
            alphas=None,
            prediction_type=checked_type("flow" if self._chosen is None else self._chosen.prediction_types[0]),
            outputs=checked_outputs(outputs) or self._outputs_of_recipe(),
            check_finite=False,
            recipe=self._chosen,
        )
        program = Program(self._stack, settings)
        ranks = checked_count("ranks", ranks, MOST_RANKS)
        if ranks == 1:
            serial = SerialExecutor()
            return describe_run(
                self._stack, serial.describe(), program.layouts, serial.placed, assumptions, self._chosen
            )
        executor = f"{ranks} ranks, as all_gather and all_reduce place the passes"
        return describe_run(
            self._stack, executor, program.layouts, partial(place_branches, ranks=ranks), assumptions, self._chosen
        )

    def _outputs_of_recipe(self) -> tuple[str, ...] | None:
        """Return the outputs of the recipe's model, where it has several."""
        return None if self._chosen is None else self._chosen.outputs or None

    def checked_executor(self, executor: str | Executor) -> Executor:
        """Return the executor of that name, or the given one, if it can run the stack's methods.

        Raises:
            ConfigurationError: it cannot run them, or is not an executor.
        """
        if isinstance(executor, str):
            executor = _made(executor)
        if not isinstance(executor, Executor):
            raise ConfigurationError(
                f"executor must be a name or an executor such as SerialExecutor(); got {brief(executor)}."
            )
        looking = self._stack.looking
        if looking and not executor.gathers_predictions:
            raise ConfigurationError(
                f"plugin {looking[0]!r} looks at the predictions of its branches, but the executor "
                f"{executor.name!r} only adds them up; use 'serial', 'batched' or 'all_gather'."
            )
        return executor


def _made(executor: str) -> Executor:
    cls = executor_class(executor)
    try:
        made: Executor = cls()
    except GuidanceError:
        raise
    except Exception as error:
        raise ConfigurationError(f"the executor {executor!r} cannot be made: {told(error)}.") from error
    return made
