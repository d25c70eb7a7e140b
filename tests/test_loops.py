"""The loops of the documentation: right without guidance, and equal to the same loop guided by hand."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import comfyui_engine as engine
import pytest
import torch

from guidance_core import Guidance

PAGE = (Path(__file__).parents[1] / "docs/loops.md").read_text()
SCALE = 3.0


@pytest.fixture(scope="module")
def page():
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S):
        exec(block, names)
    return SimpleNamespace(**names)


class ByHand:
    """Stands in for a run: u + s(c − u), and nothing else."""

    def __init__(self, conditions, sigmas, scale):
        self.conditions, self.sigmas, self.scale = conditions, sigmas, scale

    def step(self, index, x, denoise, *, sigma=None):
        level = float(self.sigmas[index] if sigma is None else sigma)
        c, u = (
            denoise(SimpleNamespace(sigma=level, inputs=self.conditions[name], model=None))
            for name in ("positive", "negative")
        )
        return u + self.scale * (c - u)


LOOPS = {
    "flow": ("flow", "flow_sigmas", {"prediction_type": "flow"}, 1.0),
    "edm": ("edm", "edm_sigmas", {"prediction_type": "x0", "alphas": 1.0}, 80.0),
    "epsilon": ("epsilon", "ddim_sigmas", {"prediction_type": "epsilon"}, 1.0),
    "v": ("v", "ddim_sigmas", {"prediction_type": "v"}, 1.0),
    "heun": ("heun", "edm_sigmas", {"prediction_type": "x0", "alphas": 1.0}, 80.0),
    "res2s": ("res2s", "edm_sigmas", {"prediction_type": "x0", "alphas": 1.0}, 80.0),
}


def started(page, name, spec):
    _, sigmas, kind, _ = LOOPS[name]
    return Guidance.from_spec(spec).start(conditions=page.conditions, sigmas=getattr(page, sigmas), **kind)


def noise(scale, dtype=torch.float32):
    return scale * torch.randn(2, 8, generator=torch.Generator().manual_seed(3), dtype=dtype)


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_with_cfg_equals_the_same_loop_guided_by_hand(page, name):
    loop, sigmas, _, scale = LOOPS[name]
    by_hand = ByHand(page.conditions, getattr(page, sigmas), SCALE)
    ours = getattr(page, loop)(started(page, name, f"cfg:scale={SCALE}"), noise(scale))
    torch.testing.assert_close(ours, getattr(page, loop)(by_hand, noise(scale)), rtol=1e-4, atol=1e-4)


def error_of(page, name):
    """Return how far a loop without guidance ends from the solution of the differential equation.

    Of data around m with deviation 1, the sample (x − α·m)/√(α² + σ²) stays what it is.
    """
    loop, sigmas, _, scale = LOOPS[name]
    m, sigma = 1.0, getattr(page, sigmas)[0]
    alpha = 1 - sigma if name == "flow" else 1.0 if scale > 1 else math.sqrt(1 - sigma**2)
    x = noise(scale, torch.float64)
    expected = m + (x - alpha * m) / math.hypot(alpha, sigma)
    return float((getattr(page, loop)(started(page, name, ""), x) - expected).abs().max())


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_without_guidance_solves_the_differential_equation(page, name):
    assert error_of(page, name) < 0.15


@pytest.mark.parametrize(("name", "least", "most"), [("edm", 1.7, 2.3), ("heun", 3.2, 5), ("res2s", 3.2, 5)])
def test_twice_the_steps_bring_a_loop_nearer_by_its_order(page, name, least, most, monkeypatch):
    before = error_of(page, name)
    finer = [80 ** (1 - i / 60) * 0.01 ** (i / 60) for i in range(61)] + [0.0]
    monkeypatch.setattr(page, "edm_sigmas", finer)
    monkeypatch.setitem(page.heun.__globals__, "edm_sigmas", finer)
    assert least < before / error_of(page, name) < most


def test_restart_equals_the_same_loop_guided_by_hand(page):
    run = Guidance.from_spec(f"cfg:scale={SCALE}").start(
        conditions=page.conditions, sigmas=page.restart_sigmas, prediction_type="x0", alphas=1.0, may_rise=True
    )
    ours, by_hand = (
        page.restart(each, noise(80.0), torch.Generator().manual_seed(0))
        for each in (run, ByHand(page.conditions, page.restart_sigmas, SCALE))
    )
    torch.testing.assert_close(ours, by_hand, rtol=1e-4, atol=1e-4)


def test_autoguidance_runs_the_weaker_net_in_its_branch(page):
    run = page.autoguidance.start(
        conditions={"positive": page.conditions["positive"]}, sigmas=page.edm_sigmas, prediction_type="x0", alphas=1.0
    )
    x = expected = noise(80.0)
    for sigma, following in pairwise(page.edm_sigmas):
        strong, weak = (each(expected, torch.tensor(sigma), torch.tensor(1.0)) for each in (page.net, page.weak_net))
        x0 = weak + 2.0 * (strong - weak)
        expected = x0 + following / sigma * (expected - x0)
    torch.testing.assert_close(page.edm2(run, x), expected, rtol=1e-4, atol=1e-4)


def test_the_pages_example_of_k_diffusion_runs(page):
    engine.samplers()
    (block,) = re.findall(r"^```{.python .no-run .k-diffusion}\n(.*?)^```", PAGE, re.M | re.S)
    names = dict(vars(page))
    exec(block, names)
    assert names["made"].isfinite().all()


BY_SIGMAS = (
    *("euler", "euler_ancestral", "heun", "dpm_2", "dpm_2_ancestral", "lms", "dpmpp_2s_ancestral", "dpmpp_sde"),
    *("dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde"),
)


@pytest.mark.parametrize("name", [*BY_SIGMAS, "euler churn", "heun churn", "dpm_fast", "dpm_adaptive"])
def test_samplers_of_k_diffusion_equal_those_guided_by_hand(page, name):
    sampling = engine.samplers()
    name, churn = name.removesuffix(" churn"), {"s_churn": 4.0} if name.endswith(" churn") else {}
    sigmas = sampling.get_sigmas_karras(12, 0.03, 80.0)
    if name in BY_SIGMAS:
        given: tuple = (sigmas,)
    else:
        given = (0.03, 80.0, *((12,) if name == "dpm_fast" else ()))
    run = Guidance.from_spec(f"cfg:scale={SCALE}").start(
        conditions=page.conditions, sigmas=sigmas, prediction_type="x0", alphas=1.0
    )
    by_hand = ByHand(page.conditions, sigmas, SCALE)

    def ours(x, sigma):
        return run.step_at(float(sigma[0]), x, lambda branch: page.denoised(x, branch))

    def plain(x, sigma):
        return by_hand.step(0, x, lambda branch: page.denoised(x, branch), sigma=sigma[0])

    made = []
    for model in (ours, plain):
        torch.manual_seed(1)
        made.append(getattr(sampling, f"sample_{name}")(model, noise(80.0), *given, disable=True, **churn))
    # an adaptive sampler decides by rounded numbers how long its steps are
    tolerance = 1e-2 if name == "dpm_adaptive" else 1e-4
    torch.testing.assert_close(*made, rtol=tolerance, atol=tolerance)
