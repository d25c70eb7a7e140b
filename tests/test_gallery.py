"""The gallery: a fair comparison, work that goes on after an interruption, and pages that say what was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from guidance_core import ConfigurationError, Guidance
from guidance_core.commands.app import app
from guidance_core.discovery.shipped import PLUGINS, SHIPPED
from guidance_core.gallery import build, letters, mixture, pages, protocol, work
from guidance_core.gallery.controls import Jitter, RandomDirection
from guidance_core.gallery.entries import CONTROLS, ENTRIES, LETTERS, MIXTURE, UNSHOWN, nearest
from guidance_core.gallery.measured import MeasuredRun, strength
from guidance_core.gallery.scores import SCORES, from_real_letters, verdict
from guidance_core.gallery.statistics import difference, energy_distance, estimate, excludes_zero, resampled
from guidance_core.models import load_letters_judge
from guidance_core.models.intervals import Score, share
from guidance_core.models.letters_drawing import draw_letters
from guidance_core.models.scores import mean_distance

DOCS = Path(__file__).parents[1] / "docs"
runner = CliRunner()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# The effective scale.


def test_the_strength_is_the_part_along_c_minus_u():
    c, u, across = torch.eye(3).double()[:, None].unbind(0)
    d = c - u
    torch.testing.assert_close(strength(c + 2.5 * d, c, u), torch.tensor(2.5, dtype=torch.float64))
    assert strength(c + across, c, u) == 0
    assert strength(c + d, c, c) == 0, "c and u are equal: nothing can be said, and nothing is divided by 0"


def measured(spec):
    x = torch.randn(3, 5, generator=generator())
    run = Guidance.from_spec(spec).start(
        conditions={name: {"shift": shift} for name, shift in (("positive", 1.0), ("negative", -0.5), ("other", 0.2))},
        sigmas=[1.0, 0.6, 0.3, 0.0],
        prediction_type="flow",
    )
    measured_run, extra = MeasuredRun(run), []

    def away():
        extra.append(1)
        return torch.sin(x - 0.5)

    guided = [measured_run.step(i, x, lambda branch: torch.sin(x + branch.inputs["shift"]), away) for i in range(3)]
    return measured_run, guided, len(extra), run.passes


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0, 7.5])
def test_the_effective_scale_of_cfg_is_its_scale(scale):
    run, _, extra, passes = measured(f"cfg:scale={scale}")
    assert float(run.effective_scale) == pytest.approx(scale, abs=1e-5)
    assert extra == (3 if scale == 1 else 0), "u is run only where the step has no such pass"
    assert passes == (3 if scale == 1 else 6), "and does not count"


def test_measuring_changes_no_result():
    spec = "apg:scale=4,momentum=-0.5"
    x = torch.randn(3, 5, generator=generator())
    run = Guidance.from_spec(spec).start(
        conditions={"positive": {"shift": 1.0}, "negative": {"shift": -0.5}},
        sigmas=[1.0, 0.6, 0.3, 0.0],
        prediction_type="flow",
    )
    plain = [run.step(i, x, lambda branch: torch.sin(x + branch.inputs["shift"])) for i in range(3)]
    assert all(torch.equal(one, other) for one, other in zip(plain, measured(spec)[1], strict=True))


def test_a_method_without_the_negative_pass_is_measured_too():
    found = letters.draw(Guidance.from_spec("pag:scale=1,blocks=3"), steps=2, characters=2, per_character=1, seed=0)
    assert float(found["passes"]) == 2
    assert float(found["effective_scale"]) > 1.05


def test_two_of_three_steps_are_two_thirds_of_the_pull():
    assert float(measured("cfg:scale=4,interval:lo=0.5,hi=1")[0].effective_scale) == pytest.approx(
        1 + 3 * 2 / 3, abs=1e-5
    )


# The controls.


def test_the_jitter_has_the_mean_of_cfg_and_stays_near_it():
    found, cfg = (
        mixture.draw(stack, steps=20, points=100, seed=6)
        for stack in (Guidance([Jitter()]), Guidance.from_spec("cfg:scale=3"))
    )
    assert float(found["effective_scale"]) == pytest.approx(3, abs=0.1)
    assert not torch.equal(found["points"], cfg["points"])
    for score in SCORES[MIXTURE]:
        ours, theirs = (resampled(score.of(each), 300, 100) for each in (found, cfg))
        assert verdict(score, difference(ours, theirs)) == "same", score.name


def test_the_random_direction_is_as_long_as_it_says_and_points_nowhere():
    c, u = torch.randn(2, 4, 400, generator=generator(1)).unbind(0)
    run = Guidance([RandomDirection(scale=3, amplitude=0.5)]).start(
        conditions={"positive": {}, "negative": {}}, sigmas=[1.0, 0.0], prediction_type="flow", seeds=7
    )
    guided = run.step(0, torch.zeros(4, 400), lambda branch: c if branch.condition == "positive" else u)
    added = guided - (c + 2 * (c - u))
    torch.testing.assert_close(added.norm(dim=1), 0.5 * (c - u).norm(dim=1))
    assert float(strength(guided, c, u)) == pytest.approx(2, abs=0.1)


# Plain cfg beside a method.


def found_with(scale, passes):
    return {
        name: torch.tensor(value, dtype=torch.float64)
        for name, value in (("effective_scale", scale), ("passes", passes))
    }


@pytest.mark.parametrize(
    ("scale", "passes", "stack", "steps"),
    [
        (3.1, 2, "cfg:scale=3", 16),
        (3.1, 3, "cfg:scale=3", 24),
        (2.0, 1, "cfg:scale=2", 8),
        (1.05, 2, "", 32),
        (1.0, 1, "", 16),
        (7.7, 4, "cfg:scale=7.5", 32),
        (400.0, 2, "cfg:scale=20", 16),
    ],
)
def test_cfg_beside_a_method_has_its_scale_and_its_passes(scale, passes, stack, steps):
    other = work.beside(protocol.FULL, LETTERS, found_with(scale, passes))
    assert (other.stack, other.steps) == (stack, steps)
    assert steps * (2 if stack else 1) == protocol.FULL.steps * passes


def test_nothing_is_said_beside_a_cfg_that_pulls_less():
    (score, *_) = SCORES[LETTERS]
    apart = {"difference": {"value": 0.2, "low": 0.1, "high": 0.3}, "value": 0.5, "verdict": "better"}
    row = {"scores": {score.name: {"value": 0.7, "cfg": apart, "none": apart}}, "beside": {"is_fair": True}}
    assert pages.cell(score, row) == "70.0 **(+20.0)**"
    assert pages.effect(row, [score]) == "better: character"
    row["beside"] = {"is_fair": False}
    assert pages.cell(score, row) == "70.0"
    assert "no comparison" in pages.effect(row, [score])
    assert pages.effect(row, [score], "none") == "better: character", "no guidance is there for all"


def test_the_scale_beside_is_near():
    for scale in torch.linspace(0, 20, 401).tolist():
        assert abs(nearest(scale) - scale) <= (0.126 if scale < 5 else 0.26 if scale < 10 else 0.51)


# Scores.


def test_the_frechet_distance_is_that_of_normal_distributions():
    judge, features = load_letters_judge(), 3 * torch.randn(40, 64, generator=generator(2)).double()
    values, vectors = torch.linalg.eigh(judge.covariance.double())
    root = vectors @ values.clamp(min=0).sqrt().diag() @ vectors.T
    middle = torch.linalg.eigvalsh(root @ features.T.cov() @ root).clamp(min=0).sqrt().sum()
    right = (
        (features.mean(0) - judge.mean.double()).square().sum() + features.T.cov().trace() + values.sum() - 2 * middle
    )
    found = resampled(from_real_letters(features), 40, 3)
    torch.testing.assert_close(found[0], right)
    twice = torch.zeros(1, 40, dtype=torch.float64)
    twice[0, :20] = 2
    doubled = features[:20].repeat(2, 1)
    torch.testing.assert_close(from_real_letters(features)(twice), resampled(from_real_letters(doubled), 40, 1)[:1])


def test_the_spread_is_the_mean_distance_of_pairs():
    features, group = torch.randn(6, 4, generator=generator()), torch.tensor([0, 0, 0, 1, 1, 2])
    pairs = [(0, 1), (0, 2), (1, 2), (3, 4)]
    right = sum(float((features[a] - features[b]).norm()) for a, b in pairs) / len(pairs)
    assert float(resampled(mean_distance(features, group), 6, 1)[0]) == pytest.approx(right)
    assert resampled(mean_distance(features, torch.arange(6)), 6, 1)[0].isnan(), "no group has two"


def test_the_energy_distance_of_equal_points_is_0_and_grows_as_they_move():
    points, group = torch.randn(20, 2, generator=generator()), torch.arange(2).repeat_interleave(10)
    apart = [float(resampled(energy_distance(points + by, points, group), 20, 1)[0]) for by in (0.0, 1.0, 2.0)]
    assert apart[0] == pytest.approx(0, abs=1e-9)
    assert 0 < apart[1] < apart[2]


def test_a_share_has_wilsons_interval():
    found = share(torch.tensor([1.0] * 8 + [0.0] * 2).double())
    assert (found.value, found.low, found.high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    assert share(torch.ones(10).double()).high == pytest.approx(1)


def test_a_difference_is_paired_and_its_interval_covers_the_truth():
    a = torch.randn(200, generator=generator(5)).double()
    one = resampled(lambda weights: weights @ a / 200, 200, 200)
    same = difference(one, one)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    moved = difference(one + 0.01, one)
    assert excludes_zero(moved), "what both share cancels"
    wide = estimate(one)
    assert (wide.high - wide.low) / 2 == pytest.approx(1.96 * float(a.std()) / 200**0.5, rel=0.2)


@pytest.mark.parametrize(
    ("wanted", "low", "high", "right"),
    [
        (1, 0.1, 0.2, "better"),
        (1, -0.2, -0.1, "worse"),
        (-1, -0.2, -0.1, "better"),
        (0, 0.1, 0.2, "more"),
        (0, -0.2, -0.1, "less"),
        (1, -0.1, 0.2, "same"),
    ],
)
def test_a_verdict_needs_an_interval_on_one_side_of_0(wanted, low, high, right):
    score = next(each for model in SCORES.values() for each in model if each.wanted == wanted)
    assert verdict(score, Score((low + high) / 2, low, high)) == right


# What is drawn.


def test_the_gallery_draws_what_sample_draws():
    found = letters.draw(
        Guidance.from_spec("cfg:scale=3,tpg:scale=0.5,blocks=3"), steps=4, characters=3, per_character=2, seed=5
    )
    drawing = draw_letters(
        Guidance.from_spec("cfg:scale=3,tpg:scale=0.5,blocks=3"), steps=4, characters="012", per_class=2, seed=5
    )
    shown = drawing.images.reshape(3, 2, 28, 28).transpose(0, 1).flatten(0, 1)
    assert (found["images"].int() - shown.clamp(-1, 1).add(1).mul(127.5).round().int()).abs().max() <= 1
    assert float(found["passes"]) == drawing.passes_per_step


def test_fewer_pictures_are_the_first_of_more():
    few, many = (
        letters.draw(Guidance.from_spec("cfg:scale=2"), steps=2, characters=4, per_character=n, seed=0) for n in (1, 2)
    )
    torch.testing.assert_close(few["images"], many["images"][:4], atol=1, rtol=0)


def test_every_shipped_method_is_shown_or_says_why_not():
    shown = {row.method for row in ENTRIES}
    assert shown | set(UNSHOWN) == set(SHIPPED[PLUGINS])
    assert not shown & set(UNSHOWN)
    names = [row.name for row in (*ENTRIES, *CONTROLS)]
    assert len(set(names)) == len(names)


def test_the_main_parameter_of_eight_methods_or_more_is_swept():
    swept = [row for row in ENTRIES if row.sweep is not None]
    assert len({row.method for row in swept}) >= 8
    for row in swept:
        assert row.sweep is not None
        assert len(row.sweep.values) >= 3
        for value in row.sweep.values:
            Guidance.from_spec(row.sweep.stack.format(value)).describe(10)


# Work that goes on.


def some(store, count=3):
    return work.own_units(store.protocol)[:count]


def test_a_unit_is_drawn_once(tmp_path, monkeypatch):
    store = work.Store(tmp_path, protocol.TINY)
    (unit,) = some(store, 1)
    first = store.get(unit)
    monkeypatch.setattr(work.Unit, "draw", lambda *_: pytest.fail("drawn again"))
    again = work.Store(tmp_path, protocol.TINY).get(unit)
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_damaged_file_is_drawn_again(tmp_path):
    store = work.Store(tmp_path, protocol.TINY)
    (unit,) = some(store, 1)
    first = store.get(unit)
    path = store.folder / unit.file
    path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(store.get(unit)["images"], first["images"])


def test_an_interrupted_unit_leaves_nothing_half_done(tmp_path, monkeypatch):
    store = work.Store(tmp_path, protocol.TINY)
    (unit,) = some(store, 1)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(work.Unit, "draw", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.get(unit)
    assert not store.has(unit)
    store.get(unit)
    assert [path.name for path in store.folder.iterdir()] == [unit.file]


def test_units_of_other_sizes_are_other_files():
    files = {work.unit(each, LETTERS, "cfg:scale=3").file for each in (protocol.FULL, protocol.QUICK, protocol.TINY)}
    assert len(files) == 3


# The whole, small.


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    out, kept = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "QUICK", protocol.TINY)
        result = runner.invoke(app, ["gallery", "--quick", "--out", str(out), "--work", str(kept), "--json"])
    assert result.exit_code == 0, result.output
    return out, kept, json.loads(result.stdout)


def test_the_command_writes_pages_pictures_and_data(tiny):
    out, _, said = tiny
    assert {path.name for path in out.iterdir()} == {"gallery", "choosing.md"}
    assert sorted(said["files"]) == sorted(str(path) for path in out.rglob("*.*"))
    for page in (out / "choosing.md", *(out / "gallery").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+\.(?:png|md))[#)]", page.read_text()):
            place = (page.relative_to(out).parent / target).as_posix().replace("gallery/../", "")
            assert (out / place).exists() or (DOCS / place).exists(), f"{page.name} links {target}"


def test_the_pages_name_every_row(tiny):
    text = (tiny[0] / "gallery" / "letters.md").read_text()
    for row in (*ENTRIES, *CONTROLS):
        if LETTERS in row.models:
            assert f"\n## {row.name}\n" in text


def test_the_data_of_a_method_has_what_its_page_shows(tiny):
    data = build.read_data(tiny[0] / "gallery" / "data")
    (row,) = [row for row in data["apg"]["rows"] if row["model"] == LETTERS]
    assert row["stack"] == "apg:scale=8,eta=0"
    assert row["scores"].keys() == {score.name for score in SCORES[LETTERS]}
    assert row["scores"]["character"]["cfg"].keys() == {"value", "difference", "verdict"}
    assert (tiny[0] / "gallery" / row["picture"]).exists()
    (sweep,) = data["apg"]["sweeps"]
    assert [each["value"] for each in sweep["rows"]] == ["2", "3", "5", "8", "16"]


def test_the_same_command_goes_on_and_draws_nothing_again(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(work.Unit, "draw", lambda *_: pytest.fail("drawn again"))
    build.build(work.Store(tiny[1], protocol.TINY), tmp_path)
    for path in sorted(tmp_path.rglob("*.*")):
        assert path.read_bytes() == (tiny[0] / path.relative_to(tmp_path)).read_bytes()


# Bad input.


def test_a_missing_folder_is_named(tmp_path):
    result = runner.invoke(app, ["gallery", "--quick", "--out", str(tmp_path / "missing")])
    assert isinstance(result.exception, ConfigurationError)
    assert f"there is no folder {tmp_path / 'missing'}" in str(result.exception)


def test_pages_without_data_say_what_to_run(tmp_path):
    with pytest.raises(ConfigurationError, match="run guidance-core gallery"):
        build.write_pages(tmp_path)


def test_a_work_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    store = work.Store(tmp_path / "file", protocol.TINY)
    with pytest.raises(ConfigurationError, match="choose another --work"):
        store.get(work.unit(protocol.TINY, MIXTURE, ""))


# The committed gallery.


def test_the_pages_of_the_documentation_are_those_of_its_data(tmp_path):
    data = DOCS / "gallery" / "data"
    (tmp_path / "gallery" / "data").mkdir(parents=True)
    for path in data.glob("*.json"):
        (tmp_path / "gallery" / "data" / path.name).write_bytes(path.read_bytes())
    for path in build.write_pages(tmp_path):
        assert path.read_text() == (DOCS / path.relative_to(tmp_path)).read_text(), (
            "run: guidance-core gallery --out docs"
        )


def test_the_pictures_of_the_documentation_are_small_and_all_there():
    folder = DOCS / "gallery"
    assert sum(path.stat().st_size for path in folder.rglob("*.png")) <= 3_000_000
    for page in folder.glob("*.md"):
        for target in re.findall(r"\]\((pictures/[^)]+)\)", page.read_text()):
            assert (folder / target).exists()


def test_the_documented_comparison_is_fair():
    """Cfg with a jitter of its scale cannot be told from plain cfg."""
    about = json.loads((DOCS / "gallery" / "data" / "gallery.json").read_text())
    controls = [row for row in about["controls"] if row["name"] == "jitter"]
    assert {row["model"] for row in controls} == {LETTERS, MIXTURE}
    for row in controls:
        for name, found in row["scores"].items():
            assert found["cfg"]["verdict"] == "same", (row["model"], name)
