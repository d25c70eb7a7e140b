"""Recipes: the guidance rules of published models, under the models' own parameter names."""

from guidance_core.recipes.finding import (
    FoundRecipe,
    find_recipes,
    recipe_named,
    recipe_names,
    recipe_of,
    recipes_like,
    register_recipe,
    unregister_recipe,
)
from guidance_core.recipes.recipe import Chosen, Recipe

__all__ = [
    "Chosen",
    "FoundRecipe",
    "Recipe",
    "find_recipes",
    "recipe_named",
    "recipe_names",
    "recipe_of",
    "recipes_like",
    "register_recipe",
    "unregister_recipe",
]
