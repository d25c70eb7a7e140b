"""CFG in either order of its operations; that it rounds as an engine does is compared with the engine."""

from hypothesis import strategies as st

from guidance_plugins import RoundedCFG
from oracles import Oracle


def formula(facts, predictions, scale, order):
    c, u = predictions["cond"], predictions["uncond"]
    return u + scale * (c - u) if order == "difference" else scale * c + (1 - scale) * u


ORACLE = Oracle(
    stack=lambda **given: [RoundedCFG(**given)],
    formula=formula,
    parameters=st.fixed_dictionaries(
        {"scale": st.floats(1.1, 12), "order": st.sampled_from(["difference", "weights"])}
    ),
    units=32,
)
