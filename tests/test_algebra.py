"""The step's arithmetic: against written-out formulas, across spaces, batches, structures and blocks."""

from __future__ import annotations

import attrs
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from guidance_core import (
    Branch,
    ConfigurationError,
    Executor,
    Guidance,
    Multiply,
    Needs,
    PerOutput,
    Sums,
    Table,
    hookimpl,
    norm,
    ratio,
    std,
)
from guidance_core.algebra.arithmetic import evaluate
from guidance_core.algebra.spaces import SPACES, Noise, affine
from guidance_plugins import APG, CFG, LTX2, STG, CFGZeroStar, Normalize, Rescale

BOTH = {"positive": {}, "negative": {}}
EPS32 = 2.0**-24
NAMES = ("cond", "uncond", "neg", "perturbed", "modality")

shapes = st.sampled_from([(1, 3), (2, 5), (3, 4, 2), (2, 16, 8), (2, 3, 4, 5)])
strengths = st.floats(-20, 20, allow_nan=False).map(lambda value: round(value, 3))
seeds = st.integers(0, 2**16)


def draw(seed: int, *shape: int, count: int = 1, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


def predict(seed: int, *shape: int, dtype: torch.dtype = torch.float32):
    x, *passes = draw(seed, *shape, count=6, dtype=dtype)
    return x, dict(zip(NAMES, passes, strict=True))


@attrs.frozen
class Away:
    """Moves away from one named branch: a third-party plugin in five lines."""

    branch: str
    strength: float | PerOutput | torch.Tensor = attrs.field(eq=False)

    @hookimpl
    def build_branches(self, step):
        return [Branch(self.branch, condition="negative", overrides={"name": self.branch}, strength=self.strength)]


def one_step(plugins, x, predictions, *, sigma=0.6, prediction_type="flow", **settings):
    run = Guidance(plugins).start(conditions=BOTH, sigmas=[sigma, 0.0], prediction_type=prediction_type, **settings)
    return run.step(0, x, lambda branch: predictions[branch.name])


PAIRS = [(source, target) for source in SPACES for target in SPACES]
LEVELS = [(0.6, 0.8), (0.3, 0.7), (3.0, 1.0), (0.5, 0.25)]
"Sigma and alpha: variance-preserving, rectified, variance-exploding, and any other."


@pytest.mark.parametrize(("sigma", "alpha"), LEVELS)
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_conversion_is_the_definition_of_both_prediction_types(source, target, sigma, alpha):
    if "flow" in (source, target):
        alpha = 1 - sigma
    x0, epsilon = draw(11, 2, 5, count=2, dtype=torch.float64)
    x = alpha * x0 + sigma * epsilon
    predictions = {"epsilon": epsilon, "v": alpha * epsilon - sigma * x0, "x0": x0, "flow": epsilon - x0}
    conversion = affine(source, target, Noise(sigma, alpha))
    torch.testing.assert_close(conversion.a * x + conversion.b * predictions[source], predictions[target])


def test_an_alpha_that_the_prediction_type_implies_need_not_be_given():
    assert affine("v", "x0", Noise(0.6)) == affine("v", "x0", Noise(0.6, 0.8))
    assert affine("x0", "v", Noise(1.0)) == affine("x0", "v", Noise(1.0, 0.0))
    assert affine("flow", "v", Noise(0.6)) == affine("flow", "v", Noise(0.6, 0.4))


@pytest.mark.parametrize(
    ("source", "target", "noise", "says"),
    [
        ("epsilon", "x0", Noise(0.6), "converting epsilon to x0 at sigma 0.6 needs alpha"),
        ("v", "x0", Noise(1.5), "converting v to x0 at sigma 1.5 needs alpha"),
        ("epsilon", "v", Noise(1.0), "an epsilon prediction says nothing about x0 where alpha is 0"),
        ("epsilon", "x0", Noise(1.0, 0.0), "an epsilon prediction says nothing about x0 where alpha is 0"),
        ("x0", "epsilon", Noise(0.0, 1.0), "x0 cannot be converted to epsilon at sigma 0"),
        ("flow", "epsilon", Noise(0.0, 1.0), "x0 cannot be converted to epsilon at sigma 0"),
    ],
)
def test_a_conversion_that_does_not_exist_says_why(source, target, noise, says):
    with pytest.raises(ConfigurationError, match=says):
        affine(source, target, noise)


def test_one_linear_method_twice_is_one_of_the_total_strength():
    x, predictions = predict(3, 2, 5)
    twice = one_step([CFG(3.0), CFG(4.5)], x, predictions)
    assert torch.equal(twice, one_step([CFG(6.5)], x, predictions))
    _, uncond = Guidance([CFG(3.0), CFG(4.5)]).describe(2).steps[0].passes
    assert (uncond.strengths, uncond.asked_by) == ({"output": "5.5"}, ("cfg", "cfg#2"))


@pytest.mark.parametrize("method", [CFG, APG])
@pytest.mark.parametrize("audio_sigma", [0.6, 0.3])
def test_a_table_may_hold_values_per_output(method, audio_sigma):
    x, predictions = predict(4, 2, 5)
    both = {name: (each, each) for name, each in predictions.items()}
    table = Table({0.5: PerOutput(video=2.0, audio=3.0), 1.0: PerOutput(video=4.0, audio=5.0)})
    run = Guidance([method(table)]).start(
        conditions=BOTH,
        sigmas={"video": [0.6, 0.0], "audio": [audio_sigma, 0.0]},
        prediction_type="flow",
        outputs=("video", "audio"),
    )
    video, audio = run.step(0, (x, x), lambda branch: both[branch.name])
    assert torch.equal(video, one_step([method(4.0)], x, predictions))
    scale = 5.0 if audio_sigma > 0.5 else 3.0
    assert torch.equal(audio, one_step([method(scale)], x, predictions, sigma=audio_sigma))


def test_a_list_of_outputs_gives_a_tuple():
    x = torch.ones(1, 2)
    run = Guidance([]).start(conditions=BOTH, sigmas=[1.0, 0.0], prediction_type="flow", outputs=("video", "audio"))
    result = run.step(0, [x, x], lambda branch: [x, 2 * x])
    assert isinstance(result, tuple)
    assert torch.equal(result[1], 2 * x)


@settings(deadline=None, max_examples=60)
@given(shapes, st.lists(strengths, min_size=1, max_size=4), seeds, st.sampled_from([torch.float32, torch.bfloat16]))
def test_linear_guidance_is_the_written_out_formula(shape, ks, seed, dtype):
    x, c, *others = draw(seed, *shape, count=2 + len(ks), dtype=dtype)
    predictions = {"cond": c} | {f"b{i}": p for i, p in enumerate(others)}
    result = one_step([Away(f"b{i}", k) for i, k in enumerate(ks)], x, predictions)

    exact = c.double() + sum(k * (c.double() - p.double()) for k, p in zip(ks, others, strict=True))
    sizes = ((1 + sum(ks)) * c.double(), *(k * p.double() for k, p in zip(ks, others, strict=True)))
    bound = (len(ks) + 1) * 2 * EPS32 * sum(size.abs() for size in sizes)
    if dtype == torch.bfloat16:
        bound = bound + exact.abs() * 2.0**-8
    assert result.dtype == dtype
    assert ((result.double() - exact).abs() <= bound + 1e-30).all()


@settings(deadline=None, max_examples=40)
@given(shapes, strengths, strengths, seeds, st.floats(0.05, 0.95))
def test_linear_guidance_is_the_same_in_every_space(shape, k, other, seed, sigma):
    x, c, u, w = draw(seed, *shape, count=4, dtype=torch.float64)
    noise = Noise(sigma, 1 - sigma)
    flow = {"cond": c, "u": u, "w": w}
    expected = one_step([Away("u", k), Away("w", other)], x, flow, sigma=sigma)
    for space in SPACES:
        there, back = affine("flow", space, noise), affine(space, "flow", noise)
        converted = {name: there.a * x + there.b * p for name, p in flow.items()}
        result = one_step(
            [Away("u", k), Away("w", other)], x, converted, sigma=sigma, prediction_type=space, alphas=[1 - sigma]
        )
        torch.testing.assert_close(back.a * x + back.b * result, expected, rtol=1e-8, atol=1e-8)


STACKS = {
    "cfg": [CFG(4.0)],
    "cfg, rescale in x0": [CFG(4.0), Rescale(0.7, space="x0")],
    "cfg, rescale per channel": [CFG(4.0), Rescale(0.7, over="channel")],
    "cfg, normalize clamp": [CFG(4.0), Normalize(limit=0.8)],
    "cfg, normalize match": [CFG(4.0), Normalize(form="match")],
    "apg": [APG(4.0, eta=0.3, threshold=2.0)],
    "cfg zero star": [CFGZeroStar(4.0, zero_steps=0)],
    "stg, cfg, rescale": [STG(1.5), CFG(3.0), Rescale()],
    "ltx2": [LTX2(cfg_scale=3.0, rescale_scale=0.7)],
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(5, 16, 8), (4, 3, 40, 50), (3, 700, 128)])
@pytest.mark.parametrize("stack", STACKS)
def test_a_sample_depends_on_itself_alone_bit_for_bit(stack, shape, threads):
    x, predictions = predict(7, *shape)
    torch.set_num_threads(threads)
    try:
        together = one_step(STACKS[stack], x, predictions)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
        shuffled = one_step(STACKS[stack], x[order], {name: p[order] for name, p in predictions.items()})
        assert torch.equal(shuffled, together[order])
        for i in range(len(x)):
            alone = one_step(STACKS[stack], x[i : i + 1], {name: p[i : i + 1] for name, p in predictions.items()})
            assert torch.equal(alone, together[i : i + 1]), f"sample {i} depends on its batch mates"
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stack", STACKS)
def test_blocks_change_no_bit(stack, dtype, monkeypatch):
    x, predictions = predict(3, 2, 600, 128, dtype=dtype)
    monkeypatch.setattr("guidance_core.algebra.arithmetic.BLOCK", 20_000)
    blocked = one_step(STACKS[stack], x, predictions)
    monkeypatch.setattr("guidance_core.algebra.arithmetic.BLOCK", 50_000)
    assert torch.equal(one_step(STACKS[stack], x, predictions), blocked)


@pytest.mark.parametrize(
    "strengths", [(3.0,), (0.3,), (-1.7,), (3.0, 1.0), (0.5, 4.0, -2.0), ("one a sample",), (3.0, "one a sample", -0.1)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_sum_is_the_same_in_blocks_and_at_once(dtype, strengths, monkeypatch):
    x, predictions = predict(3, 2, 600, 128, dtype=dtype)
    given = [torch.tensor([2.0, -0.7]) if isinstance(each, str) else each for each in strengths]
    stack = [Away(branch, strength) for branch, strength in zip(NAMES[1:], given, strict=False)]
    blocked = one_step(stack, x, predictions)
    monkeypatch.setattr("guidance_core.algebra.arithmetic.BLOCK", 10**9)
    assert torch.equal(one_step(stack, x, predictions), blocked)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("size", [60, 60_000])
def test_a_first_term_that_comes_again_counts_as_it_was_given(dtype, size):
    first, other = draw(3, 2, 3, size, count=2, dtype=dtype)
    again = evaluate([(first, 1.0), (other, 2.0), (first, -1.0), (first, 0.5)])
    copied = evaluate([(first, 1.0), (other, 2.0), (first.clone(), -1.0), (first.clone(), 0.5)])
    assert torch.equal(again, copied)


@pytest.mark.parametrize("stack", STACKS)
def test_strides_change_no_bit(stack):
    x, predictions = predict(5, 4, 30, 20)
    expected = one_step(STACKS[stack], x, predictions)
    strided = {name: p.transpose(1, 2).contiguous().transpose(1, 2) for name, p in predictions.items()}
    assert torch.equal(one_step(STACKS[stack], x, strided), expected)


@pytest.mark.parametrize("values", ["constant", "zero", "huge"])
@pytest.mark.parametrize("stack", STACKS)
def test_finite_in_finite_out(stack, values):
    x, predictions = predict(5, 3, 30, 20)
    for i, name in enumerate(NAMES):
        if values == "huge":
            predictions[name] = predictions[name] * 1e15
        else:
            predictions[name] = torch.full_like(x, 0.1 * i if values == "constant" else 0.0)
    assert torch.isfinite(one_step(STACKS[stack], x, predictions)).all()


@pytest.mark.parametrize("prediction_type", ["flow", "x0"])
@pytest.mark.parametrize("stack", STACKS)
def test_nothing_but_zeros_stays_finite(stack, prediction_type):
    zeros = {name: torch.zeros(2, 3, 4) for name in NAMES}
    assert torch.isfinite(one_step(STACKS[stack], zeros["cond"], zeros, prediction_type=prediction_type)).all()


@pytest.mark.parametrize("shape", [(2, 30), (2, 500, 100)])
def test_rescale_leaves_constant_predictions_as_they_are(shape):
    x, c, u = torch.randn(shape), torch.full(shape, 0.1), torch.full(shape, 0.3)
    with_rescale = one_step([CFG(3.0), Rescale(1.0)], x, {"cond": c, "uncond": u})
    assert torch.equal(with_rescale, one_step([CFG(3.0)], x, {"cond": c, "uncond": u}))


@settings(deadline=None, max_examples=20)
@given(st.sampled_from([(2, 5), (3, 20000), (2, 3, 70000)]), seeds, st.floats(-1000, 1000))
def test_statistics_agree_with_float64(shape, seed, offset):
    (x,) = draw(seed, *shape)
    x = x + offset
    dims = tuple(range(1, x.ndim))
    expected = x.double().std(dim=dims, keepdim=True, correction=0)
    torch.testing.assert_close(std(x).double(), expected, rtol=1e-4, atol=1e-6)
    expected = torch.linalg.vector_norm(x.double(), dim=dims, keepdim=True)
    torch.testing.assert_close(norm(x).double(), expected, rtol=1e-4, atol=0)


def test_a_tensor_scale_equals_separate_runs():
    x, predictions = predict(2, 3, 6, 4)
    scales = torch.tensor([1.0, 3.0, -2.0])
    together = one_step([CFG(scales)], x, predictions)
    for i, scale in enumerate(scales.tolist()):
        alone = one_step([CFG(scale)], x[i : i + 1], {name: p[i : i + 1] for name, p in predictions.items()})
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scales", [[1.0, 3.0, -2.0], [0.1, 3.0, 0.3], [0.2, 0.1, 0.3]])
@pytest.mark.parametrize("size", [4, 60_000])
def test_the_scale_of_one_sample_changes_no_bit_of_another(scales, size):
    x, predictions = predict(2, 3, 6, size)
    together = one_step([CFG(torch.tensor(scales))], x, predictions)
    for i, scale in enumerate(scales):
        mine = {name: p[i : i + 1] for name, p in predictions.items()}
        assert torch.equal(together[i : i + 1], one_step([CFG(torch.tensor([scale]))], x[i : i + 1], mine))


def test_corrections_apply_in_the_order_given():
    x, predictions = predict(2, 2, 6, 4)
    first = one_step([CFG(5.0), Rescale(1.0), Normalize(limit=0.5)], x, predictions)
    second = one_step([CFG(5.0), Normalize(limit=0.5), Rescale(1.0)], x, predictions)
    torch.testing.assert_close(norm(first), norm(predictions["cond"]) * 0.5)
    torch.testing.assert_close(std(second), std(predictions["cond"]))


@attrs.frozen
class Halve:
    """Returns a factor of a dtype of its own."""

    dtype: torch.dtype

    @hookimpl
    def build_branches(self, step):
        return [Needs(space="x0")]

    @hookimpl
    def postprocess(self, step, guided, reference):
        return Multiply(torch.full((1,) * guided.ndim, 0.5, dtype=self.dtype))


@pytest.mark.parametrize("factor", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("prediction_type", ["x0", "flow"])
def test_neither_a_factor_nor_the_sample_changes_the_dtype(dtype, factor, prediction_type, monkeypatch):
    x, predictions = predict(2, 2, 600, 128, dtype=dtype)
    given = {"prediction_type": prediction_type}
    blocked = one_step([CFG(3.0), Halve(factor)], x.double(), predictions, **given)
    assert blocked.dtype == dtype
    monkeypatch.setattr("guidance_core.algebra.arithmetic.BLOCK", 10**9)
    assert torch.equal(one_step([CFG(3.0), Halve(factor)], x.double(), predictions, **given), blocked)


@pytest.mark.parametrize("spread", [0.0, 1e-30, 1.0, 1e30])
def test_a_ratio_is_the_same_for_one_row_and_for_many(spread):
    numerator, denominator = torch.tensor([2.0, 3.0, 0.0]).view(3, 1, 1), torch.tensor([spread, 0.0, 0.0]).view(3, 1, 1)
    for share in (0.3, 1.0, torch.tensor(0.3)):
        together = ratio(numerator, denominator, share)
        alone = [ratio(numerator[i : i + 1], denominator[i : i + 1], share) for i in range(3)]
        assert torch.equal(torch.cat(alone), together)
        assert torch.isfinite(together).all()


@pytest.mark.parametrize("kind", ["tensor", "tuple", "dict"])
def test_structure_in_is_structure_out(kind):
    x, predictions = predict(2, 2, 6, 4)
    wrap = {
        "tensor": lambda p: p,
        "tuple": lambda p: (p, 2 * p),
        "dict": lambda p: {"video": p, "audio": 2 * p},
    }[kind]
    named = {"outputs": ("video", "audio")} if kind == "tuple" else {}
    result = one_step([CFG(3.0)], wrap(x), {name: wrap(p) for name, p in predictions.items()}, **named)
    assert type(result) is type(wrap(x))
    first = result if kind == "tensor" else result[0] if kind == "tuple" else result["video"]
    assert torch.equal(first, one_step([CFG(3.0)], x, predictions))


class AddingExecutor(Executor):
    """Adds the branches up one by one, as ranks would, and hands back nothing but sums."""

    name = "adding"
    gathers_predictions = False

    def execute(self, plan, denoise):
        named = {branch.name: plan.named(denoise(branch), branch.name) for branch in plan.branches}
        sums, statistics, references = {}, {}, {}
        for output in plan.layout.outputs:
            parts = [plan.partial_sum(output, {name: each[output]}) for name, each in reversed(named.items())]
            sums[output] = sum(part for part in parts if part is not None)
            base = named["cond"][output]
            statistics[output] = {key: plan.statistic(output, base, key) for key in plan.wanted_statistics(output)}
            if plan.wants_reference(output):
                references[output] = base
        return Sums(sums, named["cond"], statistics, references)


def test_rescale_measures_only_the_outputs_that_it_rescales():
    c, u = draw(1, 2, 3, 4, count=2)
    d, v = draw(2, 2, 5, count=2)
    predictions = {"cond": {"a": c, "b": d}, "uncond": {"a": u, "b": v}}
    stack = [CFG(3.0), Rescale({"a": 1.0, "b": 0.0}, over=[2])]
    run = Guidance(stack).start(conditions=BOTH, sigmas=[1.0, 0.0], prediction_type="x0")
    zeros = {"a": torch.zeros_like(c), "b": torch.zeros_like(d)}
    result = run.step(0, zeros, lambda branch: predictions[branch.name])
    torch.testing.assert_close(result["a"].std(2), c.std(2))
    torch.testing.assert_close(result["b"], v + 3 * (d - v))


@pytest.mark.parametrize("stack", ["cfg, rescale in x0", "cfg, normalize clamp", "stg, cfg, rescale", "ltx2"])
def test_an_executor_may_hand_back_sums(stack):
    x, predictions = predict(2, 3, 6, 4)
    expected = one_step(STACKS[stack], x, predictions)
    result = one_step(STACKS[stack], x, predictions, executor=AddingExecutor())
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_gradients_flow_through_the_result():
    x, predictions = predict(2, 2, 6, 4)
    predictions["cond"].requires_grad_()
    one_step([CFG(3.0), Rescale(0.5)], x, predictions).square().sum().backward()
    assert predictions["cond"].grad is not None


def test_a_step_of_pretended_tensors_leaves_nothing_to_real_ones():
    plugins = [CFG(3.2171), Rescale(0.4173)]  # numbers that no other test has made a tensor of
    given = {"prediction_type": "epsilon", "alphas": [0.8, 1.0]}
    for _ in range(2):  # and real ones nothing to pretended ones
        with FakeTensorMode():
            x, predictions = torch.empty(2, 6, 4), {name: torch.empty(2, 6, 4) for name in NAMES}
            assert one_step(plugins, x, predictions, **given).shape == x.shape
        x, predictions = predict(3, 2, 6, 4)
        again = one_step(plugins, x, predictions, **given)
        assert type(again) is torch.Tensor
        assert torch.isfinite(again).all()


@pytest.mark.parametrize("scale", [1, 1.0, 1.0000000000000002, torch.ones(2)])
def test_a_neutral_scale_runs_one_pass_and_returns_the_base_prediction(scale):
    x, predictions = predict(1, 2, 5, 4)
    run = Guidance([CFG(scale)]).start(conditions={"positive": {}}, sigmas=[1.0, 0.0], prediction_type="flow")
    plan = run.plan(0, x)
    assert [branch.name for branch in plan.branches] == ["cond"]
    assert torch.equal(run.finish(plan, {"cond": predictions["cond"]}), predictions["cond"])


def test_strengths_of_one_branch_add_up():
    x, c, u = draw(3, 2, 5, 4, count=3)
    together = one_step([Away("u", 1.5), Away("u", 0.5)], x, {"cond": c, "u": u})
    assert torch.equal(together, one_step([Away("u", 2.0)], x, {"cond": c, "u": u}))


def test_a_correction_in_another_space_is_the_written_out_formula():
    sigma, phi, scale = 0.6, 0.7, 4.0
    x, c, u = draw(3, 2, 5, 4, count=3, dtype=torch.float64)
    result = one_step([CFG(scale), Rescale(phi, space="x0")], x, {"cond": c, "uncond": u}, sigma=sigma)
    x0_c, x0_u = x - sigma * c, x - sigma * u
    guided = x0_c + (scale - 1) * (x0_c - x0_u)
    spreads = [each.std(dim=(1, 2), keepdim=True, correction=0) for each in (x0_c, guided)]
    guided = guided * (phi * spreads[0] / spreads[1] + 1 - phi)
    torch.testing.assert_close(result, (x - guided) / sigma)


def test_a_delta_in_another_space_is_the_written_out_formula():
    sigma, scale = 0.6, 4.0
    x, c, u = draw(3, 2, 5, 4, count=3, dtype=torch.float64)
    result = one_step([APG(scale, eta=0.25)], x, {"cond": c, "uncond": u}, sigma=sigma)
    x0_c, x0_u = x - sigma * c, x - sigma * u
    d = x0_c - x0_u
    dims = {"dim": (1, 2), "keepdim": True}
    parallel = (d * x0_c).sum(**dims) / (x0_c * x0_c).sum(**dims) * x0_c
    guided = x0_c + (scale - 1) * (d - parallel + 0.25 * parallel)
    torch.testing.assert_close(result, (x - guided) / sigma)


@pytest.mark.parametrize("correction", [Rescale(0.7, space="x0"), None])
def test_a_sample_of_more_digits_is_rounded_alike_for_small_and_large_predictions(correction):
    plugins = [CFG(3.0), correction] if correction else [APG(4.0)]
    x = draw(0, 2, 100_000, dtype=torch.float64, count=1)[0]
    c, u = draw(1, 2, 100_000, count=2)

    def guided(rows):
        predictions = {"cond": c[rows], "uncond": u[rows]}
        return one_step(plugins, x[rows], predictions, sigma=0.6)

    assert torch.equal(guided(slice(0, 2))[:1], guided(slice(0, 1)))


def moved_away(strengths, shape, seed, near, dtype=torch.float32):
    """Return what a stack of one method a branch makes of predictions near `cond`, and the same in float64."""
    x, predictions = predict(seed, *shape, dtype=torch.float64)
    predictions = {
        name: (predictions["cond"] * (1 + near * p.clamp(-1, 1))).to(dtype) for name, p in predictions.items()
    }
    away = dict(zip(NAMES[1:], strengths, strict=False))
    made = one_step([Away(branch, strength) for branch, strength in away.items()], x.to(dtype), predictions)
    c = predictions["cond"].double()
    exact = c.clone()
    for branch, strength in away.items():
        factor = strength.double().view(-1, *(1,) * (c.ndim - 1)) if isinstance(strength, torch.Tensor) else strength
        exact += factor * (c - predictions[branch].double())
    return made, exact, predictions["cond"]


tensor_strengths = st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=2).map(torch.tensor)
any_strengths = st.lists(strengths.map(float) | st.floats(-1, 1) | tensor_strengths, min_size=1, max_size=4)
layouts = st.sampled_from([(2, 3), (2, 16, 8), (2, 90_000)])  # the last is blocked


@settings(deadline=None, max_examples=60)
@given(any_strengths, layouts, seeds, st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
def test_equal_predictions_are_returned_as_they_are(strengths, shape, seed, dtype):
    made, _, cond = moved_away(strengths, shape, seed, near=0.0, dtype=dtype)
    assert torch.equal(made, cond)


by_sample = st.lists(strengths, min_size=4, max_size=4).map(torch.tensor)


@settings(deadline=None, max_examples=60)
@given(st.lists(strengths | by_sample, min_size=1, max_size=4), seeds, st.sampled_from([0.01, 1.0, 10.0]))
@example([5.0, -6.0], 0, 1.0)
@example([2.0, 1.0, -4.0], 0, 10.0)
@example([30.0, -30.0], 1, 1.0)
@example([-1.0], 0, 10.0)
@example([torch.tensor([-1.04, 3.0, -0.97, 0.0])], 0, 10.0)
@example([2.0, torch.tensor([-3.01, 0.5, -2.9, 7.0]), 0.25], 0, 10.0)
@example([torch.tensor([19.7, 19.3, 3.3, 0.7]), torch.tensor([-20.68, -20.31, -4.29, -1.71])], 0, 1000.0)
def test_strengths_of_both_signs_lose_no_more_than_the_terms_do(given_strengths, seed, magnitude):
    """Where the weight of `cond` nearly vanishes, the sum is formed from another branch, in each sample by itself."""
    x, predictions = predict(seed, 4, 64, 64)
    predictions["cond"] = predictions["cond"] * magnitude
    away = dict(zip(NAMES[1:], given_strengths, strict=False))
    made = one_step([Away(branch, strength) for branch, strength in away.items()], x, predictions)
    away = {
        branch: strength.double().view(-1, 1, 1) if isinstance(strength, torch.Tensor) else strength
        for branch, strength in away.items()
    }
    weights = {"cond": 1 + sum(away.values()), **{branch: -strength for branch, strength in away.items()}}
    terms = [weight * predictions[branch].double() for branch, weight in weights.items()]
    # Half a unit for each of two roundings of a term: its difference, and its product.
    allowed = 2 * len(terms) * EPS32 * sum(term.abs() for term in terms) + EPS32 * made.double().abs()
    assert ((made.double() - sum(terms)).abs() <= allowed + 1e-30).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("count", [6, 200_000])
@pytest.mark.parametrize("strengths", [(-0.5,), (-1.0,), (-0.3, -0.3), (-0.25, -0.25, -0.25)])
def test_a_mean_of_the_largest_numbers_is_finite(strengths, count, dtype):
    most = torch.full((1, count), torch.finfo(dtype).max, dtype=dtype)
    predictions = {name: most * (-1) ** number for number, name in enumerate(NAMES)}
    stack = [Away(branch, strength) for branch, strength in zip(NAMES[1:], strengths, strict=False)]
    assert torch.isfinite(one_step(stack, torch.zeros_like(most), predictions)).all()


@settings(deadline=None, max_examples=60)
@given(any_strengths, layouts, seeds, st.sampled_from([1e-7, 1e-5, 1e-4]))
def test_where_predictions_are_close_nothing_is_lost(strengths, shape, seed, near):
    """A weighted sum, `31·c − 30·u`, would be off by up to 12 units in the last place."""
    made, exact, _ = moved_away(strengths, shape, seed, near)
    unit = 2.0 ** (torch.floor(torch.log2(exact.abs())) - 23)
    assert ((made.double() - exact).abs() / unit).max() < 1.0
