"""Guidance: a stack of methods, from which runs are started."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, KeysView, Mapping, Sequence
from functools import partial
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal

import torch

from guidance_core.algebra.spaces import OTHER, SPACES, PredictionType, check_sigma, check_space
from guidance_core.algebra.tracing import untraced
from guidance_core.config import tables
from guidance_core.config.spec import format_spec, parse_spec
from guidance_core.describe import Description, describe_run
from guidance_core.discovery import executor_class
from guidance_core.errors import ConfigurationError, GuidanceError, brief, did_you_mean, told
from guidance_core.executors.base import Executor, check_differentiable
from guidance_core.executors.placement import place_branches
from guidance_core.executors.serial import SerialExecutor
from guidance_core.methods.capabilities import Supports
from guidance_core.methods.noise import Seeds
from guidance_core.methods.split import Split
from guidance_core.methods.stack import Stack
from guidance_core.run import Run
from guidance_core.steps.program import Program
from guidance_core.steps.settings import RunSettings
from guidance_core.trace import StepTrace

Sigmas = Sequence[float] | torch.Tensor
"Noise levels: one per step and the final one."

MOST_STEPS = 100_000
MOST_RANKS = 10_000
"For which `describe` places passes."


class Guidance:
    """A stack of guidance methods. It is immutable and may be shared by any number of runs."""

    def __init__(self, plugins: Sequence[Any] = ()) -> None:
        """Stack plugin instances in the order in which their corrections apply; none is no guidance.

        Raises:
            ConfigurationError: an entry is no frozen attrs instance with hooks, or two exclude each other.
        """
        if isinstance(plugins, str) or not isinstance(plugins, Sequence):
            hint = f"; use Guidance.from_spec({brief(plugins)})" if isinstance(plugins, str) else ""
            raise ConfigurationError(f"Guidance takes a list of plugins; got {type(plugins).__name__}{hint}.")
        self._stack = Stack.of(plugins)

    @property
    def plugins(self) -> tuple[Any, ...]:
        """The plugins, in order."""
        return tuple(self._stack.plugins.values())

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that parameters give values for, such as `video` and `audio`; none where all are plain."""
        return self._stack.named_outputs()

    def __eq__(self, other: object) -> bool:
        """Compare the plugins and their parameters."""
        return isinstance(other, Guidance) and self.plugins == other.plugins

    def __hash__(self) -> int:
        """Agree with equality."""
        return hash(self.plugins)

    def __repr__(self) -> str:
        """Return the call that makes it."""
        return f"Guidance([{', '.join(map(repr, self.plugins))}])"

    @classmethod
    def from_spec(cls, spec: str) -> Guidance:
        """Build a stack from its one-line form, such as `cfg:scale=3,rescale:phi=0.7`.

        Raises:
            SpecError: the text has another form.
            UnknownNameError: no such plugin or parameter; the nearest is suggested.
            ConfigurationError: a value is not allowed.
        """
        return cls.from_dict(parse_spec(spec))

    @classmethod
    @untraced
    def from_dict(cls, data: Any) -> Guidance:
        """Build a stack from plain data: `{"guidance": [{"plugin": "cfg", "scale": 3}]}`."""
        loaded = tables.load_plugins(data)
        guidance = cls([plugin for plugin, _ in loaded])
        guidance._stack = Stack.of(guidance.plugins, [given for _, given in loaded])
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
        return tables.dump_plugins(self.plugins)

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
            conditions: model inputs by condition, a dict for each, at least for `positive`; None stands for not given.
            sigmas: noise levels, one per step and the final one, in order; by output where they differ.
                Of flow predictions they lie in [0, 1].
            prediction_type: what the denoiser returns: `epsilon`, `v`, `x0` or `flow`; `other` is what cannot be
                converted, such as logits, whose shape may differ from the sample's in one process.
            alphas: signal levels, one per step (a final one is ignored), or one for all steps (1.0 where the sample is
                x0 + sigma * noise), where a method works in a space other than the denoiser's and the prediction type
                does not imply them.
            outputs: names of the outputs, for a denoiser that returns a tuple.
            executor: what runs the branches: a name, or an executor.
            check_finite: raise where a prediction or a result holds NaN or infinity; costs a look at every one.
            may_rise: whether sigmas may rise again, for samplers that go back in noise (Restart, RePaint, time travel).
            seeds: one for each sample, or one from which those of the samples follow, for methods that draw noise;
                drawn if not given, and then `run.seeds` tells them. Torch's own generators are not used.
            supports: returns None, or the reason why the model cannot run a pass; called once for each distinct one.
                `Capabilities` is a ready one.
            shards: which outputs are pieces of a sequence, held by the ranks of another group; see `Shards`.
            check_inputs: with an executor of several ranks, in which steps they compare checksums of the sample, and of
                every condition that more than one of them gives inputs for: `first` is the run's first step.
            given: returns what else must be equal on all ranks, by its name: numbers, text, tensors, lists and dicts of
                such. Called and compared in the run's first step, and only with an executor of several ranks.
            trace: called after each step with a record of it, such as `Trace()`, which prints a table. Nothing is
                computed without. What it raises leaves `step`, though the step was made.

        Raises:
            ConfigurationError: an argument or a parameter cannot be used, a condition is missing, or the
                executor cannot carry one of the methods.
            BranchConflictError: two plugins want different passes under one name.
            PluginError: a plugin failed to name its branches.
            PlanMismatchError: with an executor of several ranks, they start different runs.
        """
        chosen = self.checked_executor(executor)

        def make() -> Run:
            levels_of_outputs = _checked_sigmas(sigmas, may_rise=_checked_flag("may_rise", may_rise))
            steps = len(next(iter(levels_of_outputs.values()))) - 1
            settings = RunSettings(
                conditions=_checked_conditions(conditions),
                sigmas=levels_of_outputs,
                alphas=None if alphas is None else _checked_alphas(alphas, steps),
                prediction_type=_checked_type(prediction_type),
                outputs=_checked_outputs(outputs),
                check_finite=_checked_flag("check_finite", check_finite),
                check_inputs=_checked_word("check_inputs", check_inputs, ("first", "always", "never")),
                seeds=Seeds.of(seeds),
                supports=_checked_supports(supports),
                shards=_checked_shards(shards, self._stack),
                given=_checked_call(given),
                trace=_checked_trace(trace),
            )
            for output, levels in settings.sigmas.items():
                what = "sigmas" if output is None else f"sigmas of {output!r}"
                check_sigma(what, max(levels), settings.prediction_type)
            count = settings.count
            if settings.alphas is not None and len(settings.alphas) not in (count, count + 1):
                raise ConfigurationError(
                    f"alphas must have one value for each of {count} steps; got {len(settings.alphas)}."
                )
            program = Program(self._stack, settings)
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
        """Describe what the stack would do in a run, without starting one.

        Args:
            steps: number of steps, with sigmas falling evenly from 1 to 0; 30 if nothing is given.
            sigmas: noise levels to use instead.
            outputs: names of the outputs; those that parameters name, if not given.
            ranks: on how many ranks to place the passes; needs no process group.
        """
        assumptions = ["every condition is given"]
        if sigmas is None:
            steps = 30 if steps is None else steps
            steps = _checked_count("steps", steps, MOST_STEPS)
            sigmas = [1 - number / steps for number in range(steps + 1)]
            assumptions.append(f"{steps} steps, sigmas falling evenly from 1 to 0")
        settings = RunSettings(
            conditions=None,
            sigmas=_checked_sigmas(sigmas),
            alphas=None,
            prediction_type="flow",
            outputs=_checked_outputs(outputs),
            check_finite=False,
        )
        program = Program(self._stack, settings)
        ranks = _checked_count("ranks", ranks, MOST_RANKS)
        if ranks == 1:
            serial = SerialExecutor()
            return describe_run(self._stack, serial.describe(), program.layouts, serial.placed, assumptions)
        executor = f"{ranks} ranks, as all_gather and all_reduce place the passes"
        return describe_run(self._stack, executor, program.layouts, partial(place_branches, ranks=ranks), assumptions)

    def checked_executor(self, executor: str | Executor) -> Executor:
        """Return the executor of that name, or the given one, if it can carry the stack's methods.

        Raises:
            ConfigurationError: it cannot, or is not an executor.
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


def _checked_flag(what: str, given: Any) -> bool:
    try:
        return bool(given)
    except Exception:
        raise ConfigurationError(f"{what} must be true or false; got {brief(given)}.") from None


def _checked_call(given: Any) -> Any:
    if given is not None and not callable(given):
        raise ConfigurationError(f"given is a function that returns a number for each thing; got {brief(given)}.")
    return given


def _checked_trace(trace: Any) -> Any:
    if trace is not None and (not callable(trace) or isinstance(trace, type)):
        raise ConfigurationError(
            f"trace is called with a record of each step, such as Trace() or a function; got {brief(trace)}."
        )
    return trace


def _checked_count(what: str, given: Any, most: int) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= most:
        raise ConfigurationError(f"{what} must be a whole number from 1 to {most:,}; got {brief(given)}.")
    return given


def _checked_conditions(conditions: Any) -> Mapping[str, Mapping[str, Any] | None]:
    if not isinstance(conditions, Mapping):
        raise ConfigurationError(
            "conditions map names to model inputs, as in {'positive': {'text': p}}; "
            f"got {type(conditions).__name__}."
        )
    for name, inputs in conditions.items():
        if inputs is not None and not isinstance(inputs, Mapping):
            raise ConfigurationError(
                f"condition {brief(name)} must be a dict of model inputs, as in {{'text': embedding}}; "
                f"got {type(inputs).__name__}."
            )
    return {
        str(name): inputs if inputs is None else MappingProxyType(dict(inputs)) for name, inputs in conditions.items()
    }


def _checked_sigmas(sigmas: Any, *, may_rise: bool = False) -> Mapping[str | None, tuple[float, ...]]:
    if not isinstance(sigmas, Mapping):
        return {None: _sigma_list("sigmas", sigmas, may_rise)}
    if not sigmas:
        raise ConfigurationError("sigmas must be a list of noise levels, or one for each output; got an empty dict.")
    lists: dict[str | None, tuple[float, ...]] = {
        str(output): _sigma_list(f"sigmas of {output!r}", levels, may_rise) for output, levels in sigmas.items()
    }
    if len({len(levels) for levels in lists.values()}) != 1:
        raise ConfigurationError(
            "every output needs the same number of sigmas; got "
            + ", ".join(f"{len(levels)} for {name}" for name, levels in lists.items())
        )
    return dict(lists.items())


def _checked_alphas(given: Any, steps: int) -> tuple[float, ...]:
    if isinstance(given, bool):
        raise ConfigurationError(f"alphas must be a list of numbers, or one; got {given!r}.")
    is_one = isinstance(given, (int, float)) or (isinstance(given, torch.Tensor) and given.ndim == 0)
    return _numbers("alphas", [given] * steps if is_one else given)


def _sigma_list(what: str, given: Any, may_rise: bool) -> tuple[float, ...]:
    levels = _numbers(what, given)
    if len(levels) < 2:
        raise ConfigurationError(
            f"{what} must have one value per step and the final one, so at least 2; got {len(levels)}."
        )
    if min(levels) < 0:
        raise ConfigurationError(f"{what} must not be negative; got {min(levels):g}.")
    pairs = list(pairwise(levels))
    is_sorted = all(one >= other for one, other in pairs) or all(one <= other for one, other in pairs)
    if not is_sorted and not may_rise:
        raise ConfigurationError(
            f"{what} must be sorted (falling for sampling, rising for inversion); got {brief(list(levels))}. A sampler "
            "that goes back in noise says so with start(may_rise=True)."
        )
    return levels


def _numbers(what: str, given: Any) -> tuple[float, ...]:
    if isinstance(given, torch.Tensor) and given.ndim != 1:
        raise ConfigurationError(f"{what} must be one-dimensional; got a tensor of shape {tuple(given.shape)}.")
    try:
        given = given.tolist() if isinstance(given, torch.Tensor) else given
        items = [] if isinstance(given, str | bytes | Mapping) else list(itertools.islice(given, MOST_STEPS + 2))
        kinds = {type(given), *map(type, items)}
        if any(issubclass(kind, (str, bytes, bool, Mapping)) for kind in kinds):
            raise TypeError
        levels = tuple(map(float, items))
    except Exception:
        raise ConfigurationError(f"{what} must be a list of numbers; got {brief(given)}.") from None
    if len(levels) > MOST_STEPS + 1:
        raise ConfigurationError(f"a run has at most {MOST_STEPS:,} steps; {what} has more.")
    if not all(math.isfinite(level) for level in levels):
        raise ConfigurationError(f"{what} must be finite; got {brief(list(levels))}.")
    return levels


def _checked_type(given: PredictionType) -> PredictionType:
    check_space("prediction_type", given, (*SPACES, OTHER))
    return given


def _checked_shards(shards: Any, stack: Stack) -> Split | None:
    if shards is None:
        return None
    if not isinstance(shards, Split):
        raise ConfigurationError(
            f"shards says which outputs are split, as Shards(group, dims=...); got {brief(shards)}."
        )
    for name, plugin in stack.plugins.items():
        if not getattr(type(plugin), "shardable", True):
            raise ConfigurationError(
                f"plugin {name!r} looks at whole tensors (shardable = False), but the run's are pieces: {shards}."
            )
    return shards


def _checked_supports(supports: Any) -> Supports | None:
    if supports is None or callable(supports):
        checked: Supports | None = supports
        return checked
    raise ConfigurationError(
        "supports is a function of a pass that returns None or the reason why the model cannot run it, such as "
        f"Capabilities(perturbations=(SkipBlocks,), blocks=28); got {brief(supports)}."
    )


def _checked_word(what: str, given: Any, allowed: Sequence[str]) -> str:
    if not isinstance(given, str) or given not in allowed:
        hint = did_you_mean(given, allowed) if isinstance(given, str) else ""
        raise ConfigurationError(f"{what} must be one of {', '.join(allowed)}; got {brief(given)}.{hint}")
    return given


def _checked_outputs(outputs: Any) -> tuple[str, ...] | None:
    if outputs is None:
        return None
    is_list = isinstance(outputs, tuple | list | KeysView)
    if not is_list or not all(isinstance(name, str) and name for name in outputs):
        raise ConfigurationError(f"outputs is a list of names, such as ('video', 'audio'); got {brief(outputs)}.")
    names = tuple(outputs)
    if not names or len(set(names)) < len(names):
        raise ConfigurationError(f"outputs must be distinct names, at least one; got {brief(names)}.")
    return names
