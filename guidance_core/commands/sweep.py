"""`--sweep cfg.scale=1,2,4`: a stack for each value of a parameter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import attrs

from guidance_core.config.spec import format_spec, parse_spec
from guidance_core.errors import ConfigurationError, SpecError, UnknownNameError, brief, suggest
from guidance_core.recipes import recipe_named
from guidance_core.unpublished import stack_of

MOST = 64
"Values of a sweep."
EXAMPLE = "--sweep cfg.scale=1,2,4,8"


@attrs.frozen
class Sweep:
    """A parameter, and the values to give it one after another."""

    plugin: str
    "Empty where the stack's plugins tell whose parameter it is."
    parameter: str
    values: tuple[Any, ...]
    "As plain data."

    @classmethod
    def of(cls, given: Sequence[str]) -> Sweep:
        """Return the one that the command line gives.

        Raises:
            ConfigurationError: there are several, or it cannot be read.
        """
        if len(given) > 1:
            raise ConfigurationError(
                "--sweep is given once. For a second parameter repeat -g, once with each of its values."
            )
        place, equals, text = given[0].partition("=")
        plugin, _, parameter = place.strip().rpartition(".")
        if not equals or not parameter.isidentifier() or not text.strip():
            raise ConfigurationError(
                f"--sweep takes a parameter and its values, as in {EXAMPLE}; got {brief(given[0])}."
            )
        try:
            tables = parse_spec(f"sweep:values=[{text}]")["guidance"]
        except SpecError:
            tables = []
        values = tables[0]["values"] if [set(table) for table in tables] == [{"plugin", "values"}] else ()
        if not values:
            raise ConfigurationError(
                f"the values of --sweep are written as in a spec, with commas between them, as in {EXAMPLE}; "
                f"got {brief(text)}."
            )
        if len(values) > MOST:
            raise ConfigurationError(f"--sweep takes at most {MOST} values; got {len(values)}.")
        return cls(plugin.strip().removeprefix("@"), parameter, tuple(values))

    def usual(self) -> tuple[str, ...]:
        """Return the stacks to sweep where none is given: no guidance beside the swept method."""
        return ("", self.plugin or "cfg")

    def stacks(self, specs: Sequence[str]) -> tuple[str, ...]:
        """Return each stack with each value; one without any method stays as it is, to compare with.

        Raises:
            ConfigurationError: a stack does not have the parameter, or several plugins of it do; all stacks are empty.
            GuidanceError: a stack cannot be made.
        """
        found: list[str] = []
        for spec in specs:
            if parse_spec(spec, places=True)["guidance"]:
                found += self._of_stack(spec)
            else:
                found.append(spec)
        if len(found) == len(specs) and not any(spec.strip() for spec in specs):
            raise ConfigurationError(f"--sweep {self.name}: no stack has a method; give one, as in -g cfg:scale=3.")
        return tuple(found)

    @property
    def name(self) -> str:
        """As the command line names it."""
        return f"{self.plugin}.{self.parameter}" if self.plugin else self.parameter

    def _of_stack(self, spec: str) -> list[str]:
        data = parse_spec(spec, places=True)
        tables = data["guidance"]
        place = self._place(spec, _parameters(spec, tables))
        swept = []
        for value in self.values:
            changed = [{**table, self.parameter: value} if place == at else table for at, table in enumerate(tables)]
            swept.append(format_spec({"guidance": changed}))
        return swept

    def _place(self, spec: str, parameters: dict[str, tuple[int, list[str]]]) -> int:
        """Return which part of a stack has the parameter."""
        if self.plugin:
            if self.plugin not in parameters:
                raise UnknownNameError(
                    f"--sweep {self.name}: the stack {brief(spec)} has no method {self.plugin!r}."
                    f"{suggest(self.plugin, parameters)}"
                )
            parameters = {self.plugin: parameters[self.plugin]}
        having = {name: place for name, (place, known) in parameters.items() if self.parameter in known}
        if not having:
            known = [name for _, names in parameters.values() for name in names]
            raise UnknownNameError(
                f"--sweep {self.name}: the stack {brief(spec)} has no parameter {self.parameter!r}"
                f"{f' of {self.plugin}' if self.plugin else ''}.{suggest(self.parameter, dict.fromkeys(known))}"
            )
        if len(having) > 1:
            listed = ", ".join(f"{name}.{self.parameter}" for name in having)
            raise ConfigurationError(
                f"--sweep {self.name}: several methods of {brief(spec)} have it; name one of {listed}."
            )
        return next(iter(having.values()))


def _parameters(spec: str, tables: Sequence[dict[str, Any]]) -> dict[str, tuple[int, list[str]]]:
    """Return the place of each part of a stack, and its parameters, by the part's name; a second `cfg` is `cfg#2`."""
    plugins = stack_of(spec).plugins
    seen: Counter[str] = Counter()
    found = {}
    for place, table in enumerate(tables):
        name = table.get("plugin") or table["recipe"]
        seen[name] += 1
        if "recipe" in table:
            known = list(recipe_named(name).parameters)
        else:  # what a recipe makes stands before them
            cls = type(plugins[place - len(tables)])
            known = [field.alias or field.name for field in attrs.fields(cls) if field.init]
        found[name if seen[name] == 1 else f"{name}#{seen[name]}"] = place, known
    return found
