"""Where recipes come from: the tables of this package, entry points, and what a program registers."""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Collection, Mapping
from importlib import resources
from importlib.metadata import EntryPoint
from types import MappingProxyType
from typing import Any

import attrs

from guidance_core.discovery import RECIPES, entries_of
from guidance_core.discovery.loading import comes_from_a_signal, visible_interrupts
from guidance_core.errors import ConfigurationError, UnknownNameError, brief, did_you_mean, suggest, told
from guidance_core.recipes.recipe import Recipe
from guidance_core.version import __version__

_registered: dict[str, Recipe] = {}
FAMILY_LETTERS = 2
"What a name needs at least to stand for a family of models."
ONE_LETTER = 0.93
"How near a name is to one that differs in a letter."
MOST_HINTS = 8
"Recipes of a family that an error names."


@attrs.frozen
class FoundRecipe:
    """One recipe that is published, loaded or not."""

    name: str
    distribution: str
    version: str
    recipe: Recipe | None = None
    failure: str | None = None
    "Why it could not be loaded."


@functools.cache
def shipped() -> Mapping[str, Recipe]:
    """Return the recipes of this library by name."""
    import tomllib  # here, for importing the library to stay quick

    found: dict[str, Recipe] = {}
    for file in sorted(
        resources.files("guidance_core.recipes").joinpath("models").iterdir(), key=lambda each: each.name
    ):
        if file.name.endswith(".toml"):
            for name, data in tomllib.loads(file.read_text(encoding="utf-8")).items():
                found[name] = Recipe.from_dict(name, data)
    return MappingProxyType(dict(sorted(found.items())))


def find_recipes() -> list[FoundRecipe]:
    """Return every recipe: those of this library, then those of others; failures are listed, never raised."""
    ours = [FoundRecipe(name, "guidance-core", __version__, recipe) for name, recipe in shipped().items()]
    mine = [FoundRecipe(name, "", "", recipe) for name, recipe in _registered.items()]
    return [*ours, *mine, *(_published(entry.name) for entry in entries_of(RECIPES))]


def recipe_names() -> list[str]:
    """Return the names of all recipes, installed or not; loads none of others."""
    return list(dict.fromkeys([*shipped(), *_registered, *(entry.name for entry in entries_of(RECIPES))]))


def recipe_named(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        UnknownNameError: there is none; the nearest is suggested.
        ConfigurationError: it cannot be loaded.
    """
    if not isinstance(name, str):
        raise ConfigurationError(f"a recipe has a name, such as 'qwen-image'; got {brief(name)}.")
    name = name.removeprefix("@")
    found = shipped().get(name) or _registered.get(name)
    if found is not None:
        return found
    if name not in recipe_names():
        raise UnknownNameError(f"there is no recipe {brief(name)}.{_hint(name)}")
    published = _published(name)
    if published.recipe is None:
        raise ConfigurationError(
            f"the recipe {name!r} of {published.distribution} could not be loaded: {published.failure}."
        )
    return published.recipe


def recipes_like(text: str) -> list[FoundRecipe]:
    """Return the recipes whose name, model or pipelines hold a text; capitals, hyphens, dots and spaces do not count.

    Those whose name begins with it come first: `wan` finds every Wan, `FluxPipeline` what that pipeline runs.
    """
    found = {each.name: each for each in find_recipes()}
    return [found[name] for name in _like(text, {name: each.recipe for name, each in found.items()})]


def _like(text: str, known: Mapping[str, Recipe | None]) -> list[str]:
    wanted = _letters(text)
    begins = [name for name in known if _letters(name).startswith(wanted)]
    holds = [
        name for name, recipe in known.items() if any(wanted in _letters(each) for each in _words_of(name, recipe))
    ]
    return list(dict.fromkeys(begins + holds))


def _words_of(name: str, recipe: Recipe | None) -> list[str]:
    return [name] if recipe is None else [name, recipe.title, *recipe.models, *recipe.pipelines]


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.lower())


def _hint(name: str) -> str:
    """Return what may be meant by the name of no recipe: a model of ours, the recipes of a family, or one name."""
    same = [known for known, recipe in shipped().items() if known == name.lower() or _is_named(name, recipe)]
    if same:
        return f" Did you mean {same[0]!r}?"
    if typing_error := did_you_mean(name, recipe_names(), nearness=ONE_LETTER):
        return typing_error
    if len(_letters(name)) >= FAMILY_LETTERS:
        loaded = {**shipped(), **_registered}  # to find what others publish, only their names are read
        of_family = _like(name, {each: loaded.get(each) for each in recipe_names()})
        if len(of_family) > 1:
            more = f" and {len(of_family) - MOST_HINTS} more" if len(of_family) > MOST_HINTS else ""
            return f" Of that family there are {', '.join(of_family[:MOST_HINTS])}{more}."
        if of_family:
            return f" Did you mean {of_family[0]!r}?"
    return suggest(name, recipe_names())


def register_recipe(recipe: Recipe) -> None:
    """Have a recipe found under its name in this process, as if a distribution published it.

    Raises:
        ConfigurationError: the name is taken.
    """
    if not isinstance(recipe, Recipe):
        raise ConfigurationError(f"register_recipe takes a Recipe; got {brief(recipe)}.")
    if recipe.name in recipe_names():
        raise ConfigurationError(f"there is already a recipe {recipe.name!r}; choose another name.")
    _registered[recipe.name] = recipe


def unregister_recipe(name: str) -> None:
    """Remove a recipe that this program registered.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if not isinstance(name, str) or _registered.pop(name, None) is None:
        raise UnknownNameError(f"no recipe {brief(name)} was registered.{suggest(name, _registered)}")


def recipe_of(models: Collection[str], pipeline: str, parts: Collection[str] = ()) -> Recipe:
    """Return the recipe of a model that a host holds.

    Args:
        models: names under which the model may be known, such as `Qwen/Qwen-Image`, or the folder it was loaded from.
        pipeline: class of the pipeline that runs it.
        parts: names of the components that it has.

    Raises:
        UnknownNameError: there is none, or more than one, which the error names.
    """
    known = [found.recipe for found in find_recipes() if found.recipe is not None]
    exactly = [recipe for recipe in known if any(_is_named(model, recipe, exactly=True) for model in models)]
    by_name = [recipe for recipe in known if any(_is_named(model, recipe) for model in models)]
    fitting = exactly or by_name or [recipe for recipe in known if pipeline in recipe.pipelines]
    if len(fitting) > 1:  # those that ask for most of what is there
        fitting = [recipe for recipe in fitting if set(recipe.parts) <= set(parts)]
        most = max((len(recipe.parts) for recipe in fitting), default=0)
        fitting = [recipe for recipe in fitting if len(recipe.parts) == most]
    ours = [recipe for recipe in fitting if shipped().get(recipe.name) is recipe]
    if len(ours) == 1:  # what is installed besides cannot take its place
        return ours[0]
    if len(fitting) == 1:
        return fitting[0]
    about = f"{pipeline}{''.join(f', {model}' for model in sorted(models))}"
    if not fitting:
        raise UnknownNameError(f"there is no recipe for {about}; give a spec, such as 'cfg:scale=5'.")
    names = ", ".join(f"@{recipe.name}" for recipe in fitting)
    raise UnknownNameError(f"several recipes fit {about}: {names}. Name one of them.")


def _is_named(model: str, recipe: Recipe, *, exactly: bool = False) -> bool:
    """Whether a model is one of the recipe's: by its published name, or by a folder of the path that it lies in.

    The Hub's cache has folders such as `models--Qwen--Qwen-Image/snapshots/0123`.
    """
    given = model.replace("\\", "/").rstrip("/").lower()
    folders = given.split("/")
    published = {given} | {name[8:].replace("--", "/", 1) for name in folders if name.startswith("models--")}
    is_repository = len(folders) == 2 and folders[0] not in ("", ".", "..")
    for pattern in recipe.models:
        wanted = pattern.lower()
        if exactly and "*" in wanted:
            continue
        of_folder = any(fnmatch.fnmatchcase(folder, wanted.rpartition("/")[2]) for folder in folders if folder)
        if any(fnmatch.fnmatchcase(name, wanted) for name in published) or (of_folder and not is_repository):
            return True
    return False


def _published(name: str) -> FoundRecipe:
    entries = [entry for entry in entries_of(RECIPES) if entry.name == name]
    first = entries[0]
    told_of: dict[str, Any] = {"name": name, "distribution": first.distribution, "version": first.version}
    if name in shipped():
        return FoundRecipe(**told_of, failure=f"the name {name!r} belongs to a recipe that guidance-core ships")
    if len(entries) > 1:
        owners = " and ".join(sorted({each.distribution for each in entries}))
        return FoundRecipe(**told_of, failure=f"several distributions provide it: {owners}")
    try:
        with visible_interrupts():
            found = EntryPoint(first.name, first.target, first.group).load()
    except BaseException as error:
        if comes_from_a_signal(error):
            raise
        return FoundRecipe(**told_of, failure=told(error))
    if not isinstance(found, Recipe):
        return FoundRecipe(**told_of, failure=f"{first.target} is not a guidance_core.recipes.Recipe")
    if found.name != name:
        return FoundRecipe(**told_of, failure=f"the recipe calls itself {found.name!r}")
    return FoundRecipe(**told_of, recipe=found)
