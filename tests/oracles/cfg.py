"""Classifier-free guidance."""

from hypothesis import strategies as st

from guidance_plugins import CFG
from oracles import Oracle


def formula(facts, predictions, scale):
    c, u = predictions["cond"], predictions["uncond"]
    return c + (scale - 1) * (c - u)


ORACLE = Oracle(
    stack=lambda scale: [CFG(scale)],
    formula=formula,
    parameters=st.fixed_dictionaries({"scale": st.floats(-2, 12)}),
)
