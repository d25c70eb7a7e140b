"""The guidance rule of one published model, as data.

    name = "z-image"
    prediction_types = ["flow"]
    conditions = ["negative"]
    parameters.guidance_scale = { default = 5.0, help = "added to c: c + s·(c − u); 0 is off" }
    parameters.cfg_normalization = { default = false, help = "keep the norm of c" }
    stack = [
        { plugin = "cfg", scale = "=guidance_scale + 1" },
        { plugin = "normalize", form = "clamp", when = "=cfg_normalization" },
    ]

A text that begins with `=` is an expression over the parameters (`recipes.expressions`). A table with `when` counts
where that is true.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from keyword import iskeyword
from types import MappingProxyType
from typing import Any

import attrs

from guidance_core.algebra.spaces import OTHER, SPACES
from guidance_core.config.tables import build, encode, load_plugins, parameters_of, without_tuples
from guidance_core.errors import ConfigurationError, GuidanceError, SpecError, UnknownNameError, brief, suggest
from guidance_core.parameters.values import UNSET
from guidance_core.recipes.expressions import MARK, Expression, check_names
from guidance_core.recipes.parameters import field_of

WHEN = "when"


@attrs.frozen
class Refused:
    """Values of parameters that contradict each other."""

    when: Expression
    why: str


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_TAKEN = {"recipe", "plugin", WHEN, "true", "false", "none", "self"}
"What a parameter cannot be called: it could not be written, or is not the parameter's where it is."


def _list(given: Any, of: str) -> tuple[Any, ...]:
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise SpecError(f"expected a list of {of}; got {brief(given)}.")
    return tuple(given)


def _tables(given: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    listed = _list(given, "tables")
    for table in listed:
        if not isinstance(table, Mapping) or not isinstance(table.get("plugin"), str):
            raise SpecError(f'each part of its stack is a table with "plugin"; got {brief(table)}.')
        if isinstance(table.get(WHEN), str) and not table[WHEN].startswith(MARK):
            raise SpecError(f'"when" is true, false, or an expression that begins with =; got {brief(table[WHEN])}.')
    return tuple(_kept(table) for table in listed)


def _table(given: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise SpecError(f"expected a table; got {brief(given)}.")
    kept: Mapping[str, Any] = _kept(given)
    return kept


def _texts(given: str | Sequence[str]) -> tuple[str, ...]:
    texts = (given,) if isinstance(given, str) else _list(given, "texts")
    if not all(isinstance(each, str) and each for each in texts):
        raise SpecError(f"expected a list of texts; got {brief(given)}.")
    return texts


def _contradictions(given: Any) -> tuple[Refused, ...]:
    found = []
    for each in _list(given, "tables"):
        if isinstance(each, Mapping) and set(each) == {"when", "why"}:
            each = Refused(Expression(str(each["when"]).removeprefix(MARK)), str(each["why"]))
        if not isinstance(each, Refused):
            raise SpecError(f'what is refused is a table with "when" and "why"; got {brief(each)}.')
        found.append(each)
    return tuple(found)


def _kept(value: Any) -> Any:
    """Return plain data that nobody can change."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: _kept(each) for key, each in value.items()})
    return tuple(map(_kept, value)) if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    """Return it as dicts and lists, which can be pickled."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


@attrs.frozen(eq=False, repr=False)
class Recipe:
    """The guidance rule of one published model, under the model's own parameter names.

    Publish one under an entry point in `guidance_core.recipes`, with its name.
    """

    name: str
    title: str
    "The model, in words."
    source: str
    "Where the rule was read: a file and its version."
    prediction_types: tuple[str, ...] = attrs.field(converter=_texts)
    "What the model's denoiser may return to be guided by it; the first is what the model predicts."
    stack: tuple[Mapping[str, Any], ...] = attrs.field(converter=_tables)
    "A table for each plugin, in order."
    parameters: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict, converter=_table)
    "By name: default, help, bounds."
    conditions: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    "What the run must give besides `positive`, unless parameters switch off what needs it."
    outputs: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    "Names of the outputs of a model that has several."
    models: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    "Names under which the model is published, such as `Qwen/Qwen-Image`; `*` stands for anything."
    pipelines: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    "Classes of diffusers' pipelines that run the model."
    parts: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    """Components that tell the model from others of the same pipeline, such as `transformer_2`; or settings of the
    pipeline that are true, such as `is_distilled`."""
    compared: str = ""
    "What it was compared with by a run, and how closely; empty where it was read only."
    distilled: bool = False
    "Whether the model was trained to need no guidance."
    ignores: Mapping[str, str] = attrs.field(factory=dict, converter=_table)
    "Parameters of the model that do nothing in this variant, and why."
    inputs: Mapping[str, str] = attrs.field(factory=dict, converter=_table)
    "Parameters of the model that its forward takes, and no guidance reads, such as a scale that is an embedding."
    follows: Mapping[str, str] = attrs.field(factory=dict, converter=_table)
    """Parameters that a call of the model's pipeline leaves out take the value of these, where it gives them: in
    diffusers `guidance_scale` of Wan 2.2 is that of both experts unless `guidance_scale_2` is given."""
    refused: tuple[Refused, ...] = attrs.field(default=(), converter=_contradictions)
    "Values that contradict each other: tables with `when`, an expression, and `why`."
    notes: str = ""

    cls: type = attrs.field(init=False, repr=False)
    "Holds values of the parameters, checked."

    @cls.default
    def _made(self) -> type:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise SpecError(f"the name of a recipe must consist of letters, digits, . - and _; got {brief(self.name)}.")
        if not all(isinstance(each, str) for each in (self.title, self.source, self.compared, self.notes)):
            raise SpecError("title, source, compared and notes are texts.")
        if not self.prediction_types or not set(self.prediction_types) <= {*SPACES, OTHER}:
            raise SpecError(
                f"prediction_types are of {', '.join((*SPACES, OTHER))}; got {brief(list(self.prediction_types))}."
            )
        if len(set(self.outputs)) < len(self.outputs):
            raise SpecError(f"outputs must be distinct names; got {brief(list(self.outputs))}.")
        for name in self.parameters:
            if not name.isascii() or not name.isidentifier() or name[0] == "_" or name in _TAKEN or iskeyword(name):
                raise SpecError(f"{brief(name)} cannot be the name of a parameter.")
        fields = {name: field_of(f"the recipe {self.name!r}", name, about) for name, about in self.parameters.items()}
        made = attrs.make_class(f"@{self.name}", fields, frozen=True)
        try:
            made()
        except GuidanceError as error:
            raise SpecError(f"a default is not allowed: {str(error).removeprefix(f'@{self.name}: ')}") from None
        for expression in self._expressions():
            check_names(expression, fields)
        return made

    @classmethod
    def from_dict(cls, name: str, data: Mapping[str, Any]) -> Recipe:
        """Return the recipe that plain data stands for, as read from TOML.

        Raises:
            SpecError: it has another form.
        """
        known = {field.name: field for field in attrs.fields(cls) if field.init and field.name != "name"}
        if not isinstance(data, Mapping):
            raise SpecError(f"the recipe {name!r} is a table; got {brief(data)}.")
        for key in data:
            if key not in known:
                raise SpecError(f"the recipe {name!r} has {key!r}, which is not known.{suggest(key, known)}")
        needed = [key for key, field in known.items() if field.default is attrs.NOTHING and key not in data]
        if needed:
            raise SpecError(f"the recipe {name!r} lacks {', '.join(needed)}.")
        try:
            return cls(name=name, **data)
        except SpecError as error:
            raise SpecError(f"the recipe {name!r}: {error}") from None

    @property
    def checked(self) -> str:
        """How far it can be relied on, in words."""
        return f"compared with {self.compared}" if self.compared else "read, not compared"

    def __repr__(self) -> str:
        """Return its name."""
        return f"Recipe({self.name!r})"

    def _expressions(self) -> Iterator[Expression]:
        yield from (each.when for each in self.refused)
        for table in self.stack:
            yield from _expressions_in(table)

    def _fields(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in attrs.fields(type(self)) if field.init}

    def __eq__(self, other: object) -> bool:
        """Compare everything that it says."""
        return self is other or (isinstance(other, Recipe) and self._fields() == other._fields())

    def __hash__(self) -> int:
        """Agree with equality."""
        return hash(self.name)

    def __deepcopy__(self, memo: Any) -> Recipe:
        """Return itself, which nobody can change."""
        return self

    def __reduce__(self) -> Any:
        """Be pickled as plain data."""
        given = {name: value if name == "refused" else _plain(value) for name, value in self._fields().items()}
        return _unpickled, (given,)

    def _is_left_out(self, name: str, value: Any) -> bool:
        """Whether a parameter that need not be given is given as none, as hosts' own defaults are."""
        is_none = value is None or (isinstance(value, str) and value == "none")
        return is_none and getattr(attrs.fields(self.cls), name).default is UNSET

    def choose(self, parameters: Mapping[str, Any]) -> Chosen:
        """Return the recipe with values of its parameters, plain or as plugins take them.

        Raises:
            UnknownNameError: it has no such parameter; the nearest is suggested.
            ConfigurationError: a value is not allowed, does nothing, or contradicts another.
        """
        for name in parameters:
            if name in self.ignores:
                raise ConfigurationError(f"the recipe {self.name!r} ignores {name!r}: {self.ignores[name]}.")
            if name in self.inputs:
                raise ConfigurationError(
                    f"the recipe {self.name!r} takes no {name!r}: {self.inputs[name]}. Give it to the model."
                )
            if name not in self.parameters:
                hint = suggest(name, self.parameters)
                raise UnknownNameError(f"the recipe {self.name!r} has no parameter {brief(name)}.{hint}")
        parameters = {name: value for name, value in parameters.items() if not self._is_left_out(name, value)}
        try:
            values = build("", self.cls, parameters)
        except GuidanceError as error:
            text = str(error).removeprefix(": ").removeprefix(f"{self.cls.__name__}: ")
            raise type(error)(f"the recipe {self.name!r}: {text}") from None
        chosen = Chosen(self, values, frozenset(parameters))
        for each in self.refused:
            if each.when.of(chosen.values):
                raise ConfigurationError(f"the recipe {self.name!r}: {each.why}.")
        return chosen


def _unpickled(given: dict[str, Any]) -> Recipe:
    return Recipe(**given)


@attrs.frozen(eq=False)
class Chosen:
    """A recipe with values of its parameters: what a model's guidance is, and what it needs of a run."""

    recipe: Recipe
    parameters: Any
    "Holds the value of each, under its name."
    given: frozenset[str] = attrs.field(eq=False, repr=False)
    "Names of those that were given."

    def __eq__(self, other: object) -> bool:
        """Compare the recipe and the values of its parameters."""
        return isinstance(other, Chosen) and self.recipe == other.recipe and dict(self.values) == dict(other.values)

    def __hash__(self) -> int:
        """Agree with equality."""
        return hash((self.name, tuple(self.values.values())))

    def __reduce__(self) -> Any:
        """Be pickled as the recipe and the values that were given."""
        return _chosen_again, (self.recipe, {name: self.values[name] for name in self.given})

    @property
    def name(self) -> str:
        """Name of the recipe."""
        return self.recipe.name

    @property
    def values(self) -> Mapping[str, Any]:
        """The value of each parameter, by name."""
        fields = attrs.fields(type(self.parameters))
        values = {field.name: getattr(self.parameters, field.name) for field in fields}
        return MappingProxyType({name: None if value is UNSET else value for name, value in values.items()})

    @property
    def prediction_types(self) -> tuple[str, ...]:
        """What the denoiser may return."""
        return self.recipe.prediction_types

    @property
    def conditions(self) -> tuple[str, ...]:
        """The conditions that the run must give besides `positive`."""
        return self.recipe.conditions

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, of a model that has several."""
        return self.recipe.outputs

    def stack(self) -> list[dict[str, Any]]:
        """Return a table for each plugin, with the values put in.

        Raises:
            ConfigurationError: a value is one with which it cannot be computed.
        """
        values = self.values
        tables = []
        for table in self.recipe.stack:
            filled = {key: _filled(value, values) for key, value in table.items()}
            if filled.pop(WHEN, True):
                tables.append(filled)
        return tables

    def plugins(self) -> list[tuple[Any, frozenset[str]]]:
        """Return the plugins, each with the names of the parameters that the recipe gives it.

        Raises:
            ConfigurationError: a value is one with which it cannot be computed, or that a plugin refuses.
        """
        try:
            return load_plugins(self.stack())
        except GuidanceError as error:
            raise type(error)(f"the recipe {self.name!r}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Return the plain data that names it, and the parameters that differ from the defaults.

        Raises:
            SpecError: a value cannot be written.
        """
        return {"recipe": self.name, **parameters_of(self.parameters)}

    @property
    def origins(self) -> Mapping[str, tuple[Any, str]]:
        """The value of each parameter, and whether it was given or is the model's default."""
        return {
            name: (value, "given" if name in self.given else "the model's default")
            for name, value in self.values.items()
        }

    def check_run(
        self, prediction_type: str, conditions: Mapping[str, Any] | None, outputs: tuple[str, ...] | None
    ) -> None:
        """Raise `ConfigurationError` where a run is not one of the recipe's model; None is what is not known."""
        what = f"the recipe {self.name!r}"
        if prediction_type not in self.prediction_types:
            raise ConfigurationError(
                f"{what} is for {' or '.join(self.prediction_types)} predictions; the run says {prediction_type!r}. "
                "`guidance-core recipes` lists those of other models."
            )
        if outputs is None:
            return
        fits = set(outputs) == set(self.outputs) if self.outputs else len(outputs) == 1
        if not fits:
            wanted = f"the outputs {', '.join(self.outputs)}" if self.outputs else "one output"
            raise ConfigurationError(f"{what} is for a model with {wanted}; the run has {', '.join(outputs)}.")


def _chosen_again(recipe: Recipe, given: dict[str, Any]) -> Chosen:
    return recipe.choose(given)


def _expressions_in(value: Any) -> Iterator[Expression]:
    if isinstance(value, str) and value.startswith(MARK):
        yield Expression(value.removeprefix(MARK))
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _expressions_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _expressions_in(each)


def _filled(value: Any, values: Mapping[str, Any]) -> Any:
    """Return plain data with the values of its expressions."""
    if isinstance(value, str) and value.startswith(MARK):
        return without_tuples(encode(Expression(value.removeprefix(MARK)).of(values), "a parameter"))
    if isinstance(value, Mapping):
        return {key: _filled(each, values) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(each, values) for each in value]
    return value
