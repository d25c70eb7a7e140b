"""Branches stacked into one forward of a plain model: what the model is given, and what comes back."""

from __future__ import annotations

import pytest
import torch

from guidance_core import DenoiserError, Guidance, StackedDenoiser
from guidance_plugins import CFG

LONG, SHORT = torch.ones(2, 4, 3), torch.full((2, 2, 3), 2.0)


def step(positive, negative, **given):
    """Make a step in one forward; return the inputs of the model and the guided prediction."""
    seen = []

    def model(**inputs):
        seen.append(inputs)
        return inputs["x"] + inputs["text"].sum((1, 2)).view(-1, 1)

    run = Guidance([CFG(3.0)]).start(
        conditions={"positive": positive, "negative": negative},
        sigmas=[1.0, 0.0],
        prediction_type="flow",
        executor="batched",
    )
    x = torch.zeros(2, 5)
    result = run.step(0, x, StackedDenoiser(model, {"x": x}, **given))
    (inputs,) = seen
    return inputs, result


def test_texts_of_different_lengths_are_padded_and_masked():
    inputs, result = step({"text": LONG}, {"text": SHORT}, pad={"text": "mask"})
    assert torch.equal(inputs["text"][:2], LONG)
    assert torch.equal(inputs["text"][2:, :2], SHORT)
    assert torch.equal(inputs["text"][2:, 2:], torch.zeros(2, 2, 3))
    assert inputs["mask"].tolist() == [[True] * 4] * 2 + [[True, True, False, False]] * 2
    assert torch.equal(result, torch.full((2, 5), 12.0 + 2.0 * (12.0 - 12.0)))


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_a_mask_of_ones_own_is_kept_and_padded(dtype):
    own = torch.tensor([[1, 0], [1, 1]]).to(dtype)
    whole = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]]).to(dtype)
    positive, negative = {"text": LONG, "mask": whole}, {"text": SHORT, "mask": own}
    inputs, _ = step(positive, negative, pad={"text": "mask"})
    assert inputs["mask"].dtype == dtype
    assert inputs["mask"].tolist() == torch.cat([whole, torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0]]).to(dtype)]).tolist()


def test_a_mask_that_only_one_branch_brings_is_made_for_the_other():
    own = torch.tensor([[True, False], [True, True]])
    inputs, _ = step({"text": LONG}, {"text": SHORT, "mask": own}, pad={"text": "mask"})
    assert inputs["mask"].tolist() == [[True] * 4] * 2 + [[True, False, False, False], [True, True, False, False]]


def test_inputs_that_differ_in_name_cannot_be_stacked():
    with pytest.raises(DenoiserError, match="'cond' and 'uncond' cannot be stacked"):
        step({"text": LONG}, {"text": LONG, "more": LONG})
