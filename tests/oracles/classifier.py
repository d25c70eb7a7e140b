"""Classifier guidance, with a classifier whose gradient is known: in flow space − s·σ/α·∇ log p."""

import torch
from hypothesis import strategies as st

from guidance_plugins import Classifier
from oracles import Oracle


def log_prob(x, sigma):
    return -(torch.sin(x) / (1 + sigma)).flatten(1).sum(1)


def formula(facts, predictions, scale):
    if facts.sigma == 1:
        return predictions["cond"]
    gradient = -torch.cos(facts.x) / (1 + facts.sigma)
    return predictions["cond"] - scale * facts.sigma / (1 - facts.sigma) * gradient


ORACLE = Oracle(
    stack=lambda scale: [Classifier(log_prob, scale)],
    formula=formula,
    parameters=st.fixed_dictionaries({"scale": st.floats(-2, 12)}),
    branches=("cond",),
    prediction_type="flow",
)
