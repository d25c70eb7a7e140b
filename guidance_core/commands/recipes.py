"""`guidance-core recipes`."""

from __future__ import annotations

import textwrap
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from guidance_core.commands.command import GuidanceGroup, Quiet, add_command
from guidance_core.commands.options import AsJson, Console, print_json
from guidance_core.config.tables import encode
from guidance_core.describe import shown
from guidance_core.errors import UnknownNameError, brief
from guidance_core.guidance import Guidance
from guidance_core.recipes import FoundRecipe, Recipe, find_recipes, recipe_named, recipes_like


class RecipesGroup(GuidanceGroup):
    """`recipes TEXT` lists those that hold a text; `recipes show NAME` is a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take a first word that is not a command as the text to look for."""
        words = [word for word in args if not word.startswith("-")]
        if words and words[0] not in self.commands and not {"--filter", "-f"}.intersection(args):
            at = args.index(words[0])
            args = [*args[:at], "--filter", *args[at:]]
        return super().parse_args(ctx, args)


recipes_app = typer.Typer(cls=RecipesGroup, invoke_without_command=True, rich_markup_mode=None)


@recipes_app.callback(
    epilog="guidance-core recipes\nguidance-core recipes wan\nguidance-core recipes show qwen-image",
    subcommand_metavar="[TEXT | show NAME]",
)
def recipes(
    context: typer.Context,
    text: Annotated[
        str,
        typer.Option(
            "--filter",
            "-f",
            help="List those whose name, model or pipeline contains this text, such as wan or FluxPipeline.",
        ),
    ] = "",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List the recipes: the guidance rules of published models, under the models' own parameter names."""
    if context.invoked_subcommand is not None:
        return
    found = recipes_like(text) if text else find_recipes()
    if not found:
        raise UnknownNameError(
            f"no recipe holds the text {brief(text)} in its name, model or pipeline; `guidance-core recipes` lists all."
        )
    if as_json:
        print_json([_row(each) for each in found])
        return
    if quiet:
        return
    _print_list([_cells(each) for each in found])


COLUMNS = ("recipe", "model", "parameters", "checked")


def _cells(found: FoundRecipe) -> tuple[str, ...]:
    """Return what the list shows of a recipe."""
    recipe = found.recipe
    if recipe is None:
        return f"@{found.name}", f"not loaded: {found.failure or ''}", "", ""
    given = ", ".join(f"{name}={shown(value)}" for name, value in _defaults(recipe).items())
    return f"@{recipe.name}", recipe.title, given or "none", recipe.checked


def _print_list(rows: list[tuple[str, ...]]) -> None:
    """Print a table; or, where a column would be narrower than its longest word, one line below the other."""
    console = Console()
    words = [max(len(word) for row in (COLUMNS, *rows) for word in row[at].split() or [""]) for at in range(4)]
    left = console.width - sum(words) - 2 * len(words)
    if left < 0:
        for row in rows:
            print(row[0])
            for text in filter(None, row[1:]):
                wrap = textwrap.TextWrapper(
                    console.width, initial_indent="  ", subsequent_indent="    ", break_long_words=False
                )
                wrap.break_on_hyphens = False
                print(wrap.fill(text))
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    wanted = [max(len(row[at]) for row in rows) - words[at] for at in range(4)]
    share = min(1.0, left / max(1, sum(wanted)))
    for column, width, more in zip(COLUMNS, words, wanted, strict=True):
        table.add_column(column, overflow="fold", width=width + max(0, int(share * more)))
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


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


add_command(recipes_app, show, "guidance-core recipes show qwen-image", "guidance-core recipes show wan2.1 --json")


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
