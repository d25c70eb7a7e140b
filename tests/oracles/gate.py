"""The gate, over classifier-free guidance."""

from hypothesis import strategies as st

from guidance_plugins import CFG, Gate
from oracles import Oracle


def formula(facts, predictions, scale, lo):
    c = predictions["cond"]
    is_inside = facts.index / facts.count >= lo
    if not is_inside or "delta" not in facts.memory:
        facts.memory["delta"] = (scale - 1) * (c - predictions["uncond"])
    return c + facts.memory["delta"]


ORACLE = Oracle(
    stack=lambda scale, lo: [CFG(scale), Gate(lo=lo)],
    formula=formula,
    parameters=st.fixed_dictionaries({"scale": st.floats(1.1, 12), "lo": st.sampled_from([0.0, 0.25, 0.3, 0.5, 0.75])}),
)
