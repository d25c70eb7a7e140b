"""MaMBo-G."""

import torch
from hypothesis import strategies as st

from guidance_plugins import MamboG
from oracles import Oracle, norm


def formula(facts, predictions, scale, alpha):
    c, u = predictions["cond"], predictions["uncond"]
    return c + (scale - 1) * torch.exp(-alpha * norm(c - u) / norm(u)) * (c - u)


ORACLE = Oracle(
    stack=lambda scale, alpha: [MamboG(scale, alpha)],
    formula=formula,
    parameters=st.fixed_dictionaries({"scale": st.floats(0.5, 12), "alpha": st.sampled_from([0.0, 2.0, 8.0])}),
)
