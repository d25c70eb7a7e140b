"""python -m guidance_core.recipes docs/recipes.md: the table of recipes in a page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from guidance_core.recipes.finding import shipped
from guidance_core.recipes.recipe import Recipe

BEGIN, END = "<!-- recipes -->", "<!-- end of recipes -->"


def table() -> str:
    """Return the table of all shipped recipes, in Markdown."""
    lines = ["| recipe | model | parameters | predicts | checked |", "|---|---|---|---|---|"]
    lines += [_row(recipe) for recipe in shipped().values()]
    return "\n".join(lines)


def _row(recipe: Recipe) -> str:
    given = ", ".join(f"`{name}={_written(about['default'])}`" for name, about in recipe.parameters.items())
    predicts = ", ".join(recipe.prediction_types)
    source = f"{recipe.checked}; {recipe.source}"
    return f"| `@{recipe.name}` | {recipe.title} | {given or '–'} | {predicts} | {source} |".replace("\n", " ")


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_written, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def with_table(page: str) -> str:
    """Return a page with the table between its marks."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")
