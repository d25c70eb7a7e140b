"""Scores and their intervals, against answers in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from guidance_core.models.intervals import Score, bootstrapped, difference, mean, share
from guidance_core.models.scores import diversity, frechet_distance, saturation, sharpness


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hits(found: int, count: int) -> torch.Tensor:
    return torch.arange(count) < found


# Intervals.


@pytest.mark.parametrize(
    ("found", "count", "low", "high"),
    # Newcombe, Two-sided confidence intervals for the single proportion, Statistics in Medicine 17 (1998), table I.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_shares_have_wilsons_interval(found, count, low, high):
    score = share(hits(found, count))
    assert score.value == found / count
    assert (score.low, score.high) == pytest.approx((low, high), abs=5e-5)


def test_wilsons_interval_solves_its_equation_and_mirrors():
    for found, count in ((3, 10), (9, 10), (1, 400)):
        score, other = share(hits(found, count)), share(hits(count - found, count))
        for end in (score.low, score.high):
            assert (score.value - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / count, rel=1e-4)
        assert (1 - other.high, 1 - other.low) == pytest.approx((score.low, score.high))
    assert share(hits(7, 7)).high == 1.0
    assert share(hits(0, 7)).low == 0.0


def test_the_mean_has_the_width_of_its_standard_error():
    values = 2 + 3 * drawn(400)
    score = mean(values)
    assert score.value == pytest.approx(values.mean().item())
    assert score.low < score.value < score.high
    assert score.high - score.low == pytest.approx(2 * 1.96 * values.std().item() / 20, rel=0.1)
    assert mean(torch.ones(5)) == Score(1.0, 1.0, 1.0)
    assert mean(values) == score, "the draws are seeded"


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says():
    held = 0
    for seed in range(200):
        score = mean(drawn(60, seed=seed).exp())
        held += score.low <= math.exp(0.5) <= score.high
    assert 170 <= held <= 198


def test_the_interval_of_a_biased_statistic_lies_around_it():
    """Drawn samples repeat themselves, which biases a distance once more: the plain percentiles miss it here."""
    features = drawn(24, 8)
    score = frechet_distance(features, torch.zeros(8), torch.eye(8))
    assert score.low < score.value < score.high


def pairs(both, ours, theirs, neither):
    """Return the hits of two rows by how many pairs are hits of both, of the one, of the other, and of neither."""
    kinds = torch.tensor([3] * both + [2] * ours + [1] * theirs + [0] * neither)
    return kinds >= 2, kinds % 2 == 1


def test_equal_rows_differ_by_nothing_within_what_the_number_of_pairs_allows():
    for count in (8, 80, 800):
        one, other = pairs(count // 2, 0, 0, count // 2)
        found = difference(share(one), share(other))
        assert found.value == 0
        assert -found.low == pytest.approx(found.high)
        assert 0.1 / count < found.high < 4 / math.sqrt(count)


def test_a_paired_share_mirrors_and_is_narrower_where_hits_go_together():
    one, other = pairs(50, 12, 2, 36)
    found, back = difference(share(one), share(other)), difference(share(other), share(one))
    assert (found.value, found.low, found.high) == pytest.approx((-back.value, -back.high, -back.low))
    assert found.value == pytest.approx(0.1)
    shuffled = other[torch.randperm(100, generator=torch.Generator().manual_seed(1))]
    apart = difference(share(one), share(shuffled))
    assert found.high - found.low < 0.75 * (apart.high - apart.low)


@pytest.mark.parametrize(("chance", "same"), [(0.9, 0.8), (0.5, 0.5), (0.95, 0.0)])
def test_the_interval_of_a_paired_share_holds_the_truth_about_as_often_as_it_says(chance, same):
    """One row hits with `chance`; the other is the same pair with the chance `same`, and else hits half the time."""
    generator, held = torch.Generator().manual_seed(3), 0
    truth = chance - (same * chance + (1 - same) * 0.5)
    for _ in range(400):
        one = torch.rand(32, generator=generator) < chance
        other = torch.where(torch.rand(32, generator=generator) < same, one, torch.rand(32, generator=generator) < 0.5)
        found = difference(share(one), share(other))
        assert -1 <= found.low <= found.value <= found.high <= 1
        held += found.low <= truth <= found.high
    assert held >= 370


def test_what_two_rows_share_cancels_in_the_difference_of_their_means():
    shared, apart = drawn(200), 0.01 * drawn(200, seed=1)
    found = difference(mean(shared + apart + 0.1), mean(shared))
    assert found.value == pytest.approx(0.1 + apart.mean().item())
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.01
    assert found.written(signed=True) == f"+{found.value:.3g} [{found.low:.3g}, {found.high:.3g}]"


def test_rows_of_other_numbers_of_samples_have_a_difference_without_an_interval():
    for one, other in ((share(hits(3, 4)), share(hits(2, 5))), (share(hits(3, 4)), mean(drawn(4)))):
        found = difference(one, other)
        assert found.value == one.value - other.value
        assert not found.has_interval


def test_few_samples_have_unknown_scores():
    none, one = torch.zeros(0, 3), torch.zeros(1, 3)
    for unknown in (share(none[:, 0] > 0), mean(none[:, 0]), frechet_distance(one, one[0], torch.eye(3))):
        assert not unknown.is_known
        assert unknown.written() == "–"
    single = mean(torch.tensor([2.0]))
    assert single.value == 2
    assert math.isnan(single.low)
    assert single.written() == "2"
    assert not diversity(drawn(3, 2), torch.arange(3)).is_known


def test_many_samples_are_drawn_in_parts_with_the_same_result(monkeypatch):
    from guidance_core.models import intervals

    values = drawn(30)
    whole = mean(values)
    monkeypatch.setattr(intervals, "AT_ONCE", 100)
    parts = mean(values)
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high))


def test_an_interval_does_not_pass_the_least_value():
    score = bootstrapped(lambda weights: (weights @ drawn(9)).abs(), 9, least=0.0)
    assert score.low >= 0


def test_scores_read_well():
    assert Score(0.9375, 0.799, 0.983).written(percent=True) == "93.8 % [79.9, 98.3]"
    assert Score(0.9375, 0.799, 0.983).written(percent=True, places=0) == "94 % [80, 98]"
    assert Score(12.345, 10.0, 13.5).written() == "12.3 [10, 13.5]"
    assert Score(1321.4, 900.0, 1742.0).written() == "1321 [900, 1742]"


# Scores.


def test_the_distance_of_normal_distributions_is_frechets():
    features = drawn(20_000, 3) * torch.tensor([1.0, 2.0, 0.5]) + torch.tensor([1.0, 0.0, 0.0])
    same = frechet_distance(features, features.mean(0), features.T.cov())
    assert abs(same.value) < 1e-6
    score = frechet_distance(features, torch.zeros(3), torch.eye(3))
    assert score.value == pytest.approx(1 + 0 + (2 - 1) ** 2 + (0.5 - 1) ** 2, rel=0.05)
    assert score.low < 2.25 < score.high


@pytest.mark.parametrize("count", [5, 40])
def test_the_distance_is_frechets_with_fewer_samples_than_features_too(count):
    features, rows = drawn(count, 8), drawn(30, 8, seed=1)
    covariance = rows.T.cov()
    product = covariance @ features.T.cov()
    between = torch.linalg.eigvals(product).real.clamp(min=0).sqrt().sum()
    apart = (features.mean(0) - 0.5).square().sum()
    expected = apart + features.T.cov().trace() + covariance.trace() - 2 * between
    score = frechet_distance(features, torch.full((8,), 0.5), covariance)
    assert score.value == pytest.approx(expected.item(), rel=1e-6)


def test_diversity_is_the_mean_distance_within_groups():
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [100.0, 0.0], [100.0, 1.0], [100.0, 2.0]])
    assert diversity(features, torch.tensor([0, 0, 1, 2, 3])).value == pytest.approx(5.0)
    assert diversity(features, torch.tensor([0, 0, 1, 1, 1])).value == pytest.approx((5 + 1 + 1 + 2) / 4)


def test_diversity_of_normal_samples_is_known():
    """Two samples of N(0, I) in the plane are √π apart on average."""
    score = diversity(drawn(1500, 2), torch.arange(1500) % 3)
    assert score.low < math.sqrt(math.pi) < score.high
    assert score.high - score.low < 0.15


def test_saturation_counts_values_outside_the_range():
    flat = torch.zeros(2, 1, 8, 8)
    flat[0, ..., 0] = 1.5
    flat[0, ..., 1] = -1.05
    assert saturation(flat).value == pytest.approx(1 / 16)


def test_sharpness_is_the_laplacians():
    assert sharpness(torch.full((1, 1, 8, 8), 0.3)).value == pytest.approx(0.0, abs=1e-6)
    step = torch.full((2, 1, 8, 8), -1.0)
    step[..., 4:] = 5.0  # clipped to 1: the Laplacian is 2 on one side of the edge and −2 on the other
    score = sharpness(step)
    assert (score.value, score.low, score.high) == pytest.approx(((2 * 4 / 6) ** 0.5,) * 3)
