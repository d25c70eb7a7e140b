"""CFG++ as the paper has it: a step of Euler's method with guided x0 and the noise of u."""

from hypothesis import strategies as st

from guidance_plugins import CFGPlusPlus
from oracles import Oracle


def formula(facts, predictions, weight):
    x, c, u = facts.x, predictions["cond"], predictions["uncond"]  # velocities
    x0 = [x - facts.sigma * v for v in (u, c)]
    noise = x + (1 - facts.sigma) * u
    moved = (1 - facts.next_sigma) * (x0[0] + weight * (x0[1] - x0[0])) + facts.next_sigma * noise
    return (moved - x) / (facts.next_sigma - facts.sigma)


ORACLE = Oracle(
    stack=lambda weight: [CFGPlusPlus(weight)],
    formula=formula,
    parameters=st.fixed_dictionaries({"weight": st.floats(0, 1)}),
    prediction_type="flow",
)
