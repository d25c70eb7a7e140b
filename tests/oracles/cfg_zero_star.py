"""CFG-Zero*."""

from hypothesis import strategies as st

from guidance_plugins import CFGZeroStar
from oracles import Oracle, inner


def formula(facts, predictions, scale, zero_steps):
    c, u = predictions["cond"], predictions["uncond"]
    if facts.index < zero_steps:
        return 0 * c
    return c + (scale - 1) * (c - inner(c, u) / (inner(u, u) + 1e-8) * u)


ORACLE = Oracle(
    stack=lambda scale, zero_steps: [CFGZeroStar(scale, zero_steps=zero_steps)],
    formula=formula,
    parameters=st.fixed_dictionaries({"scale": st.floats(1.1, 12), "zero_steps": st.integers(0, 2)}),
)
