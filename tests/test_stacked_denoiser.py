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


@pytest.mark.parametrize("masks", [(None, None), (None, "own"), ("own", None)])
def test_no_mask_is_a_mask_that_is_true_everywhere(masks):
    positive, negative = (
        {"text": text, "mask": None if mask is None else torch.ones(text.shape[:2], dtype=torch.bool)}
        for text, mask in zip((LONG, SHORT), masks, strict=True)
    )
    inputs, _ = step(positive, negative, pad={"text": "mask"})
    assert inputs["mask"].tolist() == [[True] * 4] * 2 + [[True, True, False, False]] * 2


def test_one_row_stands_for_the_whole_batch():
    inputs, _ = step({"text": LONG}, {"text": SHORT[:1, [0, 1, 1, 1]]})
    assert torch.equal(inputs["text"], torch.cat([LONG, torch.full((2, 4, 3), 2.0)]))


def test_the_batch_is_that_of_the_sample():
    seen = []

    def model(**inputs):
        seen.append(inputs)
        return inputs["x"]

    run = Guidance([CFG(3.0)]).start(
        conditions={"positive": {"text": LONG[:1]}, "negative": {"text": LONG[:1]}},
        sigmas=[1.0, 0.0],
        prediction_type="flow",
        executor="batched",
    )
    x, table = torch.zeros(2, 5), torch.ones(7, 3)
    run.step(0, x, StackedDenoiser(model, {"sigma": torch.ones(1), "table": table, "x": x}, sample="x"))
    assert seen[0]["x"].shape == (4, 5)
    assert seen[0]["table"].shape == (7, 3)
    assert seen[0]["text"].shape == (4, 4, 3)


def test_nested_inputs_are_stacked_inside():
    def nested(text):
        return {"text": text, "more": {"pooled": text[:, 0], "sizes": [text[:, 0, :1], 8]}}

    inputs, _ = step(nested(LONG), nested(2 * LONG))
    assert torch.equal(inputs["more"]["pooled"], torch.cat([LONG[:, 0], 2 * LONG[:, 0]]))
    assert inputs["more"]["sizes"][0].shape == (4, 1)
    assert inputs["more"]["sizes"][1] == 8


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        (LONG[:, :, :2], LONG, "shapes .2, 4, 2., .2, 4, 3."),
        (SHORT, LONG, r"where lengths differ, name its mask with StackedDenoiser\(pad=...\)"),
        (torch.ones(3, 4, 3), LONG, "input 'text' of branch 'cond' has 3 rows; the sample has 2"),
        (None, LONG, "input 'text' differs between branches and is not a tensor of rows"),
        (torch.tensor(1.0), torch.tensor(2.0), "input 'text' differs between branches"),
        (torch.ones(2).numpy(), torch.zeros(2).numpy(), "input 'text' differs between branches"),
    ],
)
def test_what_cannot_be_stacked_is_named(one, other, says):
    for given in ({}, {"pad": {"text": "mask"}}) if "lengths" not in says else ({},):
        with pytest.raises(DenoiserError, match=says if not given else r"input|inputs are"):
            step({"text": one}, {"text": other}, **given)
