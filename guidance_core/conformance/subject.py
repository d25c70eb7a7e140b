"""What is checked: a plugin with its parameters, and what can be seen of it without running it."""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import math
import pickle
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import attrs
import torch

from guidance_core.branch import Branch
from guidance_core.config import decode
from guidance_core.conformance.case import Case
from guidance_core.discovery import plugin_class
from guidance_core.errors import ConfigurationError, GuidanceError, UnknownNameError, suggest
from guidance_core.executors.base import Executor
from guidance_core.executors.serial import SerialExecutor
from guidance_core.guidance import Guidance
from guidance_core.hookspecs import hookimpl
from guidance_core.layout import Layout
from guidance_core.presets import settle
from guidance_core.run import Run
from guidance_core.settings import RunSettings
from guidance_core.spec import parse_spec
from guidance_core.stack import Stack, plugin_name
from guidance_core.values import UNSET, PerOutput

Inputs: TypeAlias = Mapping[str, Any] | Callable[[Case], Mapping[str, Any]]
"Model inputs of a condition, or what makes them for a case."

_NUMBERS = (0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 7.5, -1.0)
_WHOLES = (0, 1, 2, 3)
_BLOCKS = ((0,), (1, 2))
_OUTPUT_SHAPES: tuple[tuple[int, ...], ...] = ((2,), (3, 4), (1,), (5,), (2, 3, 4), (2, 3, 2, 2))


@attrs.frozen
class Mover:
    """Moves away from `uncond`, so that there is something to correct, limit or reuse.

    guided = c + k·(c − u)
    """

    strength: float = 2.0

    @hookimpl
    def build_branches(self, step: Any) -> list[Branch]:
        """Ask for `uncond`."""
        return [Branch("uncond", condition="negative", strength=self.strength)]


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

    _condition_names: dict[Any, frozenset[str]] = attrs.field(factory=dict, init=False, repr=False)

    kind: ClassVar[str] = "plugin"

    def __reduce__(self) -> Any:
        """Travel to other processes without what was found out here."""
        return type(self), (self.plugin, self.conditions, self.shapes, self.named)

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
    def code(self) -> str:
        """The call that makes the plugin."""
        given = {name: settled.value for name, settled in settle(self.plugin).items() if settled.origin == "given"}
        return f"{self.cls.__name__}({', '.join(f'{name}={_code(value)}' for name, value in given.items())})"

    @property
    def settings(self) -> dict[str, Any]:
        """What `subject_of` was given besides the plugin."""
        given: dict[str, Any] = {}
        if self.conditions:
            given["conditions"] = dict(self.conditions)
        if self.shapes is not _OUTPUT_SHAPES:
            given["shapes"] = self.shapes
        if self.named:
            given["outputs"] = self.named
        return given

    @property
    def imports(self) -> list[str]:
        """The lines that import what `code` uses."""
        if "<locals>" in self.cls.__qualname__ or self.cls.__module__ == "__main__":
            return [f"# and {self.cls.__name__}, from where it is defined"]
        return [f"from {self.cls.__module__} import {self.cls.__qualname__.partition('.')[0]}"]

    # What can be seen of it.

    def described(self, plugins: Sequence[Any], outputs: tuple[str, ...] | None = None) -> list[Layout]:
        """Return the layouts of a stack over eight steps, whatever conditions it asks for."""
        settings = RunSettings(
            conditions=_Any({"positive": {}, "negative": {}, **{name: {} for name in self.conditions}}),
            sigmas={None: tuple(0.95 * (1 - step / 8) for step in range(9))},
            alphas=None,
            prediction_type="flow",
            outputs=outputs or self.named or None,
            check_finite=False,
        )
        return Run(Stack.of(plugins), SerialExecutor(), settings).layouts

    @functools.cached_property
    def hooks(self) -> dict[str, bool]:
        """The hooks it has, and whether any implementation of each is a wrapper."""
        found = Stack.of([self.plugin]).hooks
        return {name: bool(hook.wrappers) for name, hook in found.items() if hook.plain or hook.wrappers}

    @property
    def looks_at_predictions(self) -> bool:
        """Whether it has a `combine`, so that executors must gather predictions."""
        return "combine" in self.hooks

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
        names = {branch.condition for layout in self.layouts for branch in layout.branches}
        return tuple(sorted(names - {"positive", "negative"} - self.conditions.keys()))

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
        """For each parameter the values other than its own that it accepts, of those that are tried."""
        return {field.name: tuple(self._accepted(field)) for field in self.fields}

    @functools.cached_property
    def variants(self) -> tuple[dict[str, Any], ...]:
        """Sets of changed parameters to check it with: none, then one changed at a time."""
        singles = [{name: value} for name, values in self.alternatives.items() for value in values]
        return ({}, *singles)

    def mixes_samples(self, case: Case) -> bool:
        """Whether it says that with these parameters a sample's result depends on the batch.

        It says so by a class attribute such as `mixes_samples = {"over": ("tensor",)}`.
        """
        declared: Mapping[str, Sequence[Any]] = getattr(self.cls, "mixes_samples", {})
        plugin = self.changed(case.parameters)
        return any(getattr(plugin, name) in values for name, values in declared.items())

    @functools.cached_property
    def neutral(self) -> dict[str, Any] | None:
        """Parameters to change so that it asks for no pass and no hook acts; None if none are found.

        Taken from the class attribute `neutral` if it has one; else every number is tried at 0 and at 1.
        """
        if hasattr(self.cls, "neutral"):
            return None if self.cls.neutral is None else dict(self.cls.neutral)
        chosen: dict[str, Any] = {}
        least = self._cost(chosen)
        for name in (*self.alternatives, *self.alternatives):  # twice: one may matter only after another
            for value in self.alternatives[name]:
                cost = self._cost({**chosen, name: value}) if value in (0, 1) else least
                if cost < least:
                    chosen, least = {**chosen, name: value}, cost
        if least == 0:
            return chosen
        numbers = {name: [value for value in values if value in (0, 1)] for name, values in self.alternatives.items()}
        singles = [{name: value} for name, values in numbers.items() for value in values]
        together = [one | other for one, other in itertools.combinations(singles, 2) if one.keys() != other.keys()]
        for value in (0, 1):
            together.append({name: value for name, values in numbers.items() if value in values})
        return next((each for each in together if self._cost(each) == 0), None)

    @property
    def acting_hooks(self) -> list[str]:
        """Its hooks that are called with predictions."""
        return [name for name in self.hooks if name != "build_branches"]

    @functools.cached_property
    def still_acting(self) -> dict[str, Any] | None:
        """A number to change to 0 or 1 so that it asks for no pass, while its hooks are still called; or None."""
        for name, values in self.alternatives.items():
            for value in values:
                if value not in (0, 1):
                    continue
                with contextlib.suppress(Exception):
                    layouts = self.described([self.changed({name: value})])
                    passes = {len(layout.branches) for layout in layouts}
                    acts = any(each.all_acting for layout in layouts for each in layout.outputs.values())
                    if passes == {1} and acts:
                        return {name: value}
        return None

    def _cost(self, parameters: Mapping[str, Any]) -> float:
        """Return how many passes it adds and how many hooks act over eight steps, alone."""
        try:
            layouts = self.described([self.changed(parameters)])
        except GuidanceError:
            return math.inf
        outputs = [output for layout in layouts for output in layout.outputs.values()]
        if any(output.held for output in outputs):
            return math.inf  # to run nothing is not to be neutral
        return sum(len(layout.branches) - 1 for layout in layouts) + sum(len(each.all_acting) for each in outputs)

    def _conditions_of(self, guidance: Guidance, outputs: tuple[str, ...] | None) -> frozenset[str]:
        """Return the conditions that the branches of a stack name."""
        try:
            known = self._condition_names.get((guidance, outputs))
        except TypeError:  # a plugin with a parameter that has no hash
            known = None
        if known is None:
            layouts = self.described(guidance.plugins, outputs)
            known = frozenset(branch.condition for layout in layouts for branch in layout.branches)
            with contextlib.suppress(TypeError):
                self._condition_names[guidance, outputs] = known
        return known

    def _accepted(self, field: attrs.Attribute[Any]) -> Iterator[Any]:
        for value in candidates(field, getattr(self.plugin, field.name)):
            try:
                self.described(self.stacked(self.changed({field.name: value})))
            except Exception:  # whatever is wrong with it is for the checks of parameters to say
                continue
            yield value

    # Stacks and runs of it.

    def stacked(self, plugin: Any) -> list[Any]:
        """Return the stack it is checked in: alone, or above something to correct, limit or reuse."""
        return [plugin] if self.branches else [Mover(), plugin]

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
        }
        return guidance.start(executor=executor, **{**given_by_case, **settings})


def unreachable(subject: Subject) -> str | None:
    """Say why other processes cannot be given the plugin, or None where they can."""
    try:
        pickle.dumps(subject)
    except Exception as error:
        return f"it cannot be sent to another process ({error}); define the class at the top of an importable module"
    if subject.cls.__module__ == "__main__":
        return "its class is defined in the main module, which other processes do not import"
    return None


class _Any(dict[str, dict[str, Any]]):
    """Conditions that hold whichever is asked for, and name those that are known."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name, {})


def candidates(field: attrs.Attribute[Any], value: Any) -> list[Any]:
    """Return values to try for a parameter, other than its own."""
    kind = str(field.type)
    options = field.metadata.get("options")
    found: list[Any]
    if options is not None:
        found = list(options)
    elif isinstance(value, bool):
        found = [not value]
    elif isinstance(value, str):
        found = ["other"]
    elif isinstance(value, int):
        found = list(_WHOLES)
    elif isinstance(value, PerOutput):
        found = [*_NUMBERS]
    elif isinstance(value, float) or (value is not UNSET and value is not None and "float" in kind):
        found = list(_NUMBERS)
    elif isinstance(value, tuple) or value is None:
        found = [*_BLOCKS, *(_NUMBERS if value is None else ())]
    else:
        found = [*_NUMBERS, *_WHOLES, *_BLOCKS]
    return [each for each in found if not _same(each, value)]


def _code(value: Any) -> str:
    if isinstance(value, PerOutput):
        return "{" + ", ".join(f"{output!r}: {_code(inner)}" for output, inner in value.items()) + "}"
    return repr(value)


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def subject_of(
    given: Any,
    parameters: Mapping[str, Any] | None = None,
    conditions: Mapping[str, Inputs] | None = None,
    shapes: Sequence[Sequence[int]] | None = None,
    outputs: Sequence[str] = (),
) -> Subject:
    """Return the subject for a plugin given by name, as `module:Class`, as a class or as an instance.

    Args:
        given: which plugin; a name may come with parameters, as in a spec: `cfg:scale=4`.
        parameters: of the class, where it is not given as an instance.
        conditions: model inputs, or what makes them for a case, of conditions that it looks for but
            does not name in its branches.
        shapes: shapes of one sample to try, where it does not take any.
        outputs: names of the outputs it is made for, where it does not take any.

    Raises:
        UnknownNameError: no plugin of that name is installed.
        ConfigurationError: it cannot be imported or made, or is no plugin.
    """
    plugin = given
    if isinstance(given, str) and "=" in given:
        tables = parse_spec(given)["guidance"]
        if len(tables) != 1:
            raise ConfigurationError(f"one method is checked at a time; {given!r} is a stack of {len(tables)}.")
        own = {name: decode(value) for name, value in tables[0].items() if name != "plugin"}
        plugin, parameters = plugin_class(tables[0]["plugin"]), {**own, **(parameters or {})}
    elif isinstance(given, str):
        plugin = imported(given) if ":" in given else plugin_class(given)
    if isinstance(plugin, type):
        plugin = _made(plugin, parameters or {})
    elif parameters:
        raise ConfigurationError("parameters are for a class; this is an instance: give it the values it should have.")
    Guidance([plugin])  # says what is wrong with it
    settings = {} if shapes is None else {"shapes": tuple(tuple(shape) for shape in shapes)}
    return Subject(plugin, dict(conditions or {}), named=tuple(outputs), **settings)


def _made(cls: type, parameters: Mapping[str, Any]) -> Any:
    if not attrs.has(cls):
        raise ConfigurationError(
            f"{cls.__module__}:{cls.__qualname__} is no attrs class; a plugin is one marked @attrs.frozen."
        )
    known = [field.alias or field.name for field in attrs.fields(cls) if field.init]
    for name in parameters:
        if name not in known:
            raise UnknownNameError(f"{cls.__name__} has no parameter {name!r}.{suggest(name, known)}")
    try:
        return cls(**parameters)
    except GuidanceError:
        raise
    except Exception as error:
        shown = f" with {dict(parameters)}" if parameters else " without parameters; give them with --param"
        raise ConfigurationError(f"{cls.__name__} cannot be made{shown}: {type(error).__name__}: {error}") from error


def imported(target: str) -> Any:
    """Return what `module:attribute` names.

    Raises:
        ConfigurationError: the module does not import, with the end of its traceback, or has no such
            attribute.
    """
    module_name, _, attribute = target.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigurationError(f"the module {module_name!r} cannot be imported:\n{short_traceback(error)}") from None
    for part in attribute.split("."):
        names = [name for name in vars(found) if not name.startswith("_")]
        try:
            found = getattr(found, part)
        except AttributeError:
            raise UnknownNameError(f"{module_name!r} has no {attribute!r}.{suggest(attribute, names)}") from None
    return found


def raised(error: BaseException) -> str:
    """Return where in a plugin an error came from, and the error itself rather than the one it became."""
    return short_traceback(error.__cause__ if isinstance(error, GuidanceError) and error.__cause__ else error)


def short_traceback(error: BaseException, *, limit: int = 3) -> str:
    """Return the end of an error's traceback: the last places outside this library, torch and importlib."""
    others = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent), "<frozen importlib")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(others) and "importlib/__init__" not in frame.filename
    ]
    lines = [f"  {frame.filename}:{frame.lineno}, in {frame.name}\n    {frame.line}" for frame in frames[-limit:]]
    return "\n".join([*lines, *(f"  {line}" for line in traceback.format_exception_only(error)[-1].splitlines())])
