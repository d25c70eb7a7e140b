"""Adaptive guidance stops passes by what they predict: the same on every rank, and for each sample its own."""

from __future__ import annotations

import pytest
import torch
from adaptive_jobs import equals_serial, play, predictions, refused

from guidance_core import GuidanceError
from guidance_plugins import CFG, STG, Adaptive, Gate

BOTH, ALONE = ["cond", "uncond"], ["cond"]


def guided(apart, scale=4.0):
    return [made["cond"] + (scale - 1) * (made["cond"] - made["uncond"]) for made in predictions(apart)]


def test_passes_stop_at_the_step_after_the_predictions_agree_and_the_guidance_goes_on():
    apart = [[1.0], [0.5], [0.01], [1.0], [1.0]]
    results, passes = play(apart, [CFG(4.0), Adaptive()])
    assert passes == [BOTH, BOTH, BOTH, ALONE, ALONE]
    right, made = guided(apart), predictions(apart)
    delta = right[2] - made[2]["cond"]
    for got, expected in zip(results, [*right[:3], *(each["cond"] + delta for each in made[3:])], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-5)


def test_the_papers_form_ends_guidance():
    apart = [[0.01], [1.0], [1.0], [1.0], [1.0]]
    results, passes = play(apart, [CFG(4.0), Adaptive(form="paper")])
    assert passes == [BOTH, *[ALONE] * 4]
    assert torch.equal(results[4], predictions(apart)[4]["cond"])


def test_a_sample_does_not_wait_for_its_batch_mates():
    apart = [[0.01, 1.0], [1.0, 1.0], [1.0, 0.01], [1.0, 1.0], [1.0, 1.0]]
    together, passes = play(apart, [CFG(4.0), Adaptive()])
    assert passes == [BOTH, BOTH, BOTH, ALONE, ALONE]
    for row in range(2):
        alone, _ = play(apart, [CFG(4.0), Adaptive()], slice(row, row + 1))
        for one, all_ in zip(alone, together, strict=True):
            assert torch.equal(one, all_[row : row + 1])


def test_another_model_of_the_host_begins_anew():
    apart = [[0.01], [1.0], [1.0], [1.0], [0.01]]
    _, passes = play(apart, [CFG(4.0), Adaptive()], models=["high", "high", "low", "low", "low"])
    assert passes == [BOTH, ALONE, BOTH, BOTH, BOTH]


def test_all_methods_before_it_are_in_what_is_reused():
    apart = [[0.01], [1.0], [1.0], [1.0], [1.0]]
    results, passes = play(apart, [CFG(4.0), STG(1.0, blocks=1), Adaptive()])
    assert passes == [["cond", "uncond", "perturbed"], *[ALONE] * 4]
    made = predictions(apart)
    delta = results[0] - made[0]["cond"]
    torch.testing.assert_close(results[3], made[3]["cond"] + delta, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_rank_stops_the_same_passes_and_all_gather_equals_serial(ranks, count):
    apart = [[0.01, 1.0], [1.0, 0.5], [1.0, 0.01], [1.0, 1.0], [1.0, 1.0]]
    for same, passes in ranks.run(equals_serial, apart, ranks=count):
        assert same
        assert passes == [["cond", "uncond", "perturbed"]] * 3 + [ALONE] * 2


def test_all_reduce_refuses_it_on_every_rank(ranks):
    for said in ranks.run(refused, ranks=2):
        assert "adaptive" in said
        assert "predictions" in said


def test_it_is_refused_beside_gate_and_with_a_schedule():
    with pytest.raises(GuidanceError, match="'adaptive' does not work together with 'gate'"):
        play([[1.0]], [CFG(4.0), Gate(), Adaptive()])
    with pytest.raises(GuidanceError, match="threshold must be one number"):
        Adaptive(torch.tensor([0.5, 0.9]))
