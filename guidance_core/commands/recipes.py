"""`guidance-core recipes`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from guidance_core.commands.options import AsJson, print_json
from guidance_core.config.tables import encode
from guidance_core.describe import shown
from guidance_core.guidance import Guidance
from guidance_core.recipes import FoundRecipe, Recipe, find_recipes, recipe_named

recipes_app = typer.Typer(help="List the recipes: guidance rules of published models.", invoke_without_command=True)


@recipes_app.callback()
def recipes(context: typer.Context, as_json: AsJson = False) -> None:
    """List the recipes: the guidance rules of published models, under the models' own parameter names."""
    if context.invoked_subcommand is not None:
        return
    found = find_recipes()
    if as_json:
        print_json([_row(each) for each in found])
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("recipe", "model", "parameters", "checked"):
        table.add_column(column, overflow="fold", no_wrap=column == "recipe")
    for each in found:
        if each.recipe is None:
            table.add_row(escape(f"@{each.name}"), f"[red]not loaded:[/red] {escape(each.failure or '')}", "", "")
        else:
            recipe = each.recipe
            given = ", ".join(f"{name}={shown(value)}" for name, value in _defaults(recipe).items())
            table.add_row(*map(escape, (f"@{recipe.name}", recipe.title, given or "none", recipe.checked)))
    Console().print(table)


@recipes_app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of a recipe, such as qwen-image.")], as_json: AsJson = False
) -> None:
    """Show one recipe: its parameters, what it makes of them, what it needs, and where it was read."""
    recipe = recipe_named(name)
    if as_json:
        print_json(_about(recipe))
        return
    print(f"@{recipe.name}: {recipe.title}")
    print(f"source       {recipe.source}")
    print(f"checked      {recipe.checked}")
    for field, values in (
        ("models", recipe.models),
        ("pipelines", recipe.pipelines),
        ("predicts", recipe.prediction_types),
        ("conditions", ("positive", *recipe.conditions)),
        ("outputs", recipe.outputs),
    ):
        if values:
            print(f"{field:<12} {', '.join(values)}")
    for parameter, value in _defaults(recipe).items():
        print(f"parameter    {parameter}={shown(value)}  {recipe.parameters[parameter].get('help', '')}".rstrip())
    for parameter, why in recipe.ignores.items():
        print(f"ignored      {parameter}: {why}")
    for parameter, what in recipe.inputs.items():
        print(f"an input     {parameter}: {what}")
    for each in recipe.refused:
        print(f"refused      {each.why}")
    print(f"by default   {Guidance.recipe(recipe.name).expanded().to_spec() or 'no guidance: one pass'}")
    if recipe.notes:
        print(f"note         {recipe.notes}")


def _defaults(recipe: Recipe) -> dict[str, Any]:
    return dict(recipe.choose({}).values)


def _row(found: FoundRecipe) -> dict[str, Any]:
    about = None if found.recipe is None else _about(found.recipe)
    place = {"distribution": found.distribution, "version": found.version, "failure": found.failure}
    return {"name": found.name, **place, "recipe": about}


def _about(recipe: Recipe) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "title": recipe.title,
        "source": recipe.source,
        "compared": recipe.compared or None,
        "models": list(recipe.models),
        "pipelines": list(recipe.pipelines),
        "prediction_types": list(recipe.prediction_types),
        "conditions": ["positive", *recipe.conditions],
        "outputs": list(recipe.outputs),
        "distilled": recipe.distilled,
        "parameters": [
            {
                "name": name,
                "default": encode(value, name),
                **{key: about for key, about in recipe.parameters[name].items() if key != "default"},
            }
            for name, value in _defaults(recipe).items()
        ],
        "ignores": dict(recipe.ignores),
        "stack": Guidance.recipe(recipe.name).expanded().to_dict()["guidance"],
        "notes": recipe.notes,
    }
