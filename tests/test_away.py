"""A delta of predictions alone, `Away`, and statistics of predictions that are never held in float32."""

from __future__ import annotations

import attrs
import pytest
import torch

from guidance_core import (
    Away,
    Branch,
    Distance,
    Guidance,
    GuidanceError,
    Inner,
    Needs,
    Norm,
    PluginError,
    Quantile,
    Std,
    hookimpl,
)
from guidance_core.algebra.arithmetic import evaluate

CONDITIONS = {"positive": {}, "negative": {}}
SIZES = [(3, 4, 9), (2, 3, 50_000)]  # the second is worked on block by block


@attrs.frozen
class Moves:
    """Returns what it is told to, an `Away` or the same written out."""

    make: object
    space: str | None = None
    is_written_out: bool = False

    @hookimpl
    def build_branches(self, step):
        return [Branch("uncond", condition="negative", required=True), Needs(space=self.space)]

    @hookimpl
    def combine(self, step, predictions):
        away = self.make(predictions)
        if not self.is_written_out:
            return away
        c = predictions["cond"]
        return sum(((c - predictions[name]) * s for name, s in away.strengths.items()), c * away.base)


@attrs.frozen
class Wraps:
    """Changes nothing, around all deltas."""

    @hookimpl(wrapper=True)
    def combine(self, step, predictions):
        return (yield)


def drawn(shape, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(3)]


def guided(plugins, x, c, u, **settings):
    run = Guidance(plugins).start(conditions=CONDITIONS, sigmas=[0.6, 0.0], prediction_type="flow", **settings)
    return run.step(0, x, lambda branch: {"cond": c, "uncond": u}[branch.name].clone())


def by_sample(predictions):
    ratio = predictions.measure(Norm(), "uncond") / predictions.measure(Distance(), "cond", "uncond")
    return Away({"uncond": 0.5 * ratio}, base=ratio - 0.25)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("space", [None, "x0"])
@pytest.mark.parametrize("beside", [[], [Wraps()]])
def test_away_is_what_it_stands_for(shape, dtype, space, beside):
    x, c, u = drawn(shape, dtype)
    got = guided([Moves(by_sample, space), *beside], x, c, u)
    expected = guided([Moves(by_sample, space, is_written_out=True)], x, c, u)
    units = 8 if dtype in (torch.float32, torch.float64) else 1.01
    assert got.dtype is dtype
    assert ((got - expected).abs() <= units * torch.finfo(dtype).eps * expected.abs().clamp(min=1)).all()


@pytest.mark.parametrize("strength", [2.5, -0.75, 0.3, -3.0, torch.tensor([0.2, -4.0]).view(2, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_strength_for_each_sample_is_rounded_once_and_alike_for_small_and_large_predictions(strength, dtype):
    _, c, u = drawn((2, 3, 50_000), dtype)
    whole = evaluate([(c, 1.0)], away=[(u, strength)], dtype=dtype)
    exact = c.double() + strength * (c.double() - u.double())
    spacing = torch.finfo(dtype).eps * 2.0 ** exact.abs().clamp(min=1e-3).log2().floor()
    allowed = 0.51 if dtype is not torch.float32 else 12.0
    assert ((whole.double() - exact).abs() <= allowed * spacing + 1e-6 * exact.abs().max()).all()
    for number in range(2):
        rows = slice(number, number + 1)
        own = strength[rows] if isinstance(strength, torch.Tensor) else strength
        alone = evaluate([(c[rows, :, :40_000], 1.0)], away=[(u[rows, :, :40_000], own)], dtype=dtype)
        assert torch.equal(whole[rows, :, :40_000], alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, 50_000), (1, 131_072 + 16_384), (3, 100_001)])
@pytest.mark.parametrize("statistic", [Norm(), Std(), Inner(), Distance(), Norm("token"), Quantile(q=0.5)])
@pytest.mark.parametrize("space", [None, "x0"])
def test_a_statistic_that_is_read_in_blocks_has_the_bits_of_that_of_the_whole(dtype, shape, statistic, space):
    x, c, u = drawn(shape, dtype)
    names = ("cond", "uncond")[: statistic.takes]
    found = []

    def look(predictions):
        found.append((predictions.measure(statistic, *names), statistic(*(predictions[name] for name in names))))
        return Away({})

    guided([Moves(look, space)], x, c, u)
    assert torch.equal(*found[0])


@attrs.frozen
class DoubleNorm(Norm):
    """A statistic of a third party, made from one of ours."""

    def of_long_row(self, read, n):
        return 2 * super().of_long_row(read, n)

    def _of(self, *rows):
        return 2 * super()._of(*rows)


SEVERAL = (
    (Inner(), "cond", "uncond"),
    (Inner(), "uncond", "uncond"),
    (Distance(), "uncond", "cond"),
    (Norm(), "cond"),
    (Quantile(q=0.5), "cond"),
    (Std(), "uncond"),
    (DoubleNorm(), "uncond"),
    (Norm("token"), "uncond"),
    (Distance(), "cond", "uncond"),
    (Inner(), "uncond", "cond"),
)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [*SIZES, (2, 3, 50_000), (1, 131_072 + 16_384), (3, 100_001)])
@pytest.mark.parametrize("space", [None, "x0"])
def test_statistics_that_are_read_together_have_the_bits_of_each_alone(dtype, shape, space):
    x, c, u = drawn(shape, dtype)
    given = [each.clone() for each in (x, c, u)]
    found = []

    def look(predictions):
        several = predictions.measure_all(*SEVERAL)
        alone = [predictions.measure(*each) for each in SEVERAL]
        whole = [statistic(*(predictions[name] for name in names)) for statistic, *names in SEVERAL]
        found.extend(zip(several, alone, whole, strict=True))
        return Away({})

    guided([Moves(look, space)], x, c, u)
    assert len(found) == len(SEVERAL)
    for together, alone, whole in found:
        assert torch.equal(together, alone)
        assert torch.equal(together, whole)
    assert all(map(torch.equal, given, (x, c, u)))  # what is read is not written to


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((Norm(), "perturbed"), "looked for the prediction 'perturbed'"),
        ((Norm(), "cond", "uncond"), "Norm is computed from 1 tensor; got 2"),
        ((Norm(),), "Norm is computed from 1 tensor; got 0"),
        ((Inner(), "cond"), "Inner is computed from 2 tensors; got 1"),
    ],
)
@pytest.mark.parametrize("shape", [(2, 4, 8), (2, 3, 50_000)])
def test_one_statistic_that_does_not_fit_is_named_among_several(asked, message, shape):
    made = Moves(lambda predictions: predictions.measure_all(asked, (Norm(), "cond")) and Away({}))
    with pytest.raises(GuidanceError, match=message):
        guided([made], *drawn(shape, torch.bfloat16))


def test_no_statistic_is_an_empty_list():
    found = []
    made = Moves(lambda predictions: found.append(predictions.measure_all()) or Away({}))
    guided([made], *drawn((2, 3, 50_000), torch.bfloat16))
    assert found == [[]]


def test_away_beside_strengths_adds_up():
    from guidance_plugins import STG

    x, c, u = drawn((2, 3, 50_000), torch.bfloat16)
    run = Guidance([STG(1.5), Moves(lambda _: Away({"uncond": 2.0}))]).start(
        conditions=CONDITIONS, sigmas=[0.6, 0.0], prediction_type="flow"
    )
    made = run.step(0, x, lambda branch: {"cond": c, "uncond": u, "perturbed": x}[branch.name].clone())
    exact = c.double() + 2.0 * (c.double() - u.double()) + 1.5 * (c.double() - x.double())
    assert ((made.double() - exact).abs() <= 0.51 * 2**-7 * exact.abs().clamp(min=1e-2)).all()


@pytest.mark.parametrize(
    "form",
    [
        Away({"other": 1.0}),
        Away({"cond": 1.0}),
        Away({"uncond": "1"}),
        Away({"uncond": torch.ones(7)}),
        Away({}, base=None),
    ],
)
def test_an_away_that_does_not_fit_is_an_error_that_names_the_plugin(form):
    x, c, u = drawn((3, 4, 9), torch.float32)
    with pytest.raises(PluginError, match=r"plugin 'moves' must return .*Away"):
        guided([Moves(lambda _: form)], x, c, u)


def test_a_statistic_of_a_branch_that_is_not_seen_is_an_error():
    x, c, u = drawn((3, 4, 9), torch.float32)
    with pytest.raises(PluginError, match="looked for the prediction 'other'"):
        guided([Moves(lambda p: Away({"uncond": p.measure(Norm(), "other")}))], x, c, u)


@pytest.mark.parametrize("count", [9, 50_000])
def test_away_carries_gradients(count):
    x, c, u = drawn((2, 3, count), torch.float32)
    c.requires_grad_()
    guided([Moves(by_sample)], x, c, u).sum().backward()
    assert torch.isfinite(c.grad).all()
    assert c.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", SIZES)
def test_numbers_and_tensors_may_stand_in_any_order(shape):
    x, c, u = drawn(shape, torch.bfloat16)
    by_row = torch.arange(shape[0]).view(-1, 1, 1) - 1.5
    exact = c.double() + 2.5 * (c.double() - u.double()) + by_row * (c.double() - x.double())
    for away in ([(u, 2.5), (x, by_row)], [(x, by_row), (u, 2.5)]):
        made = evaluate([(c, 1.0)], away=away, dtype=torch.bfloat16)
        assert ((made.double() - exact).abs() <= 0.51 * 2**-7 * exact.abs().clamp(min=1e-2)).all()
