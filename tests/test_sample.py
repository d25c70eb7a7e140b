"""The command `sample`, from its options to the picture."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from guidance_core import Guidance, GuidanceError
from guidance_core.models.grid import CAPTION, GAP, HEADER, MARGIN

runner = CliRunner()
TILE = 112
"Four times the pixels of a letter."


def test_the_command_draws_a_picture(tmp_path):
    from guidance_core.commands.app import app

    out = tmp_path / "a.png"
    command = ["sample", "-g", "", "-g", "cfg:scale=3", "--steps", "4", "--per-class", "1", "--out", str(out), "--json"]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [row["passes_per_step"] for row in rows] == [1, 2]
    assert out.read_bytes().startswith(b"\x89PNG")


def test_the_picture_names_its_rows_and_does_not_change(tmp_path):
    from guidance_core.models.grid import save_grid
    from guidance_core.models.letters_drawing import draw_letters

    drawn = [draw_letters(Guidance.from_spec("cfg:scale=3"), per_class=1, steps=2) for _ in range(2)]
    long = "cfg:scale=3,stg:scale=1,blocks=[1, 2, 3, 4, 5],interval:lo=0.2,hi=0.9,rescale:phi=0.7"
    for name, label in (("a", long), ("b", long), ("c", ""), ("d", "cfg")):
        save_grid(drawn[:1] if name == "a" else drawn[1:], [label], tmp_path / f"{name}.png")
    pictures = {name: (tmp_path / f"{name}.png").read_bytes() for name in "abcd"}
    assert pictures["a"] == pictures["b"]
    assert len(set(pictures.values())) == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--out", "a.jpg"], "must end in .png"),
        (["--executor", "serail"], "Did you mean 'serial'"),
        (["-g", "ltx2"], "has one output, named 'output', but the methods have values for video, audio"),
        (["-g", "ltx2:cfg_scale=3,modality_scale=1,stg_blocks=3"], None),
        (["-g", "ltx2:cfg_scale=3,stg_blocks=3"], "IsolateOutputs"),
        (["-g", "stg:blocks=99"], "6 blocks"),
        (["-g", "cfg:scale=3,cfg"], None),
    ],
)
def test_what_sample_cannot_do_is_a_clear_error(words, says, tmp_path, monkeypatch):
    from guidance_core.commands.app import app

    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, ["sample", *words, "--steps", "2", "--per-class", "1"])
    if says is None:
        assert result.exit_code == 0, result.output
    else:
        assert isinstance(result.exception, GuidanceError)
        assert says in str(result.exception)
        assert not list(tmp_path.iterdir())


def tiles(path, columns):
    """The pictures of a grid, without what stands beside and around them, as greys."""
    from PIL import Image

    picture = Image.open(path)
    left = picture.width - MARGIN - columns * (TILE + 2 * GAP)
    return np.asarray(picture.crop((left, HEADER + 30, picture.width, picture.height - CAPTION))).astype(int)


@pytest.mark.parametrize(
    "words",
    [
        ["--per-class", "3"],
        ["--executor", "batched"],
        ["--ranks", "2"],
        ["--ranks", "3", "--executor", "all_gather"],
        ["--ranks", "2", "--executor", "all_reduce"],
        ["--ranks", "2", "--executor", "auto", "--per-class", "2"],
    ],
    ids=" ".join,
)
def test_the_same_seed_gives_the_same_pictures_however_they_are_made(words, tmp_path):
    from guidance_core.commands.app import app

    command = ["sample", "-g", "cfg:scale=3", "-g", "cfg:scale=3,pag:blocks=3", "--steps", "5", "--characters", "AG"]
    usual, other = tmp_path / "a.png", tmp_path / "b.png"
    assert runner.invoke(app, [*command, "--per-class", "1", "--out", str(usual)]).exit_code == 0
    made = runner.invoke(
        app, [*command, *([] if "--per-class" in words else ["--per-class", "1"]), *words, "--out", str(other)]
    )
    assert made.exit_code == 0, made.output
    assert np.abs(tiles(usual, 2) - tiles(other, 2)).max() <= 4, "of 255 greys"
    assert runner.invoke(app, [*command, "--per-class", "1", "--seed", "1", "--out", str(other)]).exit_code == 0
    assert np.abs(tiles(usual, 2) - tiles(other, 2)).max() > 100
