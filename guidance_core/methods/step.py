"""What a hook gets to know about the step it is called for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

import attrs
import torch
from torch import Tensor

from guidance_core.algebra.spaces import Noise
from guidance_core.errors import ConfigurationError, PluginError
from guidance_core.parameters.fields import check_number
from guidance_core.parameters.schedules import Position, Schedule, Window
from guidance_core.parameters.values import PerOutput, TensorValue, is_neutral

T = TypeVar("T")

States: TypeAlias = dict[str, dict[str | None, dict[str, Any]]]
"What plugins keep in a run: by plugin, then by output (None: of the whole step)."


def copied(state: States) -> States:
    """Return a copy with dicts of its own and the same values."""
    return {name: {output: dict(kept) for output, kept in states.items()} for name, states in state.items()}


@attrs.frozen(eq=False)
class RunFacts:
    """What is the same for all steps of a run."""

    run_id: int
    count: int
    sigmas: Mapping[str, tuple[float, ...]]
    "Noise levels by output: one per step, and the final one."
    prediction_type: str
    conditions: frozenset[str]
    plugins: tuple[str, ...]
    outputs: tuple[str, ...] = attrs.field(init=False)

    @outputs.default
    def _default_outputs(self) -> tuple[str, ...]:
        return tuple(self.sigmas)


@attrs.frozen(eq=False)
class Moment:
    """Where a step stands, for all plugins alike."""

    run: RunFacts
    index: int
    evaluation: int
    noise: Mapping[str, Noise]
    "By output."
    model: str | None

    def position(self, output: str) -> Position:
        """Return where the evaluation stands for one output."""
        return Position(self.index, self.run.count, self.noise[output].sigma, self.run.sigmas[output][0])

    def next_position(self, output: str) -> Position | None:
        """Return where the next step stands; None at the last."""
        sigmas, following = self.run.sigmas[output], self.index + 1
        return Position(following, self.run.count, sigmas[following], sigmas[0]) if following < self.run.count else None

    @property
    def is_one_for_all(self) -> bool:
        """Whether all outputs stand at the same place."""
        first = self.run.outputs[0]
        return all(
            self.noise[name].sigma == self.noise[first].sigma and self.run.sigmas[name][0] == self.run.sigmas[first][0]
            for name in self.run.outputs[1:]
        )


@attrs.frozen(eq=False)
class Question:
    """What a plugin asked about where a step stands."""

    plugin: str
    of: str
    "Name of the property or method of `Step`."
    argument: Any = None

    def answered_at(self, moment: Moment, plugins: Mapping[str, object]) -> Any:
        """Return what it would be told at a step."""
        asked = getattr(Step(moment, self.plugin, plugins[self.plugin], {}), self.of)
        return asked(self.argument) if callable(asked) else asked


Answers: TypeAlias = list[tuple[Question, Any]]
"What plugins asked about a step, in order, and what they were told."


class Step:
    """One evaluation in a run, as a plugin's hook sees it.

    In `build_branches` it stands for all outputs, and `output` is None; in `combine` and
    `postprocess` for one of them.
    """

    __slots__ = ("_answers", "_is_over", "_moment", "_name", "_plugin", "_states", "_touched", "output", "sample")

    def __init__(
        self,
        moment: Moment,
        name: str,
        plugin: object,
        states: States,
        output: str | None = None,
        sample: Tensor | None = None,
        answers: Answers | None = None,
    ) -> None:
        self._answers = answers
        self._is_over = False
        self._moment = moment
        self._name = name
        self._plugin = plugin
        self._states = states
        self._touched = False
        self.output = output
        "Name of the output the hook is called for; `output` where the denoiser returns one tensor."
        self.sample = sample
        "The noisy sample of this output, `[B, ...]`, in its own dtype; None in `build_branches`."

    @property
    def index(self) -> int:
        """Index of the step, from 0."""
        return self._told("index", self._moment.index)

    @property
    def count(self) -> int:
        """Number of steps of the run."""
        return self._moment.run.count

    @property
    def evaluation(self) -> int:
        """How often this step was evaluated before: 1 in the second pass of Heun's method."""
        return self._told("evaluation", self._moment.evaluation)

    @property
    def sigma(self) -> float:
        """Noise level of the evaluation (in `build_branches`: of the first output)."""
        return self._told("sigma", self._moment.noise[self.output or self.outputs[0]].sigma)

    @property
    def fraction(self) -> float:
        """The fraction of the steps that is done, `index / count`."""
        return self._told("fraction", self._moment.index / self._moment.run.count)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all outputs."""
        return self._moment.run.outputs

    @property
    def prediction_type(self) -> str:
        """The host's prediction type."""
        return self._moment.run.prediction_type

    @property
    def conditions(self) -> frozenset[str]:
        """Names of the conditions the host gave."""
        return self._moment.run.conditions

    @property
    def model(self) -> str | None:
        """The model the host runs at this step, where it has several and says so."""
        return self._told("model", self._moment.model)

    @property
    def plugins(self) -> tuple[str, ...]:
        """Names of all plugins of the stack, in order; a second `cfg` is named `cfg#2`."""
        return self._moment.run.plugins

    @property
    def run_id(self) -> int:
        """Number of the run, unique in the process."""
        return self._moment.run.run_id

    @property
    def state(self) -> dict[str, Any]:
        """What this plugin keeps in this run for this output (in `build_branches`: for all).

        Put new values in; do not change stored tensors in place. Changes last only if the whole
        step succeeds. A `build_branches` that looks here is called anew at every step.
        """
        return self._kept_for(self.output)

    @property
    def shared(self) -> dict[str, Any]:
        """What this plugin keeps in this run for all outputs: where `build_branches` leaves word."""
        return self._kept_for(None)

    def _kept_for(self, output: str | None) -> dict[str, Any]:
        self._touched = True
        return self._states.setdefault(self._name, {}).setdefault(output, {})

    def _told(self, question: str, told: T, argument: Any = None) -> T:
        """Return what the plugin is told about where the step stands; note it where somebody wants to know."""
        if self._is_over:
            raise PluginError(
                f"plugin {self._name!r} asks its step for {question} after build_branches has returned. Ask inside it, "
                "and put the answer into what it returns: steps with the same answers share their branches."
            )
        if self._answers is not None:
            self._answers.append((Question(self._name, question, argument), told))
        return told

    def end(self) -> None:
        """Answer no more questions about where the step stands: nobody would see them."""
        self._is_over = True

    @property
    def looked_at_state(self) -> bool:
        """Whether `state` or `shared` was used, so that an answer holds for this moment only."""
        return self._touched

    def value(self, parameter: Any) -> Any:
        """Return the parameter's value at this step.

        Schedules are resolved. With an output, so are values per output, and a tensor comes on the
        sample's device, in the accumulation dtype, with trailing dimensions added so that it
        broadcasts. In `build_branches` the result may be a number, a tensor or a `PerOutput`.

        Raises:
            ConfigurationError: no value for an output, a value that is no finite number, or a tensor
                that does not broadcast to the sample.
        """
        if type(parameter) is float:
            if parameter - parameter != 0.0:
                check_number(self._named(parameter), parameter)
            return parameter
        if self.output is not None:
            return self._placed(self._resolved(parameter, self.output))
        if isinstance(parameter, PerOutput):
            missing = set(self.outputs) - set(parameter)
            if missing:
                raise self._lacks(parameter, sorted(missing))
            value: Any = PerOutput({output: self._resolved(parameter, output) for output in self.outputs})
            depends = any(isinstance(each, Schedule) for each in parameter.values())
            return self._told("value", value, parameter) if depends else value
        if not isinstance(parameter, Schedule):
            return self._resolved(parameter, None)
        if self._moment.is_one_for_all:
            value = self._resolved(parameter, None)
        else:
            value = PerOutput({output: self._resolved(parameter, output) for output in self.outputs})
        return self._told("value", value, parameter)

    def active(self, parameter: Any, neutral: float = 0.0) -> tuple[str, ...]:
        """Return the outputs for which `parameter` is not neutral at this step; for `build_branches`.

        A method that looks at predictions asks for its branches only where this is not empty, and for its
        hooks to be called for these outputs: `Needs(outputs=step.active(self.scale, neutral=1.0))`.

        Raises:
            ConfigurationError: as `value` does.
        """
        value = self.value(parameter)
        each = value if isinstance(value, PerOutput) else dict.fromkeys(self.outputs, value)
        missing = set(self.outputs) - set(each)
        if missing:
            raise self._lacks(value, sorted(missing))
        return tuple(output for output in self.outputs if not is_neutral(each[output], neutral))

    def inside(self, window: Window) -> tuple[str, ...]:
        """Return the outputs for which this step lies in `window`: all or none, unless sigmas differ."""
        inside = tuple(output for output in self.outputs if window.contains(self._moment.position(output)))
        return self._told("inside", inside, window)

    def next_inside(self, window: Window) -> tuple[str, ...]:
        """Return the outputs for which the next step lies in `window`; none at the last step."""
        ahead = ((output, self._moment.next_position(output)) for output in self.outputs)
        inside = tuple(output for output, at in ahead if at is not None and window.contains(at))
        return self._told("next_inside", inside, window)

    def _resolved(self, parameter: Any, output: str | None) -> Any:
        original = parameter
        if isinstance(parameter, PerOutput):
            if output is None or output not in parameter:
                raise self._lacks(parameter, [output or "?"])
            parameter = parameter[output]
        if isinstance(parameter, Schedule):
            parameter = parameter.at(self._moment.position(output or self.outputs[0]))
            if isinstance(parameter, PerOutput) and output is not None:  # a table of values per output
                return self._resolved(parameter, output)
        if isinstance(parameter, TensorValue):
            return parameter.tensor
        if isinstance(parameter, Tensor):
            return TensorValue(parameter).tensor
        if isinstance(parameter, tuple):
            return parameter
        check_number(self._named(original), parameter)
        return parameter

    def _placed(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or self.sample is None:
            return value
        return placed(value, self.sample, self._named(value))

    def _named(self, value: Any) -> str:
        """Name the parameter that holds `value`, for errors."""
        cls: Any = type(self._plugin)
        owner = cls.__name__
        fields = attrs.fields(cls) if attrs.has(cls) else ()
        for field in fields:
            held = getattr(self._plugin, field.name)
            if held is value or (isinstance(held, TensorValue) and held.tensor is value):
                return f"{owner}: {field.name}"
        return f"{owner}: a parameter"

    def _lacks(self, parameter: Any, missing: list[str]) -> ConfigurationError:
        return ConfigurationError(
            f"{self._named(parameter)} has values for {', '.join(parameter) or 'no output'}, but none for "
            f"{', '.join(missing)}; the run's outputs are {', '.join(self.outputs)}. Give each a value, and name "
            'the outputs of a model that returns several with start(outputs=("video", "audio")).'
        )


def placed(value: Tensor, sample: Tensor, what: str) -> Tensor:
    """Return a tensor parameter ready to be multiplied with a prediction shaped like `sample`.

    Dimensions are aligned from the batch on: `[B]` becomes `[B, 1, ...]`.

    Raises:
        ConfigurationError: it does not broadcast to the sample's shape.
    """
    fits = value.ndim <= sample.ndim and all(
        size in (1, full) for size, full in zip(value.shape, sample.shape, strict=False)
    )
    if not fits:
        raise ConfigurationError(
            f"{what} has shape {tuple(value.shape)}, which does not broadcast to the sample's "
            f"{tuple(sample.shape)}; dimensions are aligned from the batch on, so one value per sample is "
            f"[{sample.shape[0]}]."
        )
    dtype = torch.float64 if sample.dtype == torch.float64 else torch.float32
    return value.to(sample.device, dtype, non_blocking=True).view(*value.shape, *(1,) * (sample.ndim - value.ndim))
