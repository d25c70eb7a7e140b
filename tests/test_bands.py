"""Methods that look at frequencies: any layout of a prediction, and clear words where it has none."""

from __future__ import annotations

import attrs
import pytest
import torch
from test_algebra import draw

from guidance_core import ConfigurationError, Guidance, bands, collapsed, from_planes, planes, reweighted
from guidance_plugins import FDG, CFGZeroStar, FreSca, Rescale

BOTH = {"positive": {}, "negative": {}}
OF_BANDS = [FDG([4.0, 2.0], [0.5]), FDG([4.0, 1.0, 3.0]), FreSca(5.0, cutoff=2), FreSca(5.0, cutoff=None)]
named = pytest.mark.parametrize("plugin", OF_BANDS, ids=repr)


def made(plugins, c, u, prediction_type="x0"):
    run = Guidance(plugins).start(conditions=BOTH, sigmas=[0.7, 0.0], prediction_type=prediction_type)
    return run.step(0, torch.zeros_like(c), lambda branch: {"cond": c, "uncond": u}[branch.name].clone())


def with_grid(plugin, grid):
    return attrs.evolve(plugin, grid=grid)


@named
def test_tokens_with_a_grid_are_guided_as_the_picture_that_they_show(plugin):
    c, u = draw(1, 2, 3, 8, 16, count=2)
    as_tokens = [x.flatten(2).mT.contiguous() for x in (c, u)]
    got = made([with_grid(plugin, [8, 16])], *as_tokens)
    torch.testing.assert_close(got.mT.reshape(c.shape), made([plugin], c, u), rtol=1e-5, atol=1e-5)


@named
def test_tokens_of_frames_are_guided_as_the_film_that_they_show(plugin):
    c, u = draw(2, 2, 3, 5, 8, 16, count=2)
    as_tokens = [x.flatten(2).mT.contiguous() for x in (c, u)]
    got = made([with_grid(plugin, [8, 16])], *as_tokens)
    torch.testing.assert_close(got.mT.reshape(c.shape), made([plugin], c, u), rtol=1e-5, atol=1e-5)


@named
@pytest.mark.parametrize("shape", [(2, 12), (2, 64, 3)])
def test_a_prediction_without_rows_and_columns_is_refused(plugin, shape):
    with pytest.raises(ConfigurationError, match=r"plugin '(fdg|fresca)': .*shape .*such as grid=\[64, 96\]"):
        made([plugin], *draw(1, *shape, count=2))


@named
def test_a_grid_that_does_not_fit_is_refused(plugin):
    with pytest.raises(ConfigurationError, match=r"grid=\[8, 7\] does not fit .*\[2, 64, 3\]: .* 8 \* 7 = 56"):
        made([with_grid(plugin, [8, 7])], *draw(1, 2, 64, 3, count=2))


@pytest.mark.parametrize("grid", [[8], [8, 0], [8, 7.5], "8x7", [True, 4], 8, [8, 8, 8], [2**40, 1]])
def test_a_grid_of_something_else_is_refused(grid):
    with pytest.raises(ConfigurationError, match="grid must be the rows and columns"):
        FDG(grid=grid)


@pytest.mark.parametrize("grid", ["[4, 6]", "none"])
def test_a_grid_survives_a_spec(grid):
    guidance = Guidance.from_spec(f"fdg:grid={grid}")
    assert Guidance.from_spec(guidance.to_spec()) == guidance


@pytest.mark.parametrize(
    ("sides", "room"), [((8, 8), 3), ((16, 8), 3), ((5, 7), 3), ((3, 4), 2), ((2, 64), 1), ((1, 1), 1)]
)
def test_more_bands_than_there_is_room_for_are_refused(sides, room):
    c, u = draw(1, 1, 2, *sides, count=2)
    made([FDG([2.0, *[3.0] * (room - 1)])], c, u)
    for weights in ([1.0], [0.5]):
        with pytest.raises(ConfigurationError, match=rf"no room for {room + 1} bands.* but for {room}\."):
            made([FDG([2.0, *[3.0] * room], weights)], c, u)
    with pytest.raises(ConfigurationError, match="no room for 100000 bands"):
        made([FDG([2.0, *[3.0] * 99_999])], c, u)


def test_as_many_weights_as_bands():
    with pytest.raises(ConfigurationError, match="parallel has 3 weights, and there are 2 scales"):
        FDG([2.0, 3.0], [1.0, 0.5, 0.0])


@pytest.mark.parametrize("sides", [(8, 8), (5, 7), (24, 40), (6, 4)])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_bands_add_up_to_the_planes(sides, count):
    if count == 3 and min(sides) < 5:
        count = 2
    (x,) = draw(4, 2, 3, *sides, count=1)
    torch.testing.assert_close(collapsed(bands(x, count), *sides), x)
    weights = [2.0, -1.0, 0.5][:count]
    moved = [weight * band for weight, band in zip(weights, bands(x, count), strict=True)]
    torch.testing.assert_close(reweighted(x, weights), collapsed(moved, *sides), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "grid"), [((2, 3, 4, 6), None), ((2, 3, 5, 4, 6), None), ((2, 24, 3), (4, 6)), ((2, 48, 3), (4, 6))]
)
def test_planes_and_back(shape, grid):
    (x,) = draw(5, *shape, count=1)
    made_of_it = planes(x, grid)
    assert made_of_it.shape[-2:] == (4, 6)
    assert made_of_it.data_ptr() == x.data_ptr()
    assert torch.equal(from_planes(made_of_it, x, grid), x)


def test_a_long_wave_is_in_the_last_band_and_a_chequerboard_in_the_first():
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    chequers = (1 - 2 * ((rows + columns) % 2))[None, None]
    first, second = bands(chequers, 2)
    assert second.abs().max() < 0.2
    torch.testing.assert_close(first[..., 4:12, 4:12], chequers[..., 4:12, 4:12])
    even = torch.full((1, 1, 16, 16), 3.0)
    first, second = bands(even, 2)
    torch.testing.assert_close(first, torch.zeros_like(first))
    torch.testing.assert_close(second, even[..., ::2, ::2])


def test_the_low_frequencies_of_fresca_hold_the_mean_and_not_a_chequerboard():
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    chequers = (1 - 2 * ((rows + columns) % 2))[None, None]
    u = torch.zeros_like(chequers)
    result = made([FreSca(2.0, low=3.0, high=0.5, cutoff=4)], chequers + 1, u)
    torch.testing.assert_close(result, 2 * (3.0 * torch.ones_like(u) + 0.5 * chequers))


def test_the_cutoff_of_a_sample_does_not_depend_on_its_batch_mates():
    c, u = draw(6, 3, 2, 24, 24, count=2)
    c[1] = c[1].cumsum(-1).cumsum(-2)
    plugin = FreSca(5.0, cutoff=None, energy=0.23)
    torch.testing.assert_close(made([plugin], c, u)[:1], made([plugin], c[:1], u[:1]))


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (1, 3, 9, 7)])
def test_fdg_with_one_scale_for_all_bands_is_cfg(shape):
    c, u = draw(7, *shape, count=2)
    torch.testing.assert_close(made([FDG([3.0, 3.0])], c, u), c + 2 * (c - u))


def test_zero_projection_with_one_scale_is_cfg_zero_star():
    c, u = draw(8, 2, 4, 8, 8, count=2)
    mine = made([FDG([3.0, 3.0], zero_star=True)], c, u)
    torch.testing.assert_close(mine, made([CFGZeroStar(3.0, zero_steps=0)], c, u))


def test_zeresfdg_is_a_stack():
    """Bands of c − αu with a weight each, added to αu, then rescaled: y = αu + s·(λ₀·high + λ₁·low)."""
    c, u = draw(9, 2, 4, 16, 16, count=2)
    scale, high, low, phi = 5.0, 1.3, 0.6, 0.7
    stack = Guidance.from_spec(
        f"fdg:scales=[{scale * high}, {scale * low}],zero_star=true,space=none,rescale:phi={phi}"
    )
    result = made(stack.plugins, c, u)

    exact_c, exact_u = c.double(), u.double()
    alpha = (exact_c * exact_u).sum((1, 2, 3), keepdim=True) / exact_u.square().sum((1, 2, 3), keepdim=True)
    details, rest = bands(exact_c - alpha * exact_u, 2)
    guided = alpha * exact_u + scale * collapsed([high * details, low * rest], 16, 16)
    std_c, std_g = (x.std((1, 2, 3), keepdim=True) for x in (exact_c, guided))
    right = phi * guided * std_c / std_g + (1 - phi) * guided
    torch.testing.assert_close(result.double(), right, rtol=1e-5, atol=1e-5)
    assert isinstance(stack.plugins[1], Rescale)
