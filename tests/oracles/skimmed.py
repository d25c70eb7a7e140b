"""Skimmed guidance, element by element as its code has it."""

import torch
from hypothesis import strategies as st

from guidance_plugins import Skimmed
from oracles import Oracle


def mask(x, a, b, scale):
    g = b + scale * (a - b)
    return ((a - b).sign() == a.sign()) & (a.sign() == g.sign()) & (g.sign() == (g - x).sign())


def formula(facts, predictions, scale, skim):
    x, c, u = facts.x, predictions["cond"], predictions["uncond"]
    w = (skim - 1) / (scale - 1)
    u = torch.where(mask(x, c, u, scale), c * (1 - w) + u * w, u)
    u = torch.where(mask(x, u, c, scale), c * (1 - w) + u * w, u)
    return u + scale * (c - u)


ORACLE = Oracle(
    stack=lambda **given: [Skimmed(**given)],
    formula=formula,
    parameters=st.fixed_dictionaries({"scale": st.floats(1.5, 12), "skim": st.sampled_from([0.0, 1.0, 3.0, 5.0])}),
    aside=0.02,
)
