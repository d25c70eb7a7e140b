"""The mixture in the plane: its scores against known answers, its samples, its picture and the command."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import attrs
import pytest
import torch
from typer.testing import CliRunner

from guidance_core import ConfigurationError, Guidance, GuidanceError
from guidance_core.models.gaussians import GaussianMixture, default_mixture
from guidance_core.models.mixture_data import BLUR, CLASSES, blurred, branches, tree_mixture
from guidance_core.models.mixture_drawing import PATHS, Cloud, draw_mixture, real_samples
from guidance_core.models.mixture_scores import coverage, mixture_scores, sliced_distance

runner = CliRunner()
ONE = GaussianMixture([[0.5, -1.0]], [0.4], [1.0], [0])
FOUR = GaussianMixture([[0, 0], [9, 0], [0, 9], [9, 9]], [0.1] * 4, [4.0, 2.0, 1.0, 1.0], [0, 0, 0, 1])


def cloud(spec: str, **settings) -> Cloud:
    return draw_mixture(Guidance.from_spec(spec), **{"per_class": 300, **settings})


def zeros(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.int64)


# Densities and scores, against closed forms.


def test_the_log_density_is_that_of_the_mixture():
    x = torch.tensor([[0.5, -1.0], [0.5, -0.2]])
    peak = -math.log(2 * math.pi * 0.16)
    assert ONE.log_density(x).tolist() == pytest.approx([peak, peak - 0.8**2 / 0.32])
    mixture, points = default_mixture(), torch.randn(5, 2, dtype=torch.float64)
    inside = mixture.labels == 1
    alone = GaussianMixture(mixture.means[inside], mixture.stds[inside], mixture.weights[inside], [0] * 4)
    torch.testing.assert_close(mixture.log_density(points, 1), alone.log_density(points))
    score = -mixture.predict(points, 1e-4, prediction_type="epsilon", alpha=1.0) / 1e-4
    leaf = points.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(mixture.log_density(leaf).sum(), leaf)
    torch.testing.assert_close(score, gradient, rtol=1e-4, atol=1e-4)


def test_the_distance_of_a_moved_gaussian_is_how_far_it_was_moved():
    """Projections move by δ·cos θ, whose mean over directions is 2δ/π."""
    generator = torch.Generator().manual_seed(0)
    samples = ONE.sample(20_000, 0, generator) + torch.tensor([1.2, 1.6])
    score = sliced_distance(ONE, samples, zeros(20_000))
    assert score.value == pytest.approx(2 * 2.0 / math.pi, rel=0.02)
    assert score.low < 4 / math.pi < score.high


def test_the_distance_of_a_wider_gaussian_is_that_of_its_quantiles():
    """W₁ of N(0, a²) and N(0, b²) is |a − b|·E|z|, in every direction."""
    generator = torch.Generator().manual_seed(0)
    wide = attrs.evolve(ONE, stds=2 * ONE.stds)
    score = sliced_distance(ONE, wide.sample(20_000, 0, generator), zeros(20_000))
    assert score.value == pytest.approx(0.4 * math.sqrt(2 / math.pi), rel=0.02)
    assert sliced_distance(ONE, ONE.sample(20_000, 0, generator), zeros(20_000)).value < 0.01


def test_one_far_sample_counts_in_the_distance_as_far_as_it_is():
    samples = ONE.sample(1000, 0, torch.Generator().manual_seed(0))
    far = samples.clone()
    far[0] = torch.tensor([1e6, 0.0])
    near, moved = (sliced_distance(ONE, each, zeros(1000)).value for each in (samples, far))
    assert moved - near == pytest.approx(1e6 / 1000 * 2 / math.pi, rel=0.01)


def test_coverage_is_what_the_modes_have_in_common_with_the_data():
    modes = torch.arange(4)
    at = FOUR.means
    assert coverage(FOUR, modes, at[[0, 0, 0, 0, 1, 1, 2]], zeros(7)).value == pytest.approx(1.0)
    assert coverage(FOUR, modes, at[[0, 0]], zeros(2)).value == pytest.approx(4 / 7)
    assert coverage(FOUR, modes, at[[2, 2]], zeros(2)).value == pytest.approx(1 / 7)
    both = torch.tensor([0, 0, 1, 1])
    assert coverage(FOUR, modes, at[[0, 0, 3, 3]], both).value == pytest.approx((4 / 7 + 1) / 2), "a mean over classes"
    one_mode = torch.zeros(4, dtype=torch.int64)
    assert coverage(FOUR, one_mode, at[[0, 0]], zeros(2)).value == pytest.approx(1.0)


def test_outliers_class_and_likelihood_of_a_gaussian_are_known():
    """‖x − μ‖² / s² is exponential: a thousandth of the data lies beyond 2·ln 1000."""
    beyond = 0.4 * math.sqrt(2 * math.log(1000))
    samples = ONE.means + torch.tensor([[0.9 * beyond, 0.0], [0.0, 1.1 * beyond], [0.0, 0.0], [math.nan, 0.0]])
    scores = mixture_scores(ONE, zeros(1), samples, zeros(4))
    assert scores["outliers"].value == 0.5, "what is not a number is an outlier"
    generator = torch.Generator().manual_seed(1)
    many = mixture_scores(ONE, zeros(1), ONE.sample(4000, 0, generator), zeros(4000))
    assert many["likelihood"].low < -math.log(2 * math.pi * 0.16) - 1 < many["likelihood"].high
    assert many["diversity"].value == pytest.approx(0.4 * math.sqrt(math.pi), rel=0.03)
    label = torch.tensor([0, 1, 1])
    assert mixture_scores(FOUR, torch.arange(4), FOUR.means[[0, 3, 0]], label)["class"].value == pytest.approx(2 / 3)


def test_the_data_scores_as_the_data():
    scores = real_samples(1000).scores
    assert scores["outliers"].low <= 0.001 <= scores["outliers"].high
    assert scores["outliers"].value < 0.004
    assert scores["coverage"].value > 0.93
    assert scores["distance"].value < 0.04


def test_a_blurred_mixture_is_that_of_noisy_samples():
    data, generator = tree_mixture(), torch.Generator().manual_seed(0)
    noisy = data.sample(20_000, 0, generator, dtype=torch.float64)
    noisy += 0.3 * torch.randn(20_000, 2, generator=generator, dtype=torch.float64)
    blur = blurred(data, 0.3)
    assert sliced_distance(blur, noisy, zeros(20_000)).value < 0.01
    assert sliced_distance(data, noisy, zeros(20_000)).value > 0.05


def test_each_branch_is_a_mode_of_one_class():
    data, modes = tree_mixture(), branches(tree_mixture())
    assert len(modes.unique()) == 30
    assert all(len(data.labels[modes == each].unique()) == 1 for each in modes.unique())


# Samples.


def test_without_guidance_the_samples_are_the_models():
    made = cloud("", steps=100, per_class=500)
    model = blurred(tree_mixture(), BLUR)
    assert sliced_distance(model, made.samples, made.label).value < 0.04
    assert made.passes_per_step == 1


def test_cfg_loses_branches_where_autoguidance_loses_outliers_alone():
    plain, cfg, auto = (cloud(spec).scores for spec in ("", "cfg:scale=4", "autoguidance:scale=3,model=weak"))
    assert plain["outliers"].low > auto["outliers"].high
    assert auto["coverage"].value > plain["coverage"].value - 0.05
    assert cfg["coverage"].high < plain["coverage"].low - 0.3
    assert cfg["distance"].low > auto["distance"].high


def test_a_sample_depends_on_its_seed_and_number_alone():
    few, more = (cloud("cfg:scale=2", per_class=n, steps=6, seed=3) for n in (3, 300))
    for number in range(CLASSES):
        assert torch.equal(few.samples[few.label == number], more.samples[more.label == number][:3])
    assert not torch.equal(cloud("cfg:scale=2", per_class=3, steps=6, seed=4).samples, few.samples)
    assert few.paths.shape == (7, 3, 2)
    assert more.paths.shape == (7, PATHS, 2)
    assert torch.equal(few.paths[-1], few.samples[:3])


def test_batched_draws_what_serial_draws():
    spec = "cfg:scale=2,autoguidance:scale=2,model=weak"
    serial, batched = (cloud(spec, steps=6, executor=name).samples for name in ("serial", "batched"))
    torch.testing.assert_close(serial, batched, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "spec",
    [
        "perp-neg:scale=3,conditions=[other],weights=[0.5]",
        "multi-condition:condition=other,weight=-0.5",
        "cfg:scale=3,rescale:phi=0.7",
        "icg:scale=2,draw=class,classes=2",
        "apg:scale=3",
        "cfg-zero-star:scale=3",
        "cfg:scale=1000000",
    ],
)
def test_methods_draw_samples(spec):
    made = cloud(spec, steps=5, per_class=20)
    assert made.samples.isfinite().all()
    assert all(score.is_known for score in made.scores.values())


@pytest.mark.parametrize(
    ("spec", "settings", "says"),
    [
        ("stg:blocks=0", {}, "cannot make the change"),
        ("autoguidance:scale=2,model=weka", {}, "there is no model 'weka'; there is weak"),
        ("ltx2", {}, "one output, named 'output'"),
        ("", {"steps": 0}, "steps must be at least 1"),
        ("", {"per_class": 0}, "per_class must be at least 1"),
    ],
)
def test_what_cannot_be_drawn_is_a_clear_error(spec, settings, says):
    with pytest.raises(ConfigurationError, match=says):
        cloud(spec, **settings)


# The command.


def sample(*words: str):
    from guidance_core.commands.app import app

    return runner.invoke(app, ["sample", "--model", "mixture", *words])


def test_the_command_draws_a_panel_for_each_stack(tmp_path):
    from PIL import Image

    sizes = []
    for specs in (["-g", ""], ["-g", "", "-g", "cfg:scale=2", "-g", "apg:scale=2"]):
        out = tmp_path / "a.png"
        result = sample(*specs, "--steps", "3", "--per-class", "5", "--out", str(out), "--json")
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert len(found["rows"]) == len(specs) // 2
        assert set(found["rows"][0]["scores"]) == set(found["data"]["scores"])
        low, high = found["rows"][0]["scores"]["outliers"]["interval"]
        assert 0 <= low < high <= 1
        with Image.open(out) as picture:
            sizes.append(picture.size)
    (narrow, low), (wide, high) = sizes
    assert wide > 1.4 * narrow, "three panels in a row"
    assert high > 1.8 * low, "and the fourth below"


def test_one_sample_of_each_class_has_scores_without_an_end(tmp_path):
    words = ("--steps", "2", "--per-class", "1", "--out", str(tmp_path / "a.png"))
    scores = json.loads(sample(*words, "--json").stdout)["rows"][0]["scores"]
    assert scores["diversity"] == {"value": None, "interval": [None, None]}
    assert sample(*words).exit_code == 0


def test_the_table_shows_every_score_in_a_narrow_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = sample("-g", "cfg:scale=2", "--steps", "3", "--per-class", "20", "--out", str(tmp_path / "a.png"))
    assert result.exit_code == 0, result.output
    for name in ("class", "outliers", "coverage", "likelihood", "distance", "diversity", "% ["):
        assert name in result.stdout
    assert "…" not in result.stdout


@pytest.mark.parametrize("backend", ["tkagg", "no-such-thing"])
def test_the_picture_needs_no_display_and_names_a_backend_that_is_none(backend, tmp_path):
    import os

    words = ["sample", "--model", "mixture", "--steps", "2", "--per-class", "5", "--out", str(tmp_path / "a.png")]
    surroundings = {key: value for key, value in os.environ.items() if key != "DISPLAY"} | {"MPLBACKEND": backend}
    command = [sys.executable, "-m", "guidance_core", *words]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    if backend == "tkagg":
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    else:
        assert done.returncode == 2
        assert "matplotlib cannot be loaded" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_style_of_the_user_or_a_font_that_is_missing_changes_nothing(tmp_path):
    import matplotlib as mpl

    from guidance_core.models.mixture_pictures import save_clouds

    data, made = real_samples(5), cloud("", steps=2, per_class=5)
    save_clouds(data, [made], [""], tmp_path / "a.png")
    with mpl.rc_context({"font.family": "No Such Font", "axes.facecolor": "black"}):
        save_clouds(data, [made], [""], tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--prompt", "rising"], "--prompt is for --model keypad"),
        (["--characters", "A"], "--characters is for --model letters"),
        (["-g", "cfg:scale={video: 3, audio: 1}"], "one output"),
        (["--out", "a.gif"], "must end in .png"),
    ],
)
def test_what_the_command_cannot_do_is_a_clear_error(words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = sample("--steps", "2", *words)
    assert isinstance(result.exception, GuidanceError), result.output
    assert says in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_a_misspelt_model_is_told_its_name():
    from guidance_core.commands.app import app

    result = runner.invoke(app, ["sample", "--model", "mixtrue"])
    assert "Did you mean 'mixture'" in str(result.exception)


def test_ranks_draw_the_picture_that_one_process_draws(tmp_path):
    found = []
    for count in ("1", "2"):
        words = ("-g", "autoguidance:scale=2,model=weak", "--steps", "3", "--per-class", "10", "--ranks", count)
        result = sample(*words, "--out", str(tmp_path / f"{count}.png"), "--json")
        assert result.exit_code == 0, result.output
        found.append(json.loads(result.stdout)["rows"][0]["scores"])
    assert found[0] == found[1]
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
