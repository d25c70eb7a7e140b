"""`sample --sweep`: which stacks it makes, and what it refuses."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from guidance_core import GuidanceError
from guidance_core.commands.app import app
from guidance_core.commands.sweep import MOST, Sweep

runner = CliRunner()

CFG_AND_APG = ["cfg:scale=1", "cfg:scale=2", "apg:eta=1,scale=1", "apg:eta=1,scale=2"]


def swept(given, *specs):
    return Sweep.of([given]).stacks(specs)


@pytest.mark.parametrize(
    ("given", "specs", "expected"),
    [
        ("cfg.scale=1,2.5", ["cfg"], ["cfg:scale=1", "cfg:scale=2.5"]),
        ("scale=1,2", ["cfg:scale=7,rescale:phi=0.7"], ["cfg:scale=1,rescale:phi=0.7", "cfg:scale=2,rescale:phi=0.7"]),
        ("rescale.phi=0,1", ["cfg:scale=7,rescale"], ["cfg:scale=7,rescale:phi=0", "cfg:scale=7,rescale:phi=1"]),
        ("cfg#2.scale=2", ["cfg:scale=3,cfg:scale=4"], ["cfg:scale=3,cfg:scale=2"]),
        ("blocks=[0, 1],none", ["stg:scale=1"], ["stg:scale=1,blocks=[0, 1]", "stg:scale=1,blocks=none"]),
        ("scale=linear(1, 7),3", ["cfg"], ["cfg:scale=linear(start=1, stop=7)", "cfg:scale=3"]),
        ("scale={video: 1, audio: 2}", ["cfg"], ["cfg:scale={video: 1, audio: 2}"]),
        ("over=channel,sample", ["cfg,rescale"], ["cfg,rescale:over=channel", "cfg,rescale:over=sample"]),
        ("scale=1,2", ["", "cfg", "apg:eta=1"], ["", *CFG_AND_APG]),
        ("guidance_plugins.cfg:CFG.scale=2", ["guidance_plugins.cfg:CFG"], ["guidance_plugins.cfg:CFG:scale=2"]),
        ("true_cfg_scale=2,4", ["@qwen-image"], ["@qwen-image:true_cfg_scale=2", "@qwen-image:true_cfg_scale=4"]),
        ("@qwen-image.true_cfg_scale=2", ["@qwen-image,gate"], ["@qwen-image:true_cfg_scale=2,gate"]),
        ("gate.lo=0.5", ["@qwen-image,gate"], ["@qwen-image,gate:lo=0.5"]),
    ],
)
def test_a_sweep_gives_each_stack_each_value(given, specs, expected):
    assert list(swept(given, *specs)) == expected


@pytest.mark.parametrize(
    ("given", "spec", "says"),
    [
        ("cfg.scael=1", "cfg", "has no parameter 'scael' of cfg. Did you mean 'scale'?"),
        ("scael=1", "cfg", "has no parameter 'scael'. Did you mean 'scale'?"),
        ("rescale.phi=1", "cfg", "the stack 'cfg' has no method 'rescale'. There is: cfg."),
        ("rescael.phi=1", "cfg,rescale", "Did you mean 'rescale'?"),
        ("scale=1", "cfg,stg", "several methods of 'cfg,stg' have it; name one of cfg.scale, stg.scale"),
        ("scale=1", "", "no stack has a method"),
        ("scale=1", "cfgg", "Did you mean 'cfg'?"),
        ("scale", "cfg", "takes a parameter and its values, as in --sweep cfg.scale=1,2,4,8"),
        ("scale=", "cfg", "takes a parameter and its values"),
        ("=1", "cfg", "takes a parameter and its values"),
        ("cfg.=1", "cfg", "takes a parameter and its values"),
        ("scale=1,,2", "cfg", "written as in a spec, with commas between them"),
        ("scale=1],phi=[2", "cfg", "written as in a spec"),
        ("scale=1],rescale:phi=[2", "cfg", "written as in a spec"),
        ("scale=liner(1, 2)", "cfg", "Did you mean 'linear'?"),
        ("scale=" + ",".join(["1"] * (MOST + 1)), "cfg", f"at most {MOST} values; got {MOST + 1}"),
        ("true_cfg_scael=1", "@qwen-image", "Did you mean 'true_cfg_scale'?"),
    ],
)
def test_what_cannot_be_swept_is_a_clear_error(given, spec, says):
    with pytest.raises(GuidanceError) as caught:
        swept(given, spec)
    assert says in str(caught.value)


def sample(*words):
    return runner.invoke(app, ["sample", "--steps", "2", "--characters", "AB", "--per-class", "1", *words])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--sweep", "cfg.scale=1", "--sweep", "cfg.scale=2"], "--sweep is given once"),
        (["--sweep", "cfg.scale=1,big"], "scale must be a number"),
        (["--sweep", "rescale.phi=0.5,2"], "phi must"),
        (["--sweep", "nothing.scale=1"], "there is no plugin 'nothing'"),
        (["--sweep", "cfg.scale=1,2", "-g", "apg"], "has no method 'cfg'"),
    ],
)
def test_a_sweep_that_cannot_be_drawn_writes_nothing(words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = sample(*words)
    assert isinstance(result.exception, GuidanceError), result.output
    assert says in str(result.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ranks", ["1", "2"])
def test_a_sweep_draws_what_each_of_its_stacks_draws(ranks, tmp_path):
    words = ["--json", "--ranks", ranks, "--out", str(tmp_path / "a.png")]
    rows = json.loads(sample("--sweep", "cfg.scale=1,4", *words).stdout)["rows"]
    assert [row["guidance"] for row in rows] == ["", "cfg:scale=1", "cfg:scale=4"]
    assert [row["passes_per_step"] for row in rows] == [1, 1, 2]
    alone = json.loads(sample("-g", "cfg:scale=4", "--json", "--out", str(tmp_path / "b.png")).stdout)["rows"]
    own = {name: {**score, "minus_row_1": None} for name, score in alone[0]["scores"].items()}
    assert {name: {**score, "minus_row_1": None} for name, score in rows[2]["scores"].items()} == own
