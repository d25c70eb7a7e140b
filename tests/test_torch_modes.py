"""What torch is doing around a step changes nothing: autocast, gradients, inference mode, torch.compile, torch.func."""

from __future__ import annotations

import pytest
import torch
from memory_jobs import CONDITIONS
from torch.func import grad, jvp, vmap

from guidance_core import ConfigurationError, Guidance, GuidanceError

SPECS = (
    "cfg:scale=3",
    "cfg:scale=linear(7, 1),rescale:phi=0.7",
    "apg:scale=3,momentum=-0.5",
    "cfg-zero-star:scale=3",
    "cfg:scale=3,gate:lo=0.5",
    "cfg:scale=3,normalize",
    "ltx2:cfg_scale=3,stg_scale=1,modality_scale=2,rescale_scale=0.7",
    "cfg:scale=1",
    "",
)
STEPS = 4


def started(spec):
    sigmas = [1 - i / STEPS for i in range(STEPS + 1)]
    return Guidance.from_spec(spec).start(conditions=CONDITIONS, sigmas=sigmas, prediction_type="flow")


def forwards(x):
    return lambda branch: torch.sin(x * branch.inputs["k"] + len(branch.perturbations) * 0.5)


def euler(spec, x, step=lambda run, i, x: run.step(i, x, forwards(x))):
    run = started(spec)
    for i in range(STEPS):
        x = x - step(run, i, x) / STEPS
    return x


def noise(n):
    return torch.linspace(-1, 1, 2 * n).view(2, n)


MODES = {
    "autocast": lambda _: torch.autocast("cpu", dtype=torch.bfloat16),
    "no_grad": lambda _: torch.no_grad(),
    "inference": lambda _: torch.inference_mode(),
    "inference by turns": lambda i: torch.inference_mode(i % 2 == 0),
    "inference later": lambda i: torch.inference_mode(i > 1),
    "another device": lambda _: torch.device("meta"),
}


@pytest.mark.parametrize("n", [8, 100_000], ids=["small", "above the block size"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("spec", SPECS)
def test_a_mode_around_a_step_changes_nothing(spec, mode, n):
    def step(run, i, x):
        with MODES[mode](i):
            return run.step(i, x, forwards(x))

    assert torch.equal(euler(spec, noise(n), step), euler(spec, noise(n)))


@pytest.mark.parametrize("n", [8, 100_000], ids=["small", "above the block size"])
@pytest.mark.parametrize("spec", SPECS)
def test_a_sample_that_carries_gradients_gives_the_same_bits_and_gets_its_own(spec, n):
    x = noise(n).requires_grad_()
    result = euler(spec, x)
    assert torch.equal(result.detach(), euler(spec, noise(n)))
    along = torch.linspace(1, -1, 2 * n, dtype=torch.float64).view(2, n)
    (result * along).sum().backward()
    exact = noise(n).double().requires_grad_()
    (euler(spec, exact) * along).sum().backward()
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=1e-2, atol=float(1e-2 * exact.grad.abs().max()))
    ahead, behind = ((euler(spec, noise(n).double() + 1e-5 * sign * along) * along).sum() for sign in (1, -1))
    torch.testing.assert_close((exact.grad * along).sum(), (ahead - behind) / 2e-5, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [8, 100_000], ids=["small", "above the block size"])
@pytest.mark.parametrize("spec", SPECS)
def test_gradients_of_the_sample_alone_flow_through_conversions(spec, n):
    def detached(run, i, x):
        return run.step(i, x, forwards(x.detach()))

    x = noise(n).requires_grad_()
    result = euler(spec, x, detached)
    result.sum().backward()
    assert torch.equal(result.detach(), euler(spec, noise(n)))
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("spec", SPECS)
def test_torch_func_maps_over_runs_and_differentiates_them(spec):
    x = torch.stack([noise(8), 2 * noise(8)])
    expected = torch.stack([euler(spec, each) for each in x])
    torch.testing.assert_close(vmap(lambda each: euler(spec, each))(x), expected)
    by_hand = x[0].clone().requires_grad_()
    euler(spec, by_hand).sum().backward()
    torch.testing.assert_close(grad(lambda each: euler(spec, each).sum())(x[0]), by_hand.grad)
    assert torch.isfinite(jvp(lambda each: euler(spec, each), (x[0],), (x[1],))[1]).all()


def in_halves(run, i, x):
    with run.plan(i, x) as plan:
        return plan.finish({branch.name: forwards(x)(branch) for branch in plan.own_branches})


def as_a_dict(run, i, x):
    return run.step(i, {"a": x}, lambda branch: {"a": forwards(x)(branch)})["a"]


def at_other_levels(run, i, x):
    return run.step(i, x, forwards(x), sigma=0.95 - i / 4, model="high" if i % 2 else None)


def started_inside(run, i, x):
    return started("cfg:scale=3,rescale:phi=0.7").step(i, x, forwards(x))


COMPILED = {
    "step": lambda run, i, x: run.step(i, x, forwards(x)),
    "halves": in_halves,
    "dict": as_a_dict,
    "levels": at_other_levels,
    "start": started_inside,
}


@pytest.mark.parametrize("way", COMPILED)
def test_a_compiled_function_around_a_step_gives_the_same_bits(way):
    """Shapes, levels and runs change more often than torch.compile is willing to compile a function anew."""

    def one(run, i, x):
        return x.mul(1.0) - COMPILED[way](run, i, x) / STEPS

    torch.compiler.reset()
    compiled = torch.compile(one, backend="eager")
    for number, spec in enumerate(SPECS * 2):
        found = []
        for function in (one, compiled):
            run, x = started(spec), noise(8 + number)
            with torch.no_grad():
                for i in range(STEPS):
                    x = function(run, i, x)
            found.append(x)
        assert torch.equal(*found), spec


def test_a_model_that_is_compiled_itself_stays_compiled_inside_a_compiled_step():
    graphs = []

    def backend(graph, inputs):
        graphs.append([node.target for node in graph.graph.nodes if node.op == "call_function"])
        return graph.forward

    torch.compiler.reset()
    model = torch.compile(lambda x, k: torch.sin(x * k), backend=backend)
    whole = torch.compile(
        lambda run, x: x - run.step(0, x, lambda branch: model(x, branch.inputs["k"])), backend=backend
    )
    assert torch.equal(
        whole(started("cfg:scale=3"), noise(8)), noise(8) - started("cfg:scale=3").step(0, noise(8), forwards(noise(8)))
    )
    assert any(torch.sin in targets for targets in graphs)


def test_errors_leave_a_compiled_function_as_themselves():
    torch.compiler.reset()
    compiled = torch.compile(lambda run, i, x: run.step(i, x, forwards(x)), backend="eager")
    run = started("cfg:scale=3")
    with pytest.raises(ConfigurationError, match="step 99 is out of range"):
        compiled(run, 99, noise(8))
    with pytest.raises(GuidanceError, match="must be floating point"):
        compiled(run, 0, torch.ones(2, 3, dtype=torch.int64))
    assert compiled(run, 0, noise(8)).shape == (2, 8)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("spec", SPECS)
def test_float8_predictions_are_guided_in_float32_and_rounded_once(spec, dtype):
    x, made = noise(8), {}

    def denoise(branch):
        made[branch.name] = forwards(x)(branch).to(dtype)
        return made[branch.name]

    result = started(spec).step(0, x, denoise)
    wide = started(spec).step(0, x, lambda branch: made[branch.name].float())
    assert result.dtype is dtype
    assert torch.equal(result.float(), wide.to(dtype).float())
