"""What `sample` writes beside the grid: estimates over the steps, animations, pages; and where it can write."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from guidance_core import ConfigurationError, Guidance
from guidance_core.commands.app import app
from guidance_core.models import load_letters_model
from guidance_core.models.estimates import Estimates, spread
from guidance_core.models.files import check_output
from guidance_core.models.letters_drawing import draw_letters

image = pytest.importorskip("PIL.Image")
runner = CliRunner()


def sample(*words, steps=3, per_class=1):
    return runner.invoke(app, ["sample", "--steps", str(steps), "--per-class", str(per_class), *words])


# Estimates.


@pytest.mark.parametrize(
    ("steps", "most", "expected"),
    [(1, 8, [0]), (3, 8, [0, 1, 2]), (25, 5, [0, 6, 12, 18, 24]), (100_000, 2, [0, 99_999])],
)
def test_some_steps_are_spread_over_all_of_them(steps, most, expected):
    assert list(spread(steps, most)) == expected


def test_the_estimate_of_a_flow_is_where_it_leads():
    x0, noise = torch.randn(4, 3), torch.randn(4, 3)
    kept = Estimates([1], every=2)
    for step, sigma in enumerate((0.9, 0.4, 0.2)):
        kept.see(step, sigma, (1 - sigma) * x0 + sigma * noise, noise - x0)
    assert kept.sigmas == [0.4]
    torch.testing.assert_close(kept.x0, x0[None, ::2])


def test_the_last_estimate_is_the_picture_and_the_first_is_the_guided_one():
    drawing = draw_letters(Guidance.from_spec("cfg:scale=3"), characters="AG", steps=4, per_class=2, keep=[0, 3])
    assert drawing.kept.steps == (0, 3)
    assert drawing.kept.x0.shape == (2, 2, 1, 28, 28)
    torch.testing.assert_close(drawing.kept.x0[1], drawing.images[::2])
    assert not draw_letters(Guidance(), characters="A", steps=1, per_class=1).kept.steps
    assert load_letters_model().side == drawing.kept.x0.shape[-1]


# Pictures.


def test_steps_are_shown_in_columns(tmp_path):
    out = tmp_path / "a.png"
    few = sample("--view", "steps", "-g", "cfg:scale=3", "--characters", "A", "--out", str(out), steps=3)
    assert few.exit_code == 0, few.output
    narrow = image.open(out).size
    sample("--view", "steps", "-g", "cfg:scale=3", "--characters", "AB", "--out", str(out), steps=20)
    wide = image.open(out).size
    tile = (wide[0] - narrow[0]) / 5
    assert tile >= 112, "eight columns beside three"
    assert wide[1] - narrow[1] >= 112, "a line for each character"


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_an_animation_has_a_frame_for_each_step(ending, tmp_path):
    out, animation = tmp_path / "a.png", tmp_path / f"b.{ending}"
    words = ["-g", "", "-g", "cfg:scale=3", "--characters", "AB", "--animate", str(animation), "--out", str(out)]
    result = sample(*words, steps=4)
    assert result.exit_code == 0, result.output
    assert f"animation: {animation}" in result.stdout
    frames = image.open(animation)
    assert (frames.n_frames, frames.size) == (4, image.open(out).size)
    first = frames.convert("L").tobytes()
    frames.seek(3)
    assert frames.convert("L").tobytes() != first


def test_keypad_animates_where_it_is_told(tmp_path):
    animation = tmp_path / "b.webp"
    words = ["--model", "keypad", "-g", "", "--prompt", "rising", "--out", str(tmp_path / "a.png")]
    assert sample(*words, "--animate", str(animation)).exit_code == 0
    assert image.open(animation).n_frames == 6
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a-1.wav", "a.png", "b.webp"]


def test_a_picture_is_drawn_without_a_font_and_without_a_display(tmp_path, monkeypatch):
    from PIL import ImageFont

    usual = ImageFont.load_default

    def load_default(size=None):
        if size is not None:
            raise ImportError("The _imagingft C module is not installed")
        return ImageFont.load_default_imagefont() if hasattr(ImageFont, "load_default_imagefont") else usual()

    monkeypatch.setattr(ImageFont, "load_default", load_default)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("MPLBACKEND", "tkagg")
    animation = str(tmp_path / "a.gif")
    words = ["--characters", "A", "--out", str(tmp_path / "a.png"), "--animate", animation]
    for more in ([], ["--view", "steps"], ["--model", "keypad", "--prompt", "rising"]):
        result = sample(*(words if more[:1] != ["--model"] else words[2:]), *more)
        assert result.exit_code == 0, result.output


# The page.


def urls(page):
    return re.findall(r'(?:src|href)="([^"]*)"', page)


def test_the_page_stands_alone(tmp_path):
    page = tmp_path / "a.html"
    long = "cfg:scale=3,stg:scale=1,blocks=[1, 2, 3, 4, 5],interval:lo=0.2,hi=0.9,rescale:phi=0.7"
    words = ["-g", "", "-g", long, "--characters", "AB", "--out", str(tmp_path / "a.png"), "--html", str(page)]
    result = sample(*words, "--animate", str(tmp_path / "a.gif"), "--trace")
    assert result.exit_code == 0, result.output
    assert f"page: {page}" in result.stdout
    text = page.read_text()
    assert [url.partition(";")[0] for url in urls(text)] == ["data:image/png", "data:image/gif"]
    assert "http" not in text
    assert long in text
    assert "guidance-core 0." in text
    assert f"torch {torch.__version__}" in text
    assert "<td>sharpness</td>" in text
    cells = re.findall(r"<td>(.*?)</td>", text)
    shown = [line.split("  ") for line in result.stdout.splitlines()]
    shown = [cell.strip() for line in shown for cell in line if re.search(r"\d \[|% \[", cell)]
    assert shown
    assert set(shown) <= set(cells), "the page has the numbers of the terminal, in its units"
    command = shlex.split(re.search("<pre>(.*?)</pre>", text, re.S)[1].replace("&#x27;", "'"))
    assert command[:2] == ["guidance-core", "sample"]
    assert runner.invoke(app, [*command[1:], "--json"]).exit_code == 0, "the page's command draws it again"


def test_the_page_of_clips_holds_their_sound(tmp_path):
    page = tmp_path / "a.html"
    words = ["--model", "keypad", "-g", "", "-g", "cfg:scale=3", "--prompt", "rising", "--out", str(tmp_path / "a.png")]
    result = sample(*words, "--html", str(page), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["page"] == str(page)
    kinds = [url.partition(";")[0] for url in urls(page.read_text())]
    assert kinds == ["data:image/png", "data:image/gif", "data:audio/wav", "data:audio/wav"]
    assert "agreement" in page.read_text()


def test_what_was_given_cannot_write_into_the_page(tmp_path):
    from guidance_core.commands.sample_page import write_page
    from guidance_core.commands.scored import Measured, Row
    from guidance_core.models.intervals import Score

    hostile = '<script>alert("x")</script>'
    scores = {hostile: Score(1.0, 0.5, 1.0)}
    measured = Measured([Row(hostile, 1.0, 0.1, scores)], {hostile: hostile}, frozenset(), hostile, {hostile: scores})
    write_page(tmp_path / "a.html", hostile, {hostile: hostile}, measured, [])
    assert "<script>" not in (tmp_path / "a.html").read_text()


# Where it can write.


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--out", "new/a.png"], "the folder new does not exist"),
        (["--animate", "new/a.gif"], "--animate new/a.gif: the folder new does not exist"),
        (["--html", "out/deeper/a.html"], "the folder out/deeper does not exist"),
        (["--out", "a.jpg"], "--out must end in .png"),
        (["--animate", "a.png"], "--animate must end in .gif or .webp"),
        (["--html", "a.txt"], "--html must end in .html or .htm"),
        (["--out", "folder.png"], "folder.png cannot be written to"),
        (["--out", "file/a.png"], "cannot be written to"),
        (["--view", "step"], "there is no view 'step'. Did you mean 'steps'?"),
        (["--model", "keypad", "--view", "steps"], "--view steps is for --model letters"),
    ],
)
def test_where_it_cannot_write_is_told_before_any_work(words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder.png").mkdir()
    Path("file").write_text("")
    result = sample(*words)
    assert isinstance(result.exception, ConfigurationError), result.output
    assert says in str(result.exception)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder.png"]


def test_the_usual_folder_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sample("--characters", "A").exit_code == 0
    assert Path("out/sample.png").exists()


def test_a_file_that_cannot_be_written_in_the_end_is_named(tmp_path, monkeypatch):
    def save(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image.Image, "save", save)
    result = sample("--characters", "A", "--out", str(tmp_path / "a.png"))
    assert str(result.exception) == f"{tmp_path / 'a.png'} cannot be written: No space left on device."


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of folders")
def test_a_folder_without_permission_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(ConfigurationError, match="cannot be written to; choose another place"):
        check_output(tmp_path / "a.png", "--out", (".png",))


@pytest.mark.parametrize("columns", ["40", "80"])
def test_tables_do_not_cut_specs(columns, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    long = "cfg:scale=3,stg:scale=1,blocks=[1,2,3,4,5],interval:lo=0.2,hi=0.9,rescale:phi=0.7"
    result = sample("-g", long, "--characters", "A", "--out", str(tmp_path / "a.png"))
    assert f"1: {long}\n" in result.stdout


@pytest.mark.parametrize("model", ["letters", "keypad", "mixture"])
@pytest.mark.parametrize("columns", ["40", "60", "80", "200"])
def test_every_number_is_whole_in_every_terminal(model, columns, tmp_path, monkeypatch):
    """In one table for all models; a terminal that is too narrow for it has the same in lines."""
    monkeypatch.setenv("COLUMNS", columns)
    words = ["--model", model, "-g", "", "-g", "cfg:scale=3"]
    result = sample(*words, "--out", str(tmp_path / "a.png"), per_class=4)
    assert result.exit_code == 0, result.output
    rows = json.loads(sample(*words, "--out", str(tmp_path / "a.png"), "--json", per_class=4).stdout)["rows"]
    assert "…" not in result.stdout
    shown = re.findall(r"[+-]?[\d.]+(?: %)? \[[^\]\n]*\]", result.stdout)
    names = len(rows[0]["scores"]) if model != "keypad" else 6
    assert any(each[0] == "+" for each in shown)
    assert names * 2 <= len(shown) <= names * 4, "both rows, their difference, and perhaps the data's"
    assert result.stdout.count("passes per step") == 1, "there is one table"


def test_the_difference_from_the_first_row_is_in_json_too(tmp_path):
    words = ["-g", "cfg:scale=1", "-g", "cfg:scale=1", "-g", "cfg:scale=8"]
    first, same, other = json.loads(sample(*words, "--out", str(tmp_path / "a.png"), "--json", per_class=4).stdout)[
        "rows"
    ]
    assert "minus_row_1" not in first["scores"]["character"]
    for name, score in same["scores"].items():
        low, high = score["minus_row_1"]["interval"]
        assert score["minus_row_1"]["value"] == 0, name
        assert low <= 0 <= high
    burnt = other["scores"]["saturation"]
    assert burnt["minus_row_1"]["value"] == pytest.approx(
        burnt["value"] - first["scores"]["saturation"]["value"], abs=2e-4
    )
    assert burnt["minus_row_1"]["interval"][0] > 0
