"""The embedded model of letters: its conditions, what can be changed in it, its judge and its scores."""

from __future__ import annotations

import functools
import json
import sys
from importlib import resources
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from guidance_core import AllGatherExecutor, ConfigurationError, Guidance, GuidanceError, IsolateOutputs
from guidance_core.models import (
    ANY_CHARACTER,
    ANY_TYPEFACE,
    CHARACTERS,
    TYPEFACES,
    letters_condition,
    load_letters_judge,
    load_letters_model,
    load_small_letters_model,
)
from guidance_core.models.letters_drawing import draw_letters

runner = CliRunner()


@functools.cache
def drawn(spec, **settings):
    return draw_letters(Guidance.from_spec(spec), **({"steps": 12, "per_class": 2, "characters": "AGR5"} | settings))


def noise(rows=2):
    return torch.randn(rows, 1, 28, 28, generator=torch.Generator().manual_seed(3))


def numbers(*given):
    return torch.tensor(given)


# The weights.


def test_the_weights_are_small():
    folder = resources.files("guidance_core.models") / "weights"
    assert sum(len(each.read_bytes()) for each in folder.iterdir() if each.name.startswith("letters")) <= 3_000_000


@pytest.mark.parametrize("load", [load_letters_model, load_small_letters_model, load_letters_judge])
def test_models_are_ready_to_use_and_draw_no_random_numbers(load):
    before = torch.get_rng_state()
    model = load()
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training
    assert all(each.dtype == torch.float32 and not each.requires_grad for each in model.state_dict().values())


# Conditions.


@pytest.mark.parametrize("load", [load_letters_model, load_small_letters_model])
def test_shares_say_what_numbers_say(load):
    model, character, typeface = load(), numbers(3, ANY_CHARACTER), numbers(ANY_TYPEFACE, 5)
    asked = model(noise(), 0.6, character, typeface)
    shared = model(noise(), 0.6, **letters_condition(character, typeface))
    torch.testing.assert_close(asked, shared)


def test_each_condition_can_be_left_open():
    model = load_letters_model()
    said = [(c, t) for c in (10, ANY_CHARACTER) for t in (4, ANY_TYPEFACE)]
    predictions = [model(noise(1), 0.8, numbers(c), numbers(t)) for c, t in said]
    for index, one in enumerate(predictions):
        for other in predictions[index + 1 :]:
            assert (one - other).std() > 0.01


def test_a_sample_does_not_depend_on_its_batch_mates():
    model, x = load_letters_model(), noise(3)
    together = model(x, 0.5, numbers(1, 2, 3), numbers(4, 5, 6))
    torch.testing.assert_close(model(x[1:2], 0.5, numbers(2), numbers(5)), together[1:2])


# Pictures.


def test_guidance_makes_letters_easier_to_read():
    plain, guided = (drawn(spec, characters=CHARACTERS, per_class=1, steps=10) for spec in ("", "cfg:scale=3"))
    assert plain.passes_per_step == 1
    assert guided.passes_per_step == 2
    assert guided.accuracy >= 0.8
    assert guided.accuracy >= plain.accuracy + 0.1
    assert guided.scores["typeface"].value > plain.scores["typeface"].value
    assert guided.scores["distance"].value < plain.scores["distance"].value


def test_too_high_a_scale_saturates():
    assert drawn("cfg:scale=15").scores["saturation"].value > 2 * drawn("cfg:scale=3").scores["saturation"].value


def test_a_picture_does_not_change_with_what_else_is_drawn():
    spec = "cfg:scale=3,tpg:scale=1"
    many, few, other = drawn(spec), drawn(spec, per_class=1), drawn(spec, per_class=1, characters="5G")
    torch.testing.assert_close(many.images[::2], few.images)
    torch.testing.assert_close(few.images[[3, 1]], other.images)
    assert few.notes == many.notes
    assert torch.equal(drawn.__wrapped__(spec).images, many.images)


def test_batched_draws_what_serial_draws():
    spec = "cfg:scale=3,stg:blocks=3,branch=weak,autoguidance:scale=2,model=small,branch=small"
    serial, batched = (drawn(spec, executor=name) for name in ("serial", "batched"))
    assert serial.passes_per_step == 4
    torch.testing.assert_close(serial.images, batched.images, rtol=1e-3, atol=1e-3)


def images_of(group, spec):
    return drawn(spec, executor=AllGatherExecutor(group), steps=4).images


def test_ranks_draw_what_one_process_draws(ranks):
    spec = "cfg:scale=3,autoguidance:scale=2,model=small"
    for images in ranks.run(images_of, spec, ranks=2):
        assert torch.equal(images, drawn(spec, steps=4).images)


@pytest.mark.parametrize(
    "spec",
    [
        "dual:text_scale=3,image_scale=2,image_condition=typeface",
        "perp-neg:scale=3,conditions=[typeface],weights=[0.5]",
        "multi-condition:condition=character,weight=2",
        "cads:noise=0.1,cfg:scale=3",
        "icg:scale=3",
        "tsg:scale=2",
        "seg:scale=2,blocks=[2, 3]",
        "pag:scale=2,blocks=3",
        "swg:scale=1",
        "slg:scale=2,blocks=3",
        "autoguidance:scale=2,model=small",
    ],
)
def test_methods_draw_letters(spec):
    images = drawn(spec, steps=6, characters="AG").images
    assert images.isfinite().all()
    assert not torch.equal(images, drawn("", steps=6, characters="AG").images)


def test_the_weaker_model_is_the_one_asked_for():
    model, small, seen = load_letters_model(), load_small_letters_model(), {}
    condition = letters_condition(numbers(10, 11), numbers(0, 1))
    run = Guidance.from_spec("autoguidance:scale=2,model=small").start(
        conditions={"positive": condition}, sigmas=[0.7, 0.0], prediction_type="flow"
    )

    def denoise(branch):
        seen[branch.name] = (small if branch.model else model)(noise(), 0.7, **branch.inputs)
        return seen[branch.name]

    torch.testing.assert_close(run.step(0, noise(), denoise), 2 * seen["cond"] - seen["weak"])
    assert (seen["cond"] - seen["weak"]).std() > 0.01


# What cannot be drawn.


@pytest.mark.parametrize(
    ("spec", "settings", "says"),
    [
        ("", {"characters": "A?"}, r"characters are some of 0123.*got '\?'"),
        ("", {"characters": "c"}, "small letter only where it looks unlike the capital"),
        ("", {"characters": ""}, "characters are some of"),
        ("", {"steps": 0}, "steps must be at least 1"),
        ("", {"per_class": 0}, "per_class must be at least 1"),
        ("ltx2", {}, "one output, named 'output'"),
        ("stg:blocks=6", {}, "6 blocks"),
        ("autoguidance:scale=2,model=smal", {}, "there is no model 'smal'; there is small"),
    ],
)
def test_what_cannot_be_drawn_is_a_clear_error(spec, settings, says):
    with pytest.raises(ConfigurationError, match=says):
        drawn(spec, **settings)


def test_the_model_names_itself_in_what_it_refuses():
    with pytest.raises(ConfigurationError, match="LettersTransformer cannot make the change"):
        load_letters_model()(noise(), 0.5, numbers(1, 2), numbers(3, 4), (IsolateOutputs(),))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model", "leters"], "there is no model 'leters'. Did you mean 'letters'?"),
        (["--model", "keypad", "--characters", "12"], "--characters is for --model letters"),
        (["--model", "digits"], "there is no model 'digits'"),
        (["--characters", "ü"], "characters are some of"),
    ],
)
def test_what_the_command_cannot_draw_is_a_clear_error(words, says, tmp_path, monkeypatch):
    from guidance_core.commands.app import app

    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, ["sample", *words, "--steps", "2"])
    assert isinstance(result.exception, GuidanceError)
    assert says in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_the_command_draws_letters(tmp_path):
    from guidance_core.commands.app import app

    out = tmp_path / "a.png"
    result = runner.invoke(app, ["sample", "--steps", "2", "--per-class", "1", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert out.read_bytes().startswith(b"\x89PNG")
    as_json = runner.invoke(app, ["sample", "--steps", "2", "--characters", "AB", "--out", str(out), "--json"])
    found = json.loads(as_json.stdout)
    assert found["samples"] == 8
    assert set(found["rows"][0]["scores"]) == {
        *("character", "typeface", "distance", "diversity", "saturation", "sharpness")
    }


# The judge and the scores.


def test_the_judge_reads_real_letters_that_it_has_not_seen(monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[1] / "training"), *sys.path])
    from letters_data import drawings, pictures

    images, character, typeface = pictures(drawings(), 1, 17)
    read, set_in = load_letters_judge()(images)
    assert images.shape == (len(CHARACTERS) * len(TYPEFACES), 1, 28, 28)
    assert (read.argmax(1) == character).float().mean() > 0.98
    assert (set_in.argmax(1) == typeface).float().mean() > 0.8


def test_other_noise_draws_other_pictures():
    assert not torch.equal(drawn("", seed=1).images, drawn("").images)
