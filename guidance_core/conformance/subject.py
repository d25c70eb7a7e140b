"""What is checked: a plugin with its parameters, and what can be seen of it without running it."""

from __future__ import annotations

import contextlib
import functools
import itertools
import pickle
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import attrs

from guidance_core.algebra.spaces import Space
from guidance_core.conformance.candidates import candidates, same
from guidance_core.conformance.case import PREDICTION_TYPES, Case
from guidance_core.conformance.companions import Mover, Shaper
from guidance_core.errors import GuidanceError
from guidance_core.executors.base import Executor
from guidance_core.guidance import Guidance
from guidance_core.methods.requests import BASE, Branch
from guidance_core.methods.stack import Stack, plugin_name
from guidance_core.parameters.fields import ANY
from guidance_core.parameters.named import SCHEDULES
from guidance_core.parameters.settled import settle
from guidance_core.parameters.values import PerOutput
from guidance_core.run import Run
from guidance_core.steps.layout import Layout
from guidance_core.steps.program import Program
from guidance_core.steps.settings import RunSettings

Inputs: TypeAlias = Mapping[str, Any] | Callable[[Case], Mapping[str, Any]]
"Model inputs of a condition, or what makes them for a case."

_OUTPUT_SHAPES: tuple[tuple[int, ...], ...] = ((2,), (3, 4), (1,), (5,), (2, 3, 4), (2, 3, 2, 2))


class _AnyModel:
    """What the models of all examples can do: everything; they have eight blocks."""

    blocks: ClassVar[Mapping[str, int]] = {"blocks": 8}

    def __call__(self, branch: Branch) -> str | None:
        return None


ANYTHING = _AnyModel()


@attrs.frozen(eq=False)
class Subject:
    """A plugin to check."""

    plugin: Any
    conditions: Mapping[str, Inputs] = attrs.field(factory=dict)
    "Conditions beyond `positive`, `negative` and those that its branches name."
    shapes: tuple[tuple[int, ...], ...] = _OUTPUT_SHAPES
    "Shapes of one sample to try, the simplest first."
    named: tuple[str, ...] = ()
    "The outputs it is made for, where its parameters do not name them."
    prediction_types: tuple[Space, ...] = PREDICTION_TYPES
    "What the model may predict."

    _condition_names: dict[Any, frozenset[str]] = attrs.field(factory=dict, init=False, repr=False)

    kind: ClassVar[str] = "plugin"

    def __reduce__(self) -> Any:
        """Travel to other processes without what was found out here."""
        return type(self), (self.plugin, self.conditions, self.shapes, self.named, self.prediction_types)

    @property
    def key(self) -> str:
        """What distinguishes it from other subjects: failing examples are kept under it."""
        return f"{self.cls.__module__}:{self.plugin!r}"

    @property
    def cls(self) -> type:
        """The plugin's class."""
        return type(self.plugin)

    @functools.cached_property
    def name(self) -> str:
        """Its name among plugins."""
        return plugin_name(self.cls)

    @functools.cached_property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that it is made for: those that its author or its parameters name."""
        return self.named or Stack.of([self.plugin]).named_outputs()

    @property
    def fields(self) -> tuple[attrs.Attribute[Any], ...]:
        """Its parameters."""
        return tuple(field for field in attrs.fields(self.cls) if field.init)

    def changed(self, parameters: Mapping[str, Any]) -> Any:
        """Return the plugin with some parameters changed."""
        given = {field.alias or field.name: parameters[field.name] for field in self.fields if field.name in parameters}
        return attrs.evolve(self.plugin, **given) if given else self.plugin

    @property
    def title(self) -> str:
        """What a table about it is headed with."""
        return self.code

    @property
    def code(self) -> str:
        """The call that makes the plugin."""
        given = {name: settled.value for name, settled in settle(self.plugin).items() if settled.origin == "given"}
        return f"{self.cls.__qualname__}({', '.join(f'{name}={_code(value)}' for name, value in given.items())})"

    @property
    def settings(self) -> dict[str, Any]:
        """What `subject_of` was given besides the plugin."""
        given: dict[str, Any] = {}
        if self.conditions:
            given["conditions"] = dict(self.conditions)
        if not self.takes_any_shape:
            given["shapes"] = self.shapes
        if self.named:
            given["outputs"] = self.named
        if self.prediction_types != PREDICTION_TYPES:
            given["prediction_types"] = self.prediction_types
        return given

    @property
    def takes_any_shape(self) -> bool:
        """Whether its author named no shapes."""
        return self.shapes == _OUTPUT_SHAPES

    @property
    def imports(self) -> list[str]:
        """The lines that import what `code` uses."""
        kinds = {type(getattr(self.plugin, field.name)) for field in self.fields}
        schedules = {kind.__name__ for kind in kinds if kind in SCHEDULES.values()}
        lines = [f"from guidance_core import {', '.join(sorted(schedules))}"] if schedules else []
        if "<locals>" in self.cls.__qualname__ or self.cls.__module__ == "__main__":
            return [*lines, f"# and {self.cls.__name__}, from where it is defined"]
        return [*lines, f"from {self.cls.__module__} import {self.cls.__qualname__.partition('.')[0]}"]

    # What can be seen of it.

    def described(self, plugins: Sequence[Any], outputs: tuple[str, ...] | None = None) -> list[Layout]:
        """Return the layouts of a stack over eight steps, whatever conditions it asks for."""
        sigmas = tuple(0.95 * (1 - step / 8) for step in range(9))
        settings = RunSettings(
            conditions=_Any({"positive": {}, "negative": {}, **{name: {} for name in self.conditions}}),
            sigmas={None: sigmas},
            alphas=tuple(1 - sigma for sigma in sigmas),
            prediction_type=self.prediction_types[0],
            outputs=outputs or self.named or None,
            check_finite=False,
            supports=ANYTHING,
        )
        return Program(Stack.of(plugins), settings).layouts

    @functools.cached_property
    def hooks(self) -> dict[str, bool]:
        """The hooks it has, and whether any implementation of each is a wrapper."""
        found = Stack.of([self.plugin]).hooks
        return {name: bool(hook.wrappers) for name, hook in found.items() if hook.plain or hook.wrappers}

    @property
    def looks_at_predictions(self) -> bool:
        """Whether it has a `combine`, so that executors must gather predictions."""
        return "combine" in self.hooks

    @functools.cached_property
    def differentiates(self) -> bool:
        """Whether it differentiates through the model."""
        return any(layout.differentiating for layout in self.layouts)

    @property
    def uses_autograd(self) -> bool:
        """Whether it differentiates through the model, or says that it uses autograd by itself."""
        return self.differentiates or bool(getattr(self.cls, "uses_autograd", False))

    @property
    def holds_functions(self) -> bool:
        """Whether a parameter is a function."""
        return any(isinstance(getattr(self.plugin, field.name), types.FunctionType) for field in self.fields)

    @property
    def is_wrapper(self) -> bool:
        """Whether it changes what others ask for or return."""
        return any(self.hooks.values())

    @property
    def is_linear(self) -> bool:
        """Whether it only names branches with strengths."""
        return set(self.hooks) == {"build_branches"} and not self.is_wrapper

    @functools.cached_property
    def layouts(self) -> list[Layout]:
        """The layouts of its stack over eight steps, whatever conditions it asks for."""
        return self.described([self.plugin])

    @functools.cached_property
    def branches(self) -> tuple[str, ...]:
        """The branches it asks for."""
        names = [name for layout in self.layouts for name, plugins in layout.asked.items() if self.name in plugins]
        return tuple(dict.fromkeys(names))

    @functools.cached_property
    def assumed(self) -> tuple[str, ...]:
        """The conditions besides `positive` and `negative` that its branches name, and that are given to it."""
        return tuple(sorted(_conditions_in(self.layouts) - {"positive", "negative"} - self.conditions.keys()))

    @functools.cached_property
    def spaces(self) -> frozenset[str | None]:
        """The spaces its hooks ask for; None stands for the model's own."""
        return frozenset(
            acting.needs.space
            for layout in self.described(self.stacked(self.plugin))
            for output in layout.outputs.values()
            for acting in output.all_acting
        )

    @functools.cached_property
    def alternatives(self) -> dict[str, tuple[Any, ...]]:
        """For each parameter the values to try other than its own: those of the class attribute `values_to_try`.

        A parameter that has none there is tried with values of its kind, of which it may refuse some.
        """
        return {field.name: tuple(self._accepted(field)) for field in self.fields}

    @functools.cached_property
    def numeric(self) -> tuple[str, ...]:
        """The parameters that take numbers with a fraction."""
        return tuple(
            name
            for name, values in self.alternatives.items()
            if any(type(value) is float for value in values) and not isinstance(getattr(self.plugin, name), bool)
        )

    @functools.cached_property
    def variants(self) -> tuple[dict[str, Any], ...]:
        """Sets of changed parameters to check it with: none, then one changed at a time."""
        singles = [{name: value} for name, values in self.alternatives.items() for value in values]
        return ({}, *singles)

    @functools.cached_property
    def edges(self) -> tuple[dict[str, Any], ...]:
        """Sets of parameters that are 0 or at a bound: one of them, two, all but one, and all."""
        ends: dict[str, dict[str, Any]] = {"zero": {}, "low": {}, "high": {}}
        for field in self.fields:
            tried = [value for value in self.alternatives[field.name] if type(value) in (int, float)]
            if not tried or isinstance(getattr(self.plugin, field.name), bool):
                continue
            kind = float if field.name in self.numeric else int
            bounds = field.metadata.get("bounds", ANY)
            low, high = bounds.ge, bounds.le
            ends["zero"][field.name] = kind(0)
            ends["low"][field.name] = kind(min(tried) if low is None else low)
            ends["high"][field.name] = kind(max(tried) if high is None else high)
        zero = ends["zero"]
        made = [{name: end[name]} for end in ends.values() for name in end]
        made += [{one: zero[one], other: zero[other]} for one, other in itertools.combinations(zero, 2)]
        made += [{each: zero[each] for each in zero if each != name} for name in zero]
        made += ends.values()
        unlike = [each for number, each in enumerate(made) if each and each not in made[:number]]
        return tuple(each for each in unlike if self._takes(each))

    def _takes(self, parameters: Mapping[str, Any]) -> bool:
        """Whether it can be made and stacked with some parameters changed."""
        try:
            self.described(self.stacked(self.changed(parameters)))
        except Exception:  # what is wrong with them is for bad-parameters to say
            return False
        return True

    def mixes_samples(self, case: Case) -> bool:
        """Whether it says that with these parameters a sample's result depends on the batch.

        It says so by a class attribute such as `mixes_samples = {"over": ("tensor",)}`.
        """
        declared: Mapping[str, Sequence[Any]] = getattr(self.cls, "mixes_samples", {})
        plugin = self.changed(case.parameters)
        return any(getattr(plugin, name) in values for name, values in declared.items())

    @property
    def at_zero_or_one(self) -> Iterator[dict[str, Any]]:
        """Each parameter that takes 0 or 1, changed to it."""
        return ({name: value} for name, values in self.alternatives.items() for value in values if value in (0, 1))

    @functools.cached_property
    def neutral(self) -> dict[str, Any] | None:
        """Parameters to change so that it asks for no pass and no hook acts; None if there are none.

        The class attribute `neutral` says so; without one, a single parameter at 0 or at 1 does it.
        """
        if hasattr(self.cls, "neutral"):
            return None if self.cls.neutral is None else dict(self.cls.neutral)
        return next((each for each in self.at_zero_or_one if self.left_of(each) == ({BASE}, False)), None)

    @property
    def acting_hooks(self) -> list[str]:
        """Its hooks that are called with predictions."""
        return [name for name in self.hooks if name != "build_branches"]

    def left_of(self, parameters: Mapping[str, Any]) -> tuple[set[str], bool] | None:
        """Return which passes are left with some parameters changed, and whether hooks act; None if it refuses them."""
        with contextlib.suppress(GuidanceError):
            layouts = self.described([self.changed(parameters)])
            outputs = [output for layout in layouts for output in layout.outputs.values()]
            passes = {branch.name for layout in layouts for branch in layout.branches}
            return passes, any(each.all_acting or each.held for each in outputs)
        return None

    def _conditions_of(self, guidance: Guidance, outputs: tuple[str, ...] | None) -> frozenset[str]:
        """Return the conditions that the branches of a stack name, and those that they get beside their own."""
        try:
            known = self._condition_names.get((guidance, outputs))
        except TypeError:  # a plugin with a parameter that has no hash
            known = None
        if known is None:
            layouts = self.described(guidance.plugins, outputs)
            known = _conditions_in(layouts)
            with contextlib.suppress(TypeError):
                self._condition_names[guidance, outputs] = known
        return known

    @property
    def values_to_try(self) -> Mapping[str, Sequence[Any]]:
        """What its class says that parameters may be."""
        return dict(getattr(self.cls, "values_to_try", {}))

    def _accepted(self, field: attrs.Attribute[Any]) -> Iterator[Any]:
        own = getattr(self.plugin, field.name)
        for value in self.values_to_try.get(field.name, candidates(field, own)):
            if same(value, own):
                continue
            if self._takes({field.name: value}):
                yield value

    # Stacks and runs of it.

    def stacked(self, plugin: Any) -> list[Any]:
        """Return the stack it is checked in: alone, or above something to correct, limit or reuse."""
        if self.branches:
            return [plugin]
        wraps = self.hooks.get("combine") or self.hooks.get("postprocess")
        return [Shaper() if wraps else Mover(), plugin]

    def guidance(self, case: Case, before: Sequence[Any] = (), after: Sequence[Any] = ()) -> Guidance:
        """Return the stack for a case, with other plugins before or after it."""
        return Guidance([*before, *self.stacked(self.changed(case.parameters)), *after])

    def start(
        self, case: Case, guidance: Guidance | None = None, executor: str | Executor = "serial", **settings: Any
    ) -> Run:
        """Start a run of a case."""
        if guidance is None:
            guidance = self.guidance(case)
        names = {"positive", "negative", *self._conditions_of(guidance, case.outputs or None)}
        given: dict[str, Inputs] = {name: {} for name in sorted(names)} | dict(self.conditions)
        conditions = {
            name: {**(inputs(case) if callable(inputs) else inputs), "condition": name}
            for name, inputs in given.items()
        }
        given_by_case: dict[str, Any] = {
            "conditions": conditions,
            "sigmas": case.sigmas,
            "alphas": case.alphas,
            "prediction_type": case.prediction_type,
            "outputs": case.outputs or None,
            "supports": ANYTHING,
        }
        return guidance.start(executor=executor, **{**given_by_case, **settings})


def follows_predictions(subject: Subject) -> str | None:
    """Say that which passes it runs depends on predictions, where its class says so; else None."""
    follows = getattr(subject.cls, "plan_follows_predictions", False)
    return "its passes depend on predictions (plan_follows_predictions = True)" if follows else None


def unreachable(subject: Subject) -> str | None:
    """Say why other processes cannot be given the plugin, or None where they can."""
    for what, value, advice in (
        ("it", subject.plugin, "define the class at the top of an importable module"),
        ("what makes its conditions", subject.conditions, "define the functions at the top of an importable module"),
    ):
        try:
            pickle.dumps(value)
        except Exception as error:
            return f"{what} cannot be sent to another process ({error}); {advice}"
    if subject.cls.__module__ == "__main__":
        return "its class is defined in the main module, which other processes do not import"
    return None


def _conditions_in(layouts: Iterable[Layout]) -> frozenset[str]:
    """Return the conditions of all passes, and those whose inputs they get beside their own."""
    branches = [branch for layout in layouts for branch in layout.branches]
    return frozenset(name for branch in branches for name in (branch.condition, *branch.also))


class _Any(dict[str, dict[str, Any]]):
    """Conditions that hold whichever is asked for, and name those that are known."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name, {})


def _code(value: Any) -> str:
    if isinstance(value, PerOutput):
        return "{" + ", ".join(f"{output!r}: {_code(inner)}" for output, inner in value.items()) + "}"
    return repr(value)
