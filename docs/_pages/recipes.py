"""A page for each family of models that recipes are for."""

from __future__ import annotations

import re
from pathlib import Path

from _pages.markdown import linked, table, wrapped
from _pages.methods import _default, _taken
from guidance_core import Guidance, parameter_infos
from guidance_core.recipes import Recipe
from guidance_core.recipes.finding import shipped


def pages(docs: Path) -> dict[str, str]:
    """Return the page of each family, by the letters that its recipes' names begin with."""
    return {family: _page(recipes) for family, recipes in families().items()}


def families() -> dict[str, list[Recipe]]:
    """Return the recipes that ship, by family."""
    found: dict[str, list[Recipe]] = {}
    for name, recipe in sorted(shipped().items()):
        family = name[: len(name) - len(name.lstrip("abcdefghijklmnopqrstuvwxyz"))]
        found.setdefault(family, []).append(recipe)
    return found


def title(recipes: list[Recipe]) -> str:
    """Return what the titles of a family have in common."""
    first, last = min(titles := [recipe.title for recipe in recipes]), max(titles)
    common = first[: next((i for i, pair in enumerate(zip(first, last, strict=False)) if len({*pair}) > 1), len(first))]
    return re.sub(r"[^\w]+$", "", common if len(recipes) > 1 else common.partition(",")[0])


def _page(recipes: list[Recipe]) -> str:
    return "\n\n".join([f"# {title(recipes)}", *map(_recipe, recipes)]) + "\n"


def _recipe(recipe: Recipe) -> str:
    guidance = Guidance.from_spec(f"@{recipe.name}")
    told = {
        "predicts": ", ".join(recipe.prediction_types),
        "conditions": ", ".join(f"`{each}`" for each in ("positive", *recipe.conditions)),
        "outputs": ", ".join(f"`{each}`" for each in recipe.outputs),
        "models": ", ".join(f"`{each}`" for each in recipe.models),
        "pipelines of diffusers": ", ".join(f"`{each}`" for each in recipe.pipelines),
        "distilled": "yes; it needs no guidance" if recipe.distilled else "",
        "read in": linked(recipe.source),
        "checked": recipe.checked,
    }
    infos = parameter_infos(recipe.cls)
    parts = [
        f"## `@{recipe.name}`",
        f"{recipe.title}. With its defaults it is this stack:",
        wrapped(guidance.expanded().to_spec() or "(no guidance)"),
        table(
            ("parameter", "takes", "default", "meaning"),
            [(f"`{each.name}`", _taken(each), _default(each), each.help or "–") for each in infos],
        )
        if infos
        else "It has no parameters.",
        table(("property", "value"), [(name, text.replace("\n", " ")) for name, text in told.items() if text]),
        recipe.notes,
    ]
    return "\n\n".join(filter(None, parts))
