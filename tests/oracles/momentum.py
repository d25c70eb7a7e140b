"""Momentum guidance after CFG, on velocities or on x0."""

from hypothesis import strategies as st

from guidance_plugins import CFG, Momentum
from oracles import Oracle


def formula(facts, predictions, scale, alpha, beta, space):
    x0 = predictions["uncond"] + scale * (predictions["cond"] - predictions["uncond"])
    g = x0 if space == "x0" else (facts.x - x0) / facts.sigma
    m = facts.memory.get("m", g)
    facts.memory["m"] = beta * m + (1 - beta) * g
    g = g + alpha * (g - m)
    return g if space == "x0" else facts.x - facts.sigma * g


ORACLE = Oracle(
    stack=lambda scale, **given: [CFG(scale), Momentum(**given)],
    formula=formula,
    parameters=st.fixed_dictionaries(
        {
            "scale": st.floats(0.5, 12),
            "alpha": st.sampled_from([0.0, 0.5, 1.5]),
            "beta": st.sampled_from([0.0, 0.6, 0.95]),
            "space": st.sampled_from(["flow", "x0"]),
        }
    ),
    units=64,
)
