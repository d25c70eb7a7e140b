"""What a stack will do, in words: passes per step, who asked for each, where each value came from."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import attrs

from guidance_core.errors import brief
from guidance_core.executors.placement import Placement
from guidance_core.methods.requests import BASE, Branch
from guidance_core.methods.stack import Stack
from guidance_core.recipes import Chosen
from guidance_core.steps.layout import Layout


@attrs.frozen
class PassDescription:
    """One forward pass of a step."""

    branch: str
    "The name of its branch."
    condition: str
    "The condition whose inputs it gets."
    perturbations: tuple[str, ...]
    "What is changed inside the model."
    asked_by: tuple[str, ...]
    "The names of the plugins that asked for it."
    strengths: dict[str, str]
    "By output, how far the result moves away from this branch."


@attrs.frozen
class StepsDescription:
    """Consecutive steps with the same passes."""

    first: int
    "Index of the first of these steps."
    last: int
    "Index of the last one, which is included."
    passes: tuple[PassDescription, ...]
    "The forward passes of each step."
    held: tuple[str, ...]
    "The outputs that keep their last x0."
    ranks: tuple[str, ...] = ()
    "What each rank runs, if there are several."
    speedup: float = 1.0
    "The speedup to expect: the time of one process divided by that of the busiest rank, by the branches' costs."


@attrs.frozen
class ParameterDescription:
    """A parameter, its effective value and where the value comes from."""

    name: str
    value: str
    "The value as text."
    origin: str
    "`given`, `default`, `recipe`, or a preset, such as `preset 2.3`."


@attrs.frozen
class RecipeDescription:
    """The recipe that a stack was made from, and its parameters."""

    name: str
    title: str
    "The model's name."
    parameters: tuple[ParameterDescription, ...]
    "The recipe's own parameters."
    source: str
    "Where the rule was read."
    compared: str
    "The code with which a test compared it; otherwise `read, not compared`."


@attrs.frozen
class Description:
    """What `Guidance.describe` and `Run.describe` return: the plan of a run.

    `str()` gives a table, `to_dict()` plain data.
    """

    plugins: dict[str, tuple[ParameterDescription, ...]]
    "The parameters of each plugin, by its name in the stack."
    executor: str
    "How the executor runs branches."
    steps: tuple[StepsDescription, ...]
    "The steps, grouped where consecutive ones have the same passes."
    assumptions: tuple[str, ...] = ()
    "What the description assumes because it is not known before a run."
    recipe: RecipeDescription | None = None
    "The recipe that the stack was made from, if any."

    @property
    def total_passes(self) -> int:
        """Forward passes of the whole run."""
        return sum(len(group.passes) * (group.last - group.first + 1) for group in self.steps)

    @property
    def step_count(self) -> int:
        """Number of steps."""
        return self.steps[-1].last + 1 if self.steps else 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        return {
            **attrs.asdict(self),
            "total_passes": self.total_passes,
            "step_count": self.step_count,
        }

    def __str__(self) -> str:
        """Return the description as text."""
        lines = []
        if self.recipe is not None:
            lines.append(f"recipe     @{self.recipe.name}: {self.recipe.title}")
            lines += _table(self.recipe.parameters)
            lines.append(f"             {self.recipe.compared}")
            lines.append(f"             source: {self.recipe.source}")
        lines.append(f"executor   {self.executor}")
        for name, parameters in self.plugins.items():
            lines.append(f"plugin     {name}")
            lines += _table(parameters)
        if not self.plugins:
            lines.append("plugin     none: the base prediction is returned as it is")
        for run in _folded(self.steps):
            group, last = run[0], run[-1].last
            count = len(group.passes)
            span = f"{group.first}" if group.first == last else f"{group.first} to {last}"
            lines.append(f"steps      {span}: {count} {'pass' if count == 1 else 'passes'}")
            lines += [f"             {_pass_line(*ends)}" for ends in zip(group.passes, run[-1].passes, strict=True)]
            if len(group.ranks) > 1 and group.passes:
                lines.append(f"             {_placed(group.ranks)} (expected speedup {group.speedup:.2f})")
            if group.held:
                lines.append(f"             keeps the last x0 of {', '.join(group.held)}")
        lines.append(f"total      {self.total_passes} passes in {self.step_count} steps")
        lines += [f"assumed    {assumption}" for assumption in self.assumptions]
        return "\n".join(lines)


def _table(parameters: Sequence[ParameterDescription]) -> list[str]:
    width = max((len(parameter.name) for parameter in parameters), default=0)
    shown = max((len(parameter.value) for parameter in parameters), default=0)
    return [
        f"             {parameter.name:<{width}}  {parameter.value:<{shown}}  ({parameter.origin})"
        for parameter in parameters
    ]


def _placed(ranks: Sequence[str]) -> str:
    """Return what each rank runs; neighbours that run the same, as those that are idle, together."""
    parts, first = [], 0
    for units, same in groupby(ranks):
        last = first + len(list(same)) - 1
        parts.append(f"rank {first}: {units}" if first == last else f"ranks {first} to {last}: {units}")
        first = last + 1
    return "; ".join(parts)


def _folded(groups: Sequence[StepsDescription]) -> list[list[StepsDescription]]:
    """Return runs of groups to be shown as one: single steps that differ in strengths alone, each rising or falling."""
    runs: list[list[StepsDescription]] = []
    direction = None
    for group in groups:
        turn = _direction(runs[-1][-1], group) if runs else None
        if turn is not None and (len(runs[-1]) == 1 or turn == direction):
            runs[-1].append(group)
            direction = turn
        else:
            runs.append([group])
    return runs


def _direction(one: StepsDescription, next_: StepsDescription) -> tuple[int, ...] | None:
    """Return whether each strength rises (1), falls (-1) or stays (0) from a step to the next; None if more changes."""
    if one.first != one.last or next_.first != next_.last or _without_strengths(one) != _without_strengths(next_):
        return None
    before, after = _numbers(one), _numbers(next_)
    if before is None or after is None or len(before) != len(after):
        return None
    return tuple((later > earlier) - (later < earlier) for earlier, later in zip(before, after, strict=True))


def _without_strengths(group: StepsDescription) -> tuple[Any, ...]:
    passes = tuple((attrs.evolve(each, strengths={}), _is_read_only(each)) for each in group.passes)
    return passes, group.held, group.ranks, group.speedup


def _numbers(group: StepsDescription) -> list[float] | None:
    """Return the strengths of a group's passes, those of samples apart; None where one is not written in numbers."""
    written = ",".join(text for each in group.passes for text in each.strengths.values())
    try:
        return [float(number) for number in re.sub(r"[\[\]]", "", written).split(",")] if written else []
    except ValueError:
        return None


def _is_read_only(each: PassDescription) -> bool:
    """Whether nothing is added for a pass: a method looks at its prediction."""
    return set(each.strengths.values()) == {"0"}


def _pass_line(each: PassDescription, last: PassDescription) -> str:
    """Return the line of a pass, whose strengths may change evenly until its last step."""
    line, asked = f"{each.branch:<10} {each.condition}", ", ".join(each.asked_by)
    if each.perturbations:
        line += f", {'; '.join(each.perturbations)}"
    if _is_read_only(each):
        return f"{line}, read by {asked}"
    strengths = {
        output: first if first == last.strengths[output] else f"{first} -> {last.strengths[output]}"
        for output, first in each.strengths.items()
    }
    values = set(strengths.values())
    if values:
        both = ", ".join(f"{output} {strength}" for output, strength in strengths.items())
        line += f", strength {values.pop() if len(values) == 1 else both}"
    return line + (f"  <- {asked}" if asked else "")


def describe_run(
    stack: Stack,
    executor: str,
    layouts: Sequence[Layout],
    placed: Callable[[Sequence[Branch]], Placement | None],
    assumptions: Sequence[str] = (),
    recipe: Chosen | None = None,
) -> Description:
    """Describe the steps that `layouts` stand for, and where an executor of that description places them."""
    groups = []
    described = {layout: _of_layout(layout) for layout in set(layouts)}
    known: dict[tuple[tuple[str, float], ...], tuple[tuple[str, ...], float]] = {}
    for key, members in groupby(enumerate(layouts), key=lambda item: described[item[1]]):
        indices = [number for number, _ in members]
        passes, held = key
        branches = layouts[indices[0]].branches
        named = tuple((branch.name, branch.cost) for branch in branches)
        if named not in known:  # steps whose strengths alone differ are placed alike
            placement = placed(branches)
            ranks = () if placement is None else placement.shown([name for name, _ in named])
            known[named] = ranks, 1.0 if placement is None else placement.speedup
        ranks, speedup = known[named]
        groups.append(StepsDescription(indices[0], indices[-1], passes, held, ranks, speedup))
    plugins = {
        name: tuple(ParameterDescription(field, shown(each.value), each.origin) for field, each in settled.items())
        for name, settled in stack.settled().items()
    }
    if recipe is not None:
        taken = list(plugins)[: len(recipe.stack())]
        plugins |= {name: tuple(map(_of_recipe, plugins[name])) for name in taken}
    about = None if recipe is None else _described(recipe)
    return Description(plugins, executor, tuple(groups), tuple(assumptions), about)


def _of_recipe(parameter: ParameterDescription) -> ParameterDescription:
    return attrs.evolve(parameter, origin="recipe") if parameter.origin == "given" else parameter


def _described(chosen: Chosen) -> RecipeDescription:
    parameters = tuple(
        ParameterDescription(name, shown(value), origin) for name, (value, origin) in chosen.origins.items()
    )
    recipe = chosen.recipe
    return RecipeDescription(recipe.name, recipe.title, parameters, recipe.source, recipe.checked)


def _of_layout(layout: Layout) -> tuple[tuple[PassDescription, ...], tuple[str, ...]]:
    passes = tuple(_of_branch(layout, branch) for branch in layout.branches)
    return passes, tuple(name for name in layout.outputs if name in layout.holds)


def _of_branch(layout: Layout, branch: Branch) -> PassDescription:
    strengths = {
        output: shown(dict(each.strengths).get(branch.name, 0.0))
        for output, each in layout.outputs.items()
        if branch.name != BASE and not each.held
    }
    perturbations = tuple(str(perturbation) for perturbation in branch.perturbations)
    return PassDescription(branch.name, branch.condition, perturbations, layout.asked[branch.name], strengths)


def shown(value: Any) -> str:
    """Return a value as people write it."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if hasattr(value, "tolist"):
        return str(value.tolist())
    if isinstance(value, dict) or hasattr(value, "items"):
        return "{" + ", ".join(f"{key}: {shown(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(shown(inner) for inner in value) + "]"
    return value if isinstance(value, str) else "none" if value is None else brief(value, written=str)
