"""What a recipe is found by, what may be added to it, and how its numbers are written."""

from __future__ import annotations

import re

import pytest

from guidance_core import ConfigurationError, Guidance, UnknownNameError
from guidance_core.recipes import find_recipes, recipe_named, recipes_like

NAMES = [found.name for found in find_recipes()]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("wan2.2", "wan2.2-i2v-a14b, wan2.2-t2v-a14b, wan2.2-ti2v-5b"),
        ("Wan 2.2", "wan2.2-i2v-a14b, wan2.2-t2v-a14b, wan2.2-ti2v-5b"),
        ("@flux", "flux.1-dev, flux.1-kontext-dev, flux.1-schnell, flux.2-dev"),
        ("hunyuan", "hunyuanimage-2.1"),
        ("ltx2", "ltx-2, ltx-2-distilled, ltx-2.3"),
        ("stable-diffusion", "sd, sd3"),
        ("wan2.2-t2v", "Did you mean 'wan2.2-t2v-a14b'?"),
        ("FluxPipeline", "Did you mean 'flux.1-dev'?"),
        ("qwen-imgae", "Did you mean 'qwen-image'?"),
    ],
)
def test_the_name_of_a_family_leads_to_its_recipes(name, says):
    with pytest.raises(UnknownNameError, match=re.escape(says)):
        recipe_named(name)


def test_a_text_finds_names_before_models_and_pipelines():
    found = [each.name for each in recipes_like("qwenimage")]
    assert found[0] == "qwen-image"
    assert [each.name for each in recipes_like("")] == NAMES
    assert recipes_like("nothing of that kind") == []


@pytest.mark.parametrize("spec", ["@z-image,cfg", "@z-image,cfg:scale=2", "@ltx-2.3,cfg", "@sd,apg", "@wan2.1,ltx2"])
def test_a_recipe_takes_no_second_cfg(spec):
    name = spec[1:].partition(",")[0]
    with pytest.raises(
        ConfigurationError, match=rf"the recipe '{re.escape(name)}' guides with .* already.*a second time"
    ):
        Guidance.from_spec(spec)


@pytest.mark.parametrize(
    "spec",
    [
        "@qwen-image,gate:lo=0.5",
        "@flux.1-dev,cfg",
        "@sd,rescale:phi=0.7",
        "@z-image:guidance_scale=0,cfg",
        "@sdxl,pag:blocks=1",
    ],
)
def test_what_does_not_repeat_its_guidance_may_be_added(spec):
    stack = Guidance.from_spec(spec)
    assert Guidance.from_spec(stack.to_spec()) == stack


@pytest.mark.parametrize("name", NAMES)
def test_whole_values_are_written_as_whole_numbers(name):
    recipe = recipe_named(name)
    numbers = {key: value for key, value in recipe.choose({}).values.items() if isinstance(value, float)}
    changed = Guidance.recipe(name)
    for key, value in numbers.items():  # another whole value, where the recipe allows it
        try:
            changed = changed.with_parameters(**{key: value + 1.0})
        except ConfigurationError:
            continue
    for spec in (changed.to_spec(), changed.expanded().to_spec()):
        assert not re.search(r"\d\.0(?![\d.])", spec.replace('"2.0"', "")), spec
    assert Guidance.from_spec(changed.to_spec()) == changed
