"""The embedded models and the main job, end to end."""

from __future__ import annotations

import json

import attrs
import pytest
import torch
from typer.testing import CliRunner

from guidance_core import ConfigurationError, Guidance, GuidanceError, IsolateOutputs, SkipBlocks, number
from guidance_core.models import NULL_LABEL, load_digits_model
from guidance_core.models.gaussians import default_mixture
from guidance_core.models.samplers import euler, heun

runner = CliRunner()


def test_guidance_makes_digits_easier_to_read():
    from guidance_core.models.drawing import draw_digits

    plain, guided = (draw_digits(Guidance.from_spec(spec), per_class=10, steps=15) for spec in ("", "cfg:scale=3"))
    assert plain.passes_per_step == 1
    assert guided.passes_per_step == 2
    assert guided.accuracy >= 0.97
    assert guided.accuracy >= plain.accuracy + 0.04


def test_batched_draws_what_serial_draws():
    from guidance_core.models.drawing import draw_digits

    guidance = Guidance.from_spec("cfg:scale=3,stg:blocks=3,branch=weak")
    serial, batched = (draw_digits(guidance, per_class=2, steps=8, executor=name) for name in ("serial", "batched"))
    torch.testing.assert_close(serial.images, batched.images, rtol=1e-3, atol=1e-3)


def test_the_model_refuses_what_it_cannot_do():
    model, x, label = load_digits_model(), torch.zeros(1, 1, 8, 8), torch.tensor([NULL_LABEL])
    for perturbation in (IsolateOutputs(), SkipBlocks((99,)), SkipBlocks((0,), output="audio")):
        with pytest.raises(ConfigurationError, match="DigitsTransformer"):
            model(x, 0.5, label, (perturbation,))


def test_skipping_every_block_makes_the_prediction_forget_neighbours():
    model, x, label = load_digits_model(), torch.randn(1, 1, 8, 8), torch.tensor([3])
    skipped = model(x, 0.5, label, (SkipBlocks(),))
    changed = x.clone()
    changed[..., :2, :2] += 1
    elsewhere = (model(changed, 0.5, label, (SkipBlocks(),)) - skipped)[..., 2:, 2:]
    assert torch.equal(elsewhere, torch.zeros_like(elsewhere))


@pytest.mark.parametrize("sigma", [0.9, 0.4])
def test_the_mixture_is_tweedies_formula(sigma):
    mixture = default_mixture()
    x = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    alpha = 1 - sigma
    means, stds, weights = (torch.as_tensor(each).double() for each in (mixture.means, mixture.stds, mixture.weights))
    variance = (alpha * stds) ** 2 + sigma**2
    distance = (x[:, None] - alpha * means).square().sum(-1)
    log_density = torch.logsumexp(weights.log() - variance.log() - distance / (2 * variance), dim=1)
    (score,) = torch.autograd.grad(log_density.sum(), x)
    epsilon = mixture.predict(x.detach(), sigma, prediction_type="epsilon", alpha=alpha)
    torch.testing.assert_close(epsilon, -sigma * score)
    x0 = mixture.predict(x.detach(), sigma, prediction_type="x0", alpha=alpha)
    flow = mixture.predict(x.detach(), sigma, prediction_type="flow")
    torch.testing.assert_close(x.detach(), alpha * x0 + sigma * epsilon)
    torch.testing.assert_close(flow, epsilon - x0)


def test_the_command_draws_a_picture(tmp_path):
    from guidance_core.commands.app import app

    out = tmp_path / "a.png"
    command = ["sample", "-g", "", "-g", "cfg:scale=3", "--steps", "4", "--per-class", "1", "--out", str(out), "--json"]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [row["passes_per_step"] for row in rows] == [1, 2]
    assert out.read_bytes().startswith(b"\x89PNG")


def test_the_command_lists_every_shipped_method():
    from guidance_core.commands.app import app

    listed = json.loads(runner.invoke(app, ["plugins", "--json"]).stdout)["plugins"]
    names = {row["name"] for row in listed if row["failure"] is None}
    assert names >= {"apg", "cfg", "cfg-zero-star", "gate", "interval", "ltx2", "normalize", "rescale", "stg"}
    assert all(row["parameters"] and row["summary"] for row in listed)
    assert "the noise level is in [lo, hi]; outside" in " ".join(runner.invoke(app, ["plugins"]).stdout.split())


def test_the_command_lists_what_a_parameter_may_be(monkeypatch):
    from guidance_core.commands.app import app

    monkeypatch.setenv("COLUMNS", "80")
    listed = json.loads(runner.invoke(app, ["plugins", "--json"]).stdout)["plugins"]
    by_name = {row["name"]: {each["name"]: each for each in row["parameters"]} for row in listed}
    apg, stg, ltx2 = by_name["apg"], by_name["stg"], by_name["ltx2"]
    assert (apg["scale"]["default"], stg["scale"]["default"], stg["blocks"]["default"]) == (7.5, 1.0, None)
    assert apg["form"] == {
        "name": "form",
        "required": False,
        "default": "paper",
        "options": ["paper", "diffusers"],
        "help": "whether s counts from c or from u",
    }
    assert None in apg["space"]["options"], "an optional choice may be none"
    assert ltx2["cfg_scale"]["default"] == "unset"
    text = runner.invoke(app, ["plugins"]).stdout
    assert "[epsilon, v, x0, flow, none]" in " ".join(text.split())
    wrapped = text.splitlines()[[line.startswith("  momentum=0") for line in text.splitlines()].index(True) + 1]
    assert wrapped.startswith(" " * 29), "a second line of help stands under the first"


def test_the_command_lists_a_required_parameter(monkeypatch):
    from guidance_core import discovery
    from guidance_core.commands import plugins
    from guidance_core.commands.app import app

    @attrs.frozen
    class Needy:
        scale: float = number(help="how far")

    found = discovery.Found("needy", "needy:Needy", "theirs", "1.0", Needy)
    monkeypatch.setattr(plugins, "find_plugins", lambda: [found])
    (row,) = json.loads(runner.invoke(app, ["plugins", "--json"]).stdout)["plugins"]
    assert row["parameters"] == [{"name": "scale", "required": True, "help": "how far"}]
    assert "scale=required" in runner.invoke(app, ["plugins"]).stdout


def test_the_command_says_its_version():
    from guidance_core import __version__
    from guidance_core.commands.app import app

    assert runner.invoke(app, ["--version"]).stdout == f"guidance-core {__version__}\n"


def test_the_command_describes_named_outputs_only():
    from guidance_core.commands.app import app

    result = runner.invoke(app, ["describe", "cfg", "--outputs", "video, audio", "--json"])
    assert json.loads(result.stdout)["steps"][0]["passes"][1]["strengths"] == {"video": "6.5", "audio": "6.5"}
    for outputs in ("video,,audio", "video,", " "):
        assert isinstance(runner.invoke(app, ["describe", "cfg", "--outputs", outputs]).exception, ConfigurationError)


def test_the_command_describes_ltx2():
    from guidance_core.commands.app import app

    result = runner.invoke(app, ["describe", "ltx2:preset=2.3", "--json"])
    description = json.loads(result.stdout)
    (group,) = description["steps"]
    assert [each["branch"] for each in group["passes"]] == ["cond", "neg", "perturbed", "modality"]
    assert description["total_passes"] == 120
    placed = runner.invoke(app, ["describe", "ltx2:preset=2.3", "--ranks", "3"]).stdout
    assert "rank 0: cond, modality; rank 1: neg; rank 2: perturbed (expected speedup 2.00)" in placed


def test_the_picture_names_its_rows_and_does_not_change(tmp_path):
    from guidance_core.models.drawing import draw_digits
    from guidance_core.models.grid import save_grid

    drawn = [draw_digits(Guidance.from_spec("cfg:scale=3"), per_class=1, steps=2) for _ in range(2)]
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


def test_heun_is_of_second_order_with_guidance():
    mixture, guidance = default_mixture(), Guidance.from_spec("cfg:scale=2")
    noise = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    label = torch.arange(64) % 3

    def draw(sampler, steps):
        sigmas = [1 - 0.95 * i / steps for i in range(steps + 1)]
        conditions = {"positive": {"label": label}, "negative": {"label": None}}
        run = guidance.start(conditions=conditions, sigmas=sigmas, prediction_type="flow")

        def denoiser(x, sigma):
            return lambda branch: mixture.predict(x, sigma, prediction_type="flow", **branch.inputs)

        return sampler(run, sigmas, noise, denoiser)

    exact = draw(heun, 800)
    errors = {
        (sampler, steps): (draw(sampler, steps) - exact).abs().mean() for sampler in (euler, heun) for steps in (20, 40)
    }
    assert errors[heun, 40] < errors[heun, 20] / 3
    assert errors[euler, 40] > errors[euler, 20] / 3
    assert errors[heun, 20] < errors[euler, 40] / 3, "at the same number of evaluations"


def test_a_second_evaluation_is_limited_by_its_own_sigma():
    seen = []
    run = Guidance.from_spec("cfg:scale=2,interval:lo=0,hi=0.5").start(
        conditions={"positive": {}, "negative": {}}, sigmas=[1.0, 0.5, 0.0], prediction_type="flow"
    )

    def denoiser(x, sigma):
        def denoise(branch):
            seen.append((branch.name, branch.step, branch.evaluation))
            return x.clone()

        return denoise

    heun(run, [1.0, 0.5, 0.0], torch.zeros(1, 2), denoiser)
    assert seen == [("cond", 0, 0), ("cond", 0, 1), ("uncond", 0, 1), ("cond", 1, 0), ("uncond", 1, 0)]
