"""What a hook gets to know about the step it is called for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar, overload

import attrs
import torch
from torch import Tensor

from guidance_core.algebra.arithmetic import accumulation_dtype, evaluate
from guidance_core.algebra.spaces import Noise, PredictionType, affine, check_space
from guidance_core.algebra.statistics import Inner, Norm, Over, Statistic, Std
from guidance_core.errors import PluginError
from guidance_core.methods.moment import Moment, States
from guidance_core.methods.noise import noise_like
from guidance_core.methods.resolving import lacks, named, placed, resolved
from guidance_core.methods.tracked import Tracked
from guidance_core.parameters.fields import Scale, check_number
from guidance_core.parameters.schedules import Schedule, Window
from guidance_core.parameters.values import PerOutput, is_neutral

T = TypeVar("T")

_STD, _NORM, _INNER = Std(), Norm(), Inner()


@attrs.frozen(eq=False)
class Question:
    """What a plugin asked about where a step stands."""

    plugin: str
    of: str
    "Name of the property or method of `Step`."
    argument: Any = None
    output: str | None = None
    "The output it asked about, with `Step.at`."

    def is_like(self, other: Question) -> bool:
        """Whether both ask for the same, perhaps with other arguments."""
        return (self.plugin, self.of, self.output) == (other.plugin, other.of, other.output)

    def answered_at(self, moment: Moment, plugins: Mapping[str, object]) -> Any:
        """Return what it would be told at a step."""
        asked = getattr(Step(moment, self.plugin, plugins[self.plugin], {}, self.output), self.of)
        return asked(self.argument) if callable(asked) else asked


Answers: TypeAlias = list[tuple[Question, Any]]
"What plugins asked about a step, in order, and what they were told."


class Step:
    """One evaluation of a run, as the hooks of a plugin get it.

    In `build_branches` it is for all outputs, and `output` is None. In `combine` and `postprocess` it is for one
    output.
    """

    __slots__ = (
        "_answers",
        "_is_over",
        "_level",
        "_like",
        "_moment",
        "_name",
        "_plugin",
        "_sample",
        "_states",
        "_touched",
        "_tracked",
        "_whole",
        "output",
    )

    def __init__(
        self,
        moment: Moment,
        name: str,
        plugin: object,
        states: States,
        output: str | None = None,
        sample: Tensor | None = None,
        answers: Answers | None = None,
        noise: Noise | None = None,
        tracked: Tracked | None = None,
        like: Tensor | None = None,
    ) -> None:
        self._answers = answers
        self._level = noise
        self._like = like
        self._tracked = tracked
        self._is_over = False
        self._moment = moment
        self._name = name
        self._plugin = plugin
        self._sample = sample if tracked is None else tracked.sample
        self._states = states
        self._touched = False
        self._whole: Step | None = None
        self.output = output
        "Name of the output the hook is called for; `output` where the denoiser returns one tensor."

    @property
    def sample(self) -> Tensor | None:
        """The noisy sample of this output, `[B, ...]`, in the accumulation dtype; None in `build_branches`.

        Samples of whole numbers, with predictions that cannot be converted, stay as they are.
        """
        given = self._sample
        if (
            given is not None
            and given.is_floating_point()
            and given.dtype is not (working := accumulation_dtype(given))
        ):
            given = self._sample = given.to(working)
        return given

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
        """How many times this step was evaluated before: 1 in the second evaluation of Heun's method."""
        return self._told("evaluation", self._moment.evaluation)

    @property
    def sigma(self) -> float:
        """Noise level of the evaluation (in `build_branches`: of the first output)."""
        return self._told("sigma", self._noise.sigma)

    @property
    def alpha(self) -> float:
        """Signal level of the evaluation: the sample is `alpha·x0 + sigma·ε`.

        Raises:
            ConfigurationError: the host did not give alphas, and the prediction type does not imply them.
        """
        return self._told("alpha", self._noise.signal(self.prediction_type))

    @property
    def next_sigma(self) -> float:
        """The noise level after this step in the run's schedule: that of the next step, or the final one."""
        return self._told("next_sigma", self._next_noise.sigma)

    @property
    def next_alpha(self) -> float:
        """The signal level after this step in the run's schedule.

        Raises:
            ConfigurationError: as in `alpha`.
        """
        return self._told("next_alpha", self._next_noise.signal(self.prediction_type))

    def at(self, output: str) -> Step:
        """Return the step as it is for one output, with its noise levels and values; for `build_branches`.

        For example, a strength may depend on the noise level of each output:
        `PerOutput({output: 1 / step.at(output).sigma for output in step.outputs})`.

        Raises:
            PluginError: the output does not exist, or the hook is already called for one output.
        """
        if self.output is not None or output not in self.outputs:
            raise PluginError(
                f"plugin {self._name!r} asks for the step of output {output!r}. "
                + (
                    f"Its hook is called for output {self.output!r}; ask in build_branches."
                    if self.output is not None
                    else f"The outputs are {', '.join(self.outputs)}."
                )
            )
        step = Step(self._moment, self._name, self._plugin, self._states, output, answers=self._answers)
        step._whole = self
        return step

    @property
    def _noise(self) -> Noise:
        return self._level or self._moment.noise[self.output or self.outputs[0]]

    @property
    def _next_noise(self) -> Noise:
        return self._moment.next_noise(self.output or self.outputs[0])

    def convert(self, tensor: Tensor, source: PredictionType, target: PredictionType) -> Tensor:
        """Convert a prediction of this output from one space to another; for `combine` and `postprocess`.

        Args:
            tensor: `[B, ...]`, like the sample.
            source: its prediction type: `epsilon`, `v`, `x0` or `flow`.
            target: the prediction type to return.

        Returns:
            The converted prediction, in the accumulation dtype; `tensor` itself if there is nothing to do.

        Raises:
            ConfigurationError: the space does not exist, or cannot be reached at this noise level.
            PluginError: it was called in `build_branches`, where there is no sample.
        """
        check_space("source", source)
        check_space("target", target)
        if self._sample is None:
            raise PluginError(
                f"plugin {self._name!r} converts a prediction in build_branches, before there are any "
                "predictions. Convert in combine or postprocess."
            )
        return evaluate([(tensor, 1.0)], self._sample, affine(source, target, self._noise))

    @property
    def fraction(self) -> float:
        """The fraction of the steps that are done, `index / count`."""
        return self._told("fraction", self._moment.index / self._moment.run.count)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all outputs."""
        return self._moment.run.outputs

    @property
    def prediction_type(self) -> PredictionType:
        """The host's prediction type."""
        return self._moment.run.prediction_type

    @property
    def conditions(self) -> frozenset[str]:
        """Names of the conditions the host gave."""
        return self._moment.run.conditions

    @property
    def model(self) -> str | None:
        """The model that the host runs in this step, if it passes `model=`."""
        return self._told("model", self._moment.model)

    @property
    def blocks(self) -> Mapping[str, int] | None:
        """The number of blocks of the host's model, by list of blocks; None if the host does not declare it.

        A model with one list has the key `blocks`. The host declares it with `start(supports=Capabilities(blocks=28))`.
        """
        return self._moment.run.blocks

    def measure(self, statistic: Statistic, *tensors: Tensor) -> Tensor:
        """Return a statistic of tensors of the shape of this output's prediction; for `combine` and `postprocess`.

        If the host's tensors are pieces of a prediction, on several ranks, it is the statistic of the whole.

        Args:
            statistic: such as `Std()`, `Norm("token")`, `Inner()` (of two tensors) or `Quantile(q=0.99)`.
            tensors: `[B, ...]`, all of the same shape.

        Returns:
            The statistic, in the dtype of the tensors, with the dimensions kept.

        Raises:
            ConfigurationError: the statistic does not fit the tensors.
        """
        shards = self._moment.run.shards
        piece = None if shards is None or self.output is None else shards.of(self.output)
        return statistic(*tensors) if piece is None else piece.measure(statistic, tensors, f"plugin {self._name!r}")

    def std(self, x: Tensor, over: Over = "sample") -> Tensor:
        """Return the standard deviation of `x`, as `measure(Std(over), x)`."""
        return self.measure(_STD if over == "sample" else Std(over), x)

    def norm(self, x: Tensor, over: Over = "sample") -> Tensor:
        """Return the Euclidean norm of `x`, as `measure(Norm(over), x)`."""
        return self.measure(_NORM if over == "sample" else Norm(over), x)

    def inner(self, x: Tensor, y: Tensor, over: Over = "sample") -> Tensor:
        """Return the inner product of two tensors, as `measure(Inner(over), x, y)`."""
        return self.measure(_INNER if over == "sample" else Inner(over), x, y)

    def gradient(self, loss: Tensor) -> Tensor:
        """Return the gradient of a loss by this output's sample; for `combine` with `Needs(gradient=True)`.

        Args:
            loss: a number, or one for each sample; these are added up. Compute it from `predictions["cond"]`, in the
                space that the plugin works in, and perhaps from `step.sample`.

        Returns:
            The gradient, `[B, ...]`, in the accumulation dtype.

        Raises:
            PluginError: the plugin did not ask for gradients, or the loss does not depend on the sample.
        """
        if self._tracked is None:
            raise PluginError(
                f"plugin {self._name!r} wants a gradient that it did not ask for: return Needs(gradient=True), and "
                "ask in combine."
            )
        made = None
        if loss.requires_grad:
            (made,) = torch.autograd.grad(loss.sum(), [self._tracked.edge], retain_graph=True, allow_unused=True)
        if made is None:
            raise PluginError(
                f"plugin {self._name!r}: its loss does not depend on the sample through predictions['cond']. The "
                "denoiser must use the sample that the step was given, the same tensor, and not a copy."
            )
        gradient: Tensor = made.to(accumulation_dtype(made))
        return gradient

    def noise_like(self, tensor: Tensor, purpose: str) -> Tensor:
        """Return standard normal noise with the shape, dtype and device of `tensor`; the only source for plugins.

        The noise is the same on every rank, device and executor. It differs between steps, but not between evaluations
        of one step. If the first dimension of `tensor` is the batch, each row depends only on the seed of its sample; a
        tensor that samples share has noise of the first seed.

        Args:
            tensor: floating point.
            purpose: a name that distinguishes several draws of one step.

        Raises:
            PluginError: `tensor` is not a floating-point tensor.
        """
        index = self._told("index", self._moment.index)
        sample = self._sample
        samples = None if sample is None else sample.shape[0]
        key = (index, self._name, self.output, purpose)
        piece = None if self.output is None else self._moment.run.piece(self.output)
        if (
            piece is not None
            and sample is not None
            and tensor.ndim == sample.ndim
            and tensor.shape[piece.dim] == sample.shape[piece.dim]
        ):
            whole = tensor.new_empty(piece.whole_shape(tensor.shape))
            return piece.own(noise_like(whole, self._moment.run.seeds, samples, key, f"plugin {self._name!r}"))
        return noise_like(tensor, self._moment.run.seeds, samples, key, f"plugin {self._name!r}")

    @property
    def name(self) -> str:
        """Name of the plugin itself in its stack."""
        return self._name

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
        """The state of this plugin in this run for this output (in `build_branches`: for all).

        Assign new values; do not change stored tensors in place. Changes last only if the whole step succeeds. A
        `build_branches` that reads it is called again in every step.
        """
        return self._kept_for(self.output)

    @property
    def shared(self) -> dict[str, Any]:
        """The state of this plugin in this run for all outputs, where `build_branches` may leave values for hooks."""
        return self._kept_for(None)

    def _kept_for(self, output: str | None) -> dict[str, Any]:
        self._touched = True
        if self._whole is not None:
            self._whole._touched = True
        return self._states.setdefault(self._name, {}).setdefault(output, {})

    def _told(self, question: str, told: T, argument: Any = None) -> T:
        """Return what the plugin is told about where the step stands; note it where somebody wants to know."""
        if self._is_over or (self._whole is not None and self._whole._is_over):
            raise PluginError(
                f"plugin {self._name!r} asks its step for {question} after build_branches has returned. Ask inside it, "
                "and put the answer into what it returns: steps with the same answers share their branches."
            )
        if self._answers is not None:
            self._answers.append((Question(self._name, question, argument, self.output), told))
        return told

    def end(self) -> None:
        """Refuse further questions about the step, whose answers would come too late."""
        self._is_over = True

    @property
    def looked_at_state(self) -> bool:
        """Whether `state` or `shared` was used, so that an answer is valid for this evaluation only."""
        return self._touched

    @overload
    def value(self, parameter: Scale) -> float | Tensor: ...

    @overload
    def value(self, parameter: Any) -> Any: ...

    def value(self, parameter: Any) -> Any:
        """Return the parameter's value at this step.

        Schedules are resolved. In hooks for one output, so are values per output, and a tensor is on the sample's
        device, in the accumulation dtype, with trailing dimensions added so that it broadcasts. In `build_branches` the
        result may be a number, a tensor or a `PerOutput`, which supports the arithmetic of a number; its declared type
        does not show this.

        Raises:
            ConfigurationError: no value for an output, a value that is not a finite number, or a tensor
                that does not broadcast to the sample.
        """
        if type(parameter) is float:
            if parameter - parameter != 0.0:
                check_number(named(self._plugin, parameter), parameter)
            return parameter
        if self._whole is not None:
            return self._told("value", self._at_step(parameter, self.output), parameter)
        if self.output is not None:
            return self._placed(self._at_step(parameter, self.output))
        if isinstance(parameter, PerOutput):
            missing = set(self.outputs) - set(parameter)
            if missing:
                raise lacks(self._plugin, parameter, sorted(missing), self.outputs)
            value: Any = PerOutput({output: self._at_step(parameter, output) for output in self.outputs})
            depends = any(isinstance(each, Schedule) for each in parameter.values())
            return self._told("value", value, parameter) if depends else value
        if not isinstance(parameter, Schedule):
            return self._at_step(parameter, None)
        if self._moment.is_one_for_all:
            value = self._at_step(parameter, None)
        else:
            value = PerOutput({output: self._at_step(parameter, output) for output in self.outputs})
        return self._told("value", value, parameter)

    def active(self, parameter: Any, neutral: float = 0.0) -> tuple[str, ...]:
        """Return the outputs for which `parameter` is not neutral at this step; for `build_branches`.

        A method that looks at predictions asks for its branches only if this is not empty, and has its hooks called
            only for these outputs: `Needs(outputs=step.active(self.scale, neutral=1.0))`.

        Raises:
            ConfigurationError: as in `value`.
        """
        value = self.value(parameter)
        each = value if isinstance(value, PerOutput) else dict.fromkeys(self.outputs, value)
        missing = set(self.outputs) - set(each)
        if missing:
            raise lacks(self._plugin, value, sorted(missing), self.outputs)
        return tuple(output for output in self.outputs if not is_neutral(each[output], neutral))

    def inside(self, window: Window) -> tuple[str, ...]:
        """Return the outputs for which this step lies in `window`: all or none, unless their sigmas differ."""
        inside = tuple(output for output in self.outputs if window.contains(self._moment.position(output)))
        return self._told("inside", inside, window)

    def next_inside(self, window: Window) -> tuple[str, ...]:
        """Return the outputs for which the next step lies in `window`; none at the last step."""
        ahead = ((output, self._moment.next_position(output)) for output in self.outputs)
        inside = tuple(output for output, at in ahead if at is not None and window.contains(at))
        return self._told("next_inside", inside, window)

    def _at_step(self, parameter: Any, output: str | None) -> Any:
        return resolved(self._plugin, parameter, self.outputs, output, self._moment.position)

    def _placed(self, value: Any) -> Any:
        like = self._sample if self._like is None else self._like
        if not isinstance(value, Tensor) or like is None:
            return value
        return placed(value, like, named(self._plugin, value))
