"""Recipes: data that makes a model's stack, wherever a stack can be written."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import attrs
import pytest
import torch
from installed import install, on_path

from guidance_core import (
    ConfigurationError,
    Cosine,
    Exponential,
    Guidance,
    Linear,
    Phases,
    Position,
    SpecError,
    Table,
    UnknownNameError,
    Window,
    Within,
)
from guidance_core.recipes import (
    Recipe,
    find_recipes,
    recipe_named,
    recipe_names,
    recipe_of,
    register_recipe,
    unregister_recipe,
)
from guidance_core.recipes.__main__ import with_table
from guidance_core.recipes.expressions import Expression
from guidance_core.recipes.finding import shipped

BOTH = {"positive": {}, "negative": {}}


@pytest.fixture
def mine():
    """A recipe with everything that one can have."""
    recipe = Recipe.from_dict(
        "mine",
        {
            "title": "Mine",
            "source": "mine 1.0",
            "prediction_types": ["flow", "x0"],
            "conditions": ["negative"],
            "models": ["me/mine-*"],
            "pipelines": ["MyPipeline"],
            "parameters": {
                "strength": {"default": 5.0, "ge": 0, "help": "counts from c"},
                "norm": {"default": False, "help": "match norms"},
                "until": {"default": 1.0, "ge": 0, "le": 1},
            },
            "stack": [
                {"plugin": "cfg", "scale": "=strength + 1"},
                {"plugin": "normalize", "form": "match", "when": "=norm"},
                {"plugin": "interval", "hi": "=until", "by": "fraction", "when": "=until < 1"},
            ],
            "ignores": {"quality": "it was read by an older version"},
            "refused": [{"when": "=norm and strength == 0", "why": "norm has nothing to match where strength is 0"}],
        },
    )
    register_recipe(recipe)
    yield recipe
    unregister_recipe("mine")


def test_a_recipe_makes_the_stack_that_its_parameters_say(mine):
    assert Guidance.recipe("mine").expanded() == Guidance.from_spec("cfg:scale=6")
    both = Guidance.recipe("mine", strength=2, norm=True, until=0.5)
    expected = "cfg:scale=3,normalize:form=match,interval:hi=0.5,by=fraction"
    assert both.expanded() == Guidance.from_spec(expected)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"video": 1, "audio": 2}, {"video": 2.0, "audio": 3.0}),
        (Linear(5, 1), Linear(6, 2)),
        (Cosine(5, 1), Cosine(6, 2)),
        (Table({0.5: 1.0, 1.0: 2.0}), Table({0.5: 2.0, 1.0: 3.0})),
        (torch.tensor([1.0, 3.0]), torch.tensor([2.0, 4.0])),
    ],
    ids=["outputs", "linear", "cosine", "table", "tensor"],
)
def test_an_expression_changes_every_number_of_a_parameter_alike(mine, given, expected):
    stack = Guidance.recipe("mine", strength=given)
    assert stack.expanded() == Guidance([type(stack.plugins[0])(expected)])
    assert Guidance.from_spec(stack.to_spec()) == stack


def test_it_survives_every_written_form_and_equality(mine):
    for spec in ("@mine", "@mine:strength=2,norm=true", "@mine:strength=linear(5, 1),gate:lo=0.5"):
        stack = Guidance.from_spec(spec)
        again = [
            Guidance.from_spec(stack.to_spec()),
            Guidance.from_dict(stack.to_dict()),
            Guidance.from_json(stack.to_json()),
            Guidance.from_toml(stack.to_toml()),
            eval(repr(stack), {"Guidance": Guidance}),
        ]
        assert all(each == stack and hash(each) == hash(stack) for each in again)
        assert all(each.recipe.name == "mine" for each in again)
        assert stack != stack.expanded()
    assert Guidance.from_spec("@mine:strength=5") == Guidance.recipe("mine"), "the default, given"
    assert Guidance.from_spec("@mine:strength=2") != Guidance.recipe("mine")


def test_methods_may_follow_and_keep_their_place(mine):
    stack = Guidance.from_spec("@mine:strength=2,gate:lo=0.5")
    assert stack.expanded() == Guidance.from_spec("cfg:scale=3,gate:lo=0.5")
    assert stack.with_parameters(strength=4).expanded() == Guidance.from_spec("cfg:scale=5,gate:lo=0.5")


@pytest.mark.parametrize(
    ("parameters", "error", "says"),
    [
        ({"strenght": 2}, UnknownNameError, "has no parameter 'strenght'. Did you mean 'strength'?"),
        ({"speed": 2}, UnknownNameError, r"has no parameter 'speed'\. There is: norm, strength, until"),
        ({"strength": -1}, ConfigurationError, r"strength must lie in \[0, inf\); got -1"),
        ({"strength": "much"}, ConfigurationError, "strength must be a number"),
        ({"norm": 1}, ConfigurationError, "norm must be true or false"),
        ({"quality": 1}, ConfigurationError, "ignores 'quality': it was read by an older version"),
        ({"norm": True, "strength": 0}, ConfigurationError, "nothing to match where strength is 0"),
        ({"until": Linear(1, 0)}, ConfigurationError, "cannot be computed with until="),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(mine, parameters, error, says):
    with pytest.raises(error, match=f"recipe 'mine'.*{says}"):
        Guidance.recipe("mine", **parameters)


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        ("@qwen-imag", UnknownNameError, "no recipe 'qwen-imag'. Did you mean 'qwen-image'?"),
        ("cfg:scale=3,@qwen-image", SpecError, "a recipe comes first"),
        ("@qwen-image,@z-image", SpecError, "at most one recipe"),
        ("qwen-image", UnknownNameError, "is the name of a recipe, not of a method: write @qwen-image"),
        ("cfg,LTX-2.3", UnknownNameError, "write @ltx-2.3"),
        ("cfgg", UnknownNameError, "Did you mean 'cfg'"),
        ("@", SpecError, "expected the name of a recipe"),
        ("@qwen-image:", SpecError, "expected the name of a parameter"),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(spec, error, says):
    with pytest.raises(error, match=says):
        Guidance.from_spec(spec)


def test_a_run_of_another_model_is_refused_at_start(mine):
    given = {"conditions": BOTH, "sigmas": [1.0, 0.0], "prediction_type": "flow"}
    stack = Guidance.recipe("mine")
    stack.start(**given)
    stack.start(**{**given, "prediction_type": "x0"})
    with pytest.raises(ConfigurationError, match="'mine' is for flow or x0 predictions; the run says 'epsilon'"):
        stack.start(**{**given, "prediction_type": "epsilon"}, alphas=1.0)
    with pytest.raises(ConfigurationError, match="with one output; the run has video, audio"):
        stack.start(**given, outputs=("video", "audio"))
    with pytest.raises(UnknownNameError, match="needs the condition 'negative'"):
        stack.start(**{**given, "conditions": {"positive": {}}})
    x = torch.zeros(1, 3)
    with pytest.raises(ConfigurationError, match="with one output; the run has a, b"):
        stack.start(**given).step(0, {"a": x, "b": x}, lambda branch: {"a": x.clone(), "b": x.clone()})


def test_the_recipe_of_a_model_with_several_outputs_names_them():
    recipe = Recipe("two", "Two", "two 1.0", ["x0"], [{"plugin": "cfg", "scale": 3}], outputs=["video", "audio"])
    register_recipe(recipe)
    try:
        stack = Guidance.recipe("two")
        run = stack.start(conditions=BOTH, sigmas=[1.0, 0.0], prediction_type="x0")
        assert run.layouts[0].outputs.keys() == {"video", "audio"}
        with pytest.raises(ConfigurationError, match="outputs video, audio; the run has video, sound"):
            stack.start(conditions=BOTH, sigmas=[1.0, 0.0], prediction_type="x0", outputs=("video", "sound"))
    finally:
        unregister_recipe("two")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"stac": []}, "has 'stac', which is not known. Did you mean 'stack'?"),
        ({"source": None}, "lacks source"),
        ({"stack": [{"scale": 3}]}, 'a table with "plugin"'),
        ({"stack": [{"plugin": "cfg", "scale": "=speed"}]}, "reads 'speed', which is not a parameter"),
        ({"stack": [{"plugin": "cfg", "scale": "=strength +"}]}, "is not an expression"),
        ({"stack": [{"plugin": "cfg", "scale": "=open('x')"}]}, "calls something else"),
        ({"stack": [{"plugin": "cfg", "scale": "=strength.real"}]}, "a part that is not allowed"),
        ({"parameters": {"strength": 3}}, "is a table with a default"),
        ({"parameters": {"strength": {"default": 3.0, "most": 4}}}, "cannot be made"),
        ({"parameters": {"a b": {"default": 3.0}}}, "'a b' cannot be the name of a parameter"),
        ({"parameters": {"strength": {"default": 3.0, "kind": "numbr"}}}, "Did you mean 'number'?"),
    ],
)
def test_a_recipe_that_is_not_well_formed_says_where(changed, says):
    data = {
        "title": "T",
        "source": "s",
        "prediction_types": ["flow"],
        "parameters": {"strength": {"default": 3.0}},
        "stack": [{"plugin": "cfg", "scale": "=strength"}],
    }
    data = {key: value for key, value in {**data, **changed}.items() if value is not None}
    with pytest.raises(SpecError, match=f"(?s)recipe 'x'.*{says}"):
        Recipe.from_dict("x", data)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a + 1", 4.0),
        ("-a", -3.0),
        ("2 * a - a / 3", 5.0),
        ("min(a, 2) + max(a, 9)", 11),
        ("1 if a > 2 and not b else 0", 1),
        ("a == 3 or none", True),
        ("0 < a <= 3", True),
        ("pair[1] / 2 + len(pair)", 4.0),
        ("'x' if b else 'y'", "y"),
    ],
)
def test_expressions(text, expected):
    assert Expression(text).of({"a": 3.0, "b": False, "pair": (1.0, 4.0)}) == expected


@pytest.mark.parametrize("text", ["pair[2]", "pair[-1]", "pair[pair]", "a[0]", "len(a)", "len()", "min(pair)"])
def test_a_part_that_a_list_does_not_have_is_an_error_of_the_parameter(text):
    with pytest.raises(ConfigurationError, match="cannot be computed with"):
        Expression(text).of({"a": 3.0, "pair": (1.0, 4.0)})


def test_a_number_that_need_not_be_given_is_none_in_expressions():
    data = {
        "title": "T",
        "source": "s",
        "prediction_types": ["flow"],
        "parameters": {"first": {"default": 4.0, "ge": 1}, "second": {"default": "none", "kind": "number", "ge": 1}},
        "stack": [{"plugin": "cfg", "scale": "=first if second == none else second"}],
    }
    recipe = Recipe.from_dict("optional", data)
    register_recipe(recipe)
    try:
        assert Guidance.recipe("optional").expanded() == Guidance.from_spec("cfg:scale=4")
        for left_out in (None, "none"):
            assert Guidance.recipe("optional", second=left_out) == Guidance.recipe("optional")
        assert Guidance.from_spec("@optional:second=none") == Guidance.recipe("optional")
        given = Guidance.recipe("optional", second=2)
        assert given.expanded() == Guidance.from_spec("cfg:scale=2")
        assert Guidance.from_spec(given.to_spec()) == given
        with pytest.raises(ConfigurationError, match="second must lie in"):
            Guidance.recipe("optional", second=0)
        with pytest.raises(ConfigurationError, match="first must be a number"):
            Guidance.recipe("optional", first=None)
    finally:
        unregister_recipe("optional")


@pytest.mark.parametrize("bound", [0.0, 0.3, 0.5, 1.0])
def test_a_window_that_begins_above_a_number_leaves_it_out(bound):
    position = Position(index=0, count=4, sigma=0.5, first_sigma=1.0)
    for by in ("sigma", "fraction"):
        above, below = (Expression(f"min(max({name}(a), 0), 1)").of({"a": bound}) for name in ("above", "below"))
        at = attrs.evolve(position, sigma=bound, index=round(bound * 10), count=10)
        assert not Window(above, 1, by).contains(at) or bound == 1
        assert not Window(0, below, by).contains(at) or bound == 0
        just_inside = attrs.evolve(position, sigma=bound + 1e-4, index=int(bound * 10) + 1, count=10)
        assert Window(above, 2 if by == "sigma" else 1, by).contains(just_inside) or bound == 1


def test_conditions_are_read_only_as_far_as_they_are_needed():
    assert Expression("a and b > 1").of({"a": False, "b": Linear(1, 2)}) is False
    assert Expression("a or b > 1").of({"a": True, "b": Linear(1, 2)}) is True


def test_an_input_of_the_model_is_no_parameter_of_its_guidance():
    with pytest.raises(
        ConfigurationError, match=r"'flux\.1-dev' takes no 'guidance_scale': it is an embedding.*the model"
    ):
        Guidance.recipe("flux.1-dev", guidance_scale=3)


@pytest.mark.parametrize(("given", "limit"), [(True, 1), (1.5, 1.5), (False, 0), (0, 0)])
def test_an_amount_may_be_a_switch(given, limit):
    stack = Guidance.recipe("z-image", cfg_normalization=given)
    expected = f"cfg:scale=6,normalize:limit={limit}" if limit else "cfg:scale=6"
    assert stack.expanded() == Guidance.from_spec(expected)
    assert Guidance.from_toml(stack.to_toml()) == stack


def test_none_may_be_one_of_the_names():
    stack = Guidance.from_spec("@sensenova-u1:cfg_norm=none")
    assert stack == Guidance.recipe("sensenova-u1", cfg_norm="none") == Guidance.from_toml(stack.to_toml())
    with pytest.raises(ConfigurationError, match="cfg_norm must be one of none, cfg_zero_star"):
        Guidance.recipe("sensenova-u1", cfg_norm="globl")


@pytest.mark.parametrize("given", [[0.4], [0.1, 0.2, 0.3], [0.9, 0.1], [0.5, 0.5]])
def test_an_interval_that_is_none_is_refused(given):
    with pytest.raises(ConfigurationError, match="recipe 'bagel': cfg_interval"):
        Guidance.recipe("bagel", cfg_interval=given)


def test_an_expression_that_divides_by_zero_is_an_error_of_the_parameter():
    with pytest.raises(ConfigurationError, match="'1 / a' cannot be computed with a=0"):
        Expression("1 / a").of({"a": 0})


def test_the_recipe_of_a_host_is_found_by_name_or_pipeline(mine):
    assert recipe_of(["me/mine-large"], "Unknown") is mine
    assert recipe_of(["/data/models/MINE-large/"], "Unknown") is mine, "the folder that it was loaded from"
    assert recipe_of(["you/mine-large"], "MyPipeline") is mine, "by the pipeline, since the name is another's"
    assert recipe_of([], "MyPipeline") is mine
    assert recipe_of(["Qwen/Qwen-Image"], "MyPipeline").name == "qwen-image", "a name says more than a class"
    with pytest.raises(UnknownNameError, match="there is no recipe for NoPipeline"):
        recipe_of([], "NoPipeline")
    other = Recipe("other", "Other", "s", ["flow"], [], pipelines=["MyPipeline"])
    register_recipe(other)
    try:
        with pytest.raises(UnknownNameError, match="several recipes fit MyPipeline: @mine, @other"):
            recipe_of([], "MyPipeline")
    finally:
        unregister_recipe("other")
    other = Recipe("other", "Other", "s", ["flow"], [], pipelines=["MyPipeline"], parts=["second"])
    register_recipe(other)
    try:
        assert recipe_of([], "MyPipeline", ["first", "second"]) is other
        assert recipe_of([], "MyPipeline", ["first"]) is mine
    finally:
        unregister_recipe("other")


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_can_be_used_as_it_is(name):
    recipe = recipe_named(name)
    stack = Guidance.recipe(name)
    assert Guidance.from_spec(stack.to_spec()) == stack
    assert stack.describe(4).recipe.name == name
    given = {name: {} for name in ("positive", *recipe.conditions)}
    levels = {} if recipe.prediction_types[0] in ("flow", "x0") else {"alphas": 1.0}
    stack.start(conditions=given, sigmas=[0.9, 0.4, 0.0], prediction_type=recipe.prediction_types[0], **levels)
    assert all(about.get("help") for about in recipe.parameters.values()), "every parameter says what it does"
    assert recipe.stack or recipe.distilled


MODULE = """
from guidance_core.recipes import Recipe
RECIPE = Recipe("theirs", "Theirs", "theirs 1.5", ["flow"], [{"plugin": "cfg", "scale": 2}], conditions=["negative"])
"""


def test_a_distribution_publishes_its_recipe(tmp_path, monkeypatch):
    install(tmp_path, "their-model", "[guidance_core.recipes]\ntheirs = {module}:RECIPE\n", MODULE)
    on_path(monkeypatch, tmp_path)
    assert Guidance.from_spec("@theirs").expanded() == Guidance.from_spec("cfg:scale=2")
    found = next(each for each in find_recipes() if each.name == "theirs")
    assert (found.distribution, found.version, found.failure) == ("their-model", "1.5", None)
    monkeypatch.setenv("GUIDANCE_CORE_DISABLE_AUTOLOAD", "1")
    with pytest.raises(UnknownNameError, match="no recipe 'theirs'"):
        Guidance.from_spec("@theirs")
    assert "qwen-image" in recipe_names(), "those of the library are there in any case"


@pytest.mark.parametrize(
    ("entry", "code", "says"),
    [
        ("theirs = {module}:RECIPE", "raise RuntimeError('broken')", "could not be loaded: RuntimeError: broken"),
        ("theirs = {module}:RECIPE", "raise SystemExit(3)", "could not be loaded: SystemExit"),
        ("theirs = {module}:RECIPE", "RECIPE = {}", "is not a guidance_core.recipes.Recipe"),
        ("theirs = {module}:NONE", "", "could not be loaded"),
        ("theirs = {module}:RECIPE", MODULE.replace('"theirs"', '"others"'), "calls itself 'others'"),
    ],
)
def test_a_broken_recipe_harms_no_other(tmp_path, monkeypatch, entry, code, says):
    name = f"their-broken-{abs(hash((entry, code))) % 10**8}"
    install(tmp_path, name, f"[guidance_core.recipes]\n{entry}\n", code)
    on_path(monkeypatch, tmp_path)
    with pytest.raises(ConfigurationError, match=says):
        Guidance.from_spec("@theirs")
    assert next(each for each in find_recipes() if each.name == "theirs").failure
    assert Guidance.from_spec("@qwen-image").recipe.name == "qwen-image"


def test_a_shipped_name_stays_with_what_ships(tmp_path, monkeypatch):
    install(tmp_path, "taker", "[guidance_core.recipes]\nqwen-image = {module}:RECIPE\n", MODULE)
    on_path(monkeypatch, tmp_path)
    assert Guidance.recipe("qwen-image").recipe.recipe is shipped()["qwen-image"]
    assert [each.failure for each in find_recipes() if each.name == "qwen-image" and each.failure]


def test_a_stack_of_a_recipe_is_copied_and_pickled_as_it_is(mine):
    for stack in (Guidance.recipe("z-image", guidance_scale=Linear(5, 1)), Guidance.recipe("mine", strength=2)):
        for again in (pickle.loads(pickle.dumps(stack)), copy.deepcopy(stack), copy.copy(stack)):
            assert again == stack
            assert hash(again) == hash(stack)
            assert again.to_spec() == stack.to_spec()
            assert again.recipe.given == stack.recipe.given
    assert pickle.loads(pickle.dumps(mine)) == mine == copy.deepcopy(mine)
    assert mine != recipe_named("z-image")


def test_nobody_can_change_a_recipe():
    data = {"title": "T", "source": "s", "prediction_types": ["flow"], "stack": [{"plugin": "cfg", "scale": 3}]}
    recipe = Recipe.from_dict("x", data)
    data["stack"][0]["scale"] = 100
    assert recipe.choose({}).stack() == [{"plugin": "cfg", "scale": 3}]
    with pytest.raises(TypeError):
        recipe_named("z-image").stack[0]["scale"] = 100


@pytest.mark.parametrize(
    ("given", "values"),
    [("3x3+7x45", {0: 8, 44: 8, 45: 4, 47: 4}), (Phases([5, 1], [0.5]), {0: 6, 47: 2}), (Within(4, 0.5, 0.9), {47: 2})],
    ids=["counted", "phases", "within"],
)
def test_every_schedule_made_of_values_can_be_shifted(mine, given, values):
    (scale,) = [plugin.scale for plugin in Guidance.recipe("mine", strength=given).plugins]
    for index, value in values.items():
        assert scale.at(Position(index=index, count=48, sigma=1 - index / 48, first_sigma=1.0)) == value


def test_a_schedule_that_cannot_be_shifted_is_refused_and_not_changed_otherwise(mine):
    with pytest.raises(ConfigurationError, match="cannot be computed with strength=Exponential"):
        Guidance.recipe("mine", strength=Exponential(5.0, 0.3))


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("a b", {}),
        ("", {}),
        ("@x", {}),
        ("x", {"prediction_types": []}),
        ("x", {"prediction_types": ["flo"]}),
        ("x", {"prediction_types": None}),
        ("x", {"stack": None}),
        ("x", {"stack": [{"plugin": "cfg", "when": "no"}]}),
        ("x", {"outputs": ["a", "a"]}),
        ("x", {"models": 3}),
        ("x", {"title": 3}),
        ("x", {"ignores": ["x"]}),
        ("x", {"refused": 3}),
        ("x", {"refused": [{}]}),
        ("x", {"parameters": []}),
        ("x", {"parameters": {"s": {"default": 3.0, "ge": 4}}}),
        ("x", {"parameters": {"s": {"default": 3.0, "kind": []}}}),
        *(("x", {"parameters": {name: {"default": 3.0}}}) for name in ("_s", "recipe", "self", "class", "none", "é")),
    ],
)
def test_what_is_no_recipe_is_refused_when_it_is_made(name, changed):
    given = {"title": "T", "source": "s", "prediction_types": ["flow"], "stack": [{"plugin": "cfg"}]}
    with pytest.raises(SpecError):
        Recipe(name, **{**given, **changed})


def test_parameters_that_contradict_each_other_may_be_said_as_tables():
    recipe = Recipe(
        "x",
        title="T",
        source="s",
        prediction_types=["flow"],
        stack=[],
        parameters={"s": {"default": 1.0}},
        refused=[{"when": "=s > 1", "why": "it is too much"}],
    )
    with pytest.raises(ConfigurationError, match="it is too much"):
        recipe.choose({"s": 2})


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/cache/models--Tongyi-MAI--Z-Image-Turbo/snapshots/0123", "z-image-turbo"),
        ("/models/z-image-turbo/snapshots/abc", "z-image-turbo"),
        ("Tongyi-MAI/Z-Image", "z-image"),
    ],
)
def test_a_model_is_known_by_the_folder_that_it_lies_in(path, name):
    assert recipe_of([path], "ZImagePipeline").name == name


def test_what_else_is_installed_does_not_take_the_place_of_what_ships():
    greedy = Recipe("greedy", "G", "s", ["flow"], [], models=["*"], pipelines=["ZImagePipeline"])
    register_recipe(greedy)
    try:
        assert recipe_of(["Tongyi-MAI/Z-Image"], "ZImagePipeline").name == "z-image"
    finally:
        unregister_recipe("greedy")


@pytest.mark.parametrize("wrong", ["Z-Image", "Tongyi-MAI/Z-Image", "@Z-IMAGE"])
def test_the_name_of_the_model_leads_to_its_recipe(wrong):
    with pytest.raises(UnknownNameError, match="Did you mean 'z-image'"):
        Guidance.recipe(wrong)


def test_the_page_shows_the_recipes():
    page = Path(__file__).parents[1] / "docs" / "recipes.md"
    text = page.read_text(encoding="utf-8")
    assert with_table(text) == text, "run python -m guidance_core.recipes docs/recipes.md"
