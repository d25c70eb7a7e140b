"""TAG as the paper has it: on a step of Euler's method."""

from hypothesis import strategies as st

from guidance_plugins import CFG, TAG
from oracles import Oracle, inner


def formula(facts, predictions, scale, eta):
    x, h = facts.x, facts.next_sigma - facts.sigma
    move = h * (predictions["uncond"] + scale * (predictions["cond"] - predictions["uncond"]))
    along = inner(move, x) / inner(x, x) * x
    return (along + eta * (move - along)) / h


ORACLE = Oracle(
    stack=lambda scale, eta: [CFG(scale), TAG(eta)],
    formula=formula,
    parameters=st.fixed_dictionaries({"scale": st.floats(0.5, 12), "eta": st.sampled_from([0.5, 1.0, 1.15, 1.5])}),
    prediction_type="flow",
)
