"""TCFG with a singular value decomposition."""

import torch
from hypothesis import strategies as st

from guidance_plugins import TCFG
from oracles import Oracle


def formula(facts, predictions, scale):
    c, u = predictions["cond"], predictions["uncond"]
    rows = torch.stack([c.flatten(1), u.flatten(1)], dim=1)
    v = torch.linalg.svd(rows, full_matrices=False).Vh[:, :1]
    kept = (rows[:, 1:] @ v.mT @ v).reshape(u.shape)
    return c + (scale - 1) * (c - kept)


ORACLE = Oracle(
    stack=lambda scale: [TCFG(scale)],
    formula=formula,
    parameters=st.fixed_dictionaries({"scale": st.floats(0.5, 12)}),
    differs="diffusers decomposes the matrix in float32, and is further from the formula than the inner products.",
)
